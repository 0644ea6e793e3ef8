"""Sections 3, 6 and 7 of CutPaste's card."""

from __future__ import annotations

import math

import pytest
import torch

from anomaly_suite.augment import pasted
from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.pasted import paste_patch, paste_scar

NO_JITTER = (0.0, 0.0, 0.0, 0.0)


def draws(seed: int = 0) -> GeneratorDraws:
    return GeneratorDraws(torch.Generator().manual_seed(seed))


def test_areas_and_ratios_of_patches() -> None:
    image = torch.rand(300, 1, 96, 64)
    out, inside = paste_patch(image, draws())
    assert out.shape == image.shape
    assert torch.equal(out[~inside], image[~inside])
    height, width = (inside.any(dim).sum(2).flatten() for dim in (3, 2))
    assert torch.equal(height * width, inside.flatten(1).sum(1))  # upright rectangles
    area, ratio = height * width / (96 * 64), (height / width).log()
    assert area.min() > 0.02 - 0.005
    assert area.max() < 0.15 + 0.02
    assert area.mean() == pytest.approx(0.085, abs=0.01)
    assert ratio.abs().max() < math.log(1 / 0.3) + 0.1
    assert ratio.mean() == pytest.approx(0, abs=0.15)


def test_a_patch_is_a_moved_rectangle_of_its_image() -> None:
    image = torch.arange(40 * 30, dtype=torch.float32).view(1, 1, 40, 30).expand(64, -1, -1, -1) / 1200
    out, inside = paste_patch(image, draws(), colours=NO_JITTER)
    for before, after, where in zip(image[:, 0], out[:, 0], inside[:, 0], strict=True):
        row, column = where.nonzero().unbind(1)
        source = (after[where] * 1200).round().long()
        down, right = source // 30 - row, source % 30 - column
        assert len(down.unique()) == len(right.unique()) == 1  # one and the same move
        sides = torch.tensor([len(row.unique()), len(column.unique())])
        assert (torch.stack([down[0], right[0]]).abs() / sides).max() >= pasted.DISPLACEMENT
        assert before.shape == after.shape


def test_scars_are_turned_and_bring_no_corners() -> None:
    image = torch.rand(400, 3, 64, 64)
    out, inside = paste_scar(image, draws())
    kept = ~inside.expand_as(image)
    assert torch.equal(out[kept], image[kept])
    area = inside.flatten(1).sum(1)
    assert area.max() <= 25 * 16 * 1.2
    box = inside.any(3).sum(2).flatten() * inside.any(2).sum(2).flatten()
    assert (box > 1.3 * area).float().mean() > 0.5  # most lie across their boxes
    plain = torch.ones(8, 3, 64, 64)  # turned by interpolation, whose weights add up to 1 but for rounding
    torch.testing.assert_close(paste_scar(plain, draws(), colours=NO_JITTER)[0], plain)


def test_colours_of_a_piece_change_on_a_plain_image() -> None:
    image = torch.full((16, 3, 32, 32), 0.5)
    out, inside = paste_patch(image, draws())
    assert (out - image).abs().amax((1, 2, 3)).min() > 0
    assert (out - image)[inside.expand_as(image)].abs().max() < 0.2


def test_the_seed_decides() -> None:
    image = torch.rand(4, 3, 32, 32)
    assert torch.equal(paste_scar(image, draws(1))[0], paste_scar(image, draws(1))[0])
    assert not torch.equal(paste_scar(image, draws(1))[0], paste_scar(image, draws(2))[0])
