"""Patches and which of them are seen: exact inverses, the published layouts, draws of equal chance."""

from __future__ import annotations

import math

import pytest
import torch

from anomaly_suite.nn.patch_tokens import (
    draw_visible,
    hidden,
    patchify,
    put_back,
    sine_cosine_positions,
    take_visible,
    unpatchify,
)


def test_patches_are_cut_and_joined() -> None:
    image = torch.rand(2, 3, 224, 224)
    patches = patchify(image, 16)
    assert patches.shape == (2, 196, 768)
    assert torch.equal(unpatchify(patches, 16, (14, 14)), image)
    wide = torch.rand(1, 2, 8, 12)
    assert torch.equal(unpatchify(patchify(wide, 4), 4, (2, 3)), wide)


def test_pixels_of_a_patch_have_the_published_order() -> None:
    image = torch.arange(2 * 8 * 12.0).view(1, 2, 8, 12)
    patches = patchify(image, 4)
    # Patch 4 is row 1, column 1; pixel (2, 3) of it, channel 1, is the number (2 * 4 + 3) * 2 + 1 of 32.
    assert patches[0, 4, (2 * 4 + 3) * 2 + 1] == image[0, 1, 4 + 2, 4 + 3]


def test_positions_are_those_of_the_formula() -> None:
    table = sine_cosine_positions(16, (3, 5))
    assert table.shape == (15, 16)
    assert table.dtype == torch.float32
    row, column = 2, 3
    rates = [10_000 ** (-i / 4) for i in range(4)]
    expected = [wave(place * rate) for place in (column, row) for wave in (math.sin, math.cos) for rate in rates]
    torch.testing.assert_close(table[row * 5 + column], torch.tensor(expected))


def test_a_quarter_is_seen_and_every_patch_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    visible = draw_visible(4000, 196, 49, generator=generator)
    assert visible.shape == (4000, 49)
    assert all(len(set(row.tolist())) == 49 for row in visible[:20])
    share = visible.flatten().bincount(minlength=196) / 4000
    assert (share - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)
    assert torch.equal(visible, draw_visible(4000, 196, 49, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("seen", [3, 8])
def test_what_was_taken_is_put_back(seen: int) -> None:
    tokens, filler = torch.rand(5, 8, 4), torch.full((1, 1, 4), -1.0)
    visible = draw_visible(5, 8, seen, generator=torch.Generator().manual_seed(1))
    restored = put_back(take_visible(tokens, visible), visible, filler, 8)
    is_hidden = hidden(visible, 8)
    assert is_hidden.sum(1).tolist() == [8 - seen] * 5
    assert torch.equal(restored, torch.where(is_hidden.bool().unsqueeze(2), filler, tokens))
