from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomaly_suite.augment import structural as augment
from anomaly_suite.errors import ShapeError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(64, 3, 28, 28, generator=generator(1))


@pytest.mark.parametrize("name", ["puzzle", "rotate90", "rotate270"])
def test_moves_keep_the_multiset_of_pixels(name: str, image: Tensor) -> None:
    out = getattr(augment, name)(image, generator())
    assert torch.equal(out.flatten(2).sort(-1).values, image.flatten(2).sort(-1).values)
    assert not torch.equal(out, image)


def test_rotations_undo_each_other(image: Tensor) -> None:
    assert torch.equal(augment.rotate270(augment.rotate90(image)), image)


@pytest.mark.parametrize("size", [28, 27])
def test_puzzle_is_never_the_identity_and_leaves_the_odd_edge(size: int) -> None:
    quarters = torch.arange(float(size * size)).view(1, 1, size, size).expand(500, -1, -1, -1)
    out = augment.puzzle(quarters, generator())
    assert (out != quarters).flatten(1).any(1).all()
    assert torch.equal(out[..., 2 * (size // 2) :, :], quarters[..., 2 * (size // 2) :, :])


def test_mix_up_stays_in_range_and_keeps_symmetric_images(image: Tensor) -> None:
    out = augment.mix_up(image, generator())
    assert out.min() >= 0
    assert out.max() <= 1
    symmetric = sum(torch.rot90(image, k, (2, 3)) for k in range(4)) / 4
    assert torch.allclose(augment.mix_up(symmetric, generator()), symmetric, atol=1e-6)


def test_the_rotated_part_of_a_mix_weighs_three_to_seven_tenths() -> None:
    corner = torch.zeros(4000, 1, 4, 4)
    corner[:, :, 0, 0] = 1  # which a rotation empties
    kept = augment.mix_up(corner, generator())[:, 0, 0, 0]
    assert 0.3 <= kept.min() < 0.301
    assert 0.699 < kept.max() <= 0.7
    assert kept.mean() == pytest.approx(0.5, abs=0.01)


def test_cut_paste_changes_one_rectangle_whose_content_is_found_elsewhere(image: Tensor) -> None:
    out = augment.cut_paste(image, generator())
    for before, after in zip(image, out, strict=True):
        rows, columns = (after != before).any(0).nonzero(as_tuple=True)
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        patch = after[:, top:bottom, left:right]
        height, width = patch.shape[1:]
        assert 0.2 * 28 - 1 <= height <= 0.5 * 28
        assert 0.2 * 28 - 1 <= width <= 0.5 * 28
        windows = before.unfold(1, height, 1).unfold(2, width, 1)  # C y x h w
        same = (windows == patch[:, None, None]).all(0).flatten(2).all(2).nonzero()
        assert len(same) == 1
        shift = (same[0] - torch.stack([top, left])).abs().max()
        assert shift >= augment.MIN_SHIFT


def test_blank_copies_are_drawn_again() -> None:
    # A bright corner on black: most cut-pastes move black onto black.
    image = torch.zeros(200, 1, 28, 28)
    image[..., :10, :10] = 1
    once = augment.cut_paste(image, generator())
    often = augment.pseudo_anomaly(image, generator(), ["cut_paste"])

    def unchanged(out: Tensor) -> float:
        return float(((out - image).abs().mean((1, 2, 3)) < augment.MIN_CHANGE).float().mean())

    assert unchanged(once) > 0.2
    assert unchanged(often) < unchanged(once) ** 3


def test_each_operation_occurs_and_draws_are_repeatable(image: Tensor) -> None:
    first = augment.pseudo_anomaly(image[:1].expand(200, -1, -1, -1), generator())
    assert torch.equal(first, augment.pseudo_anomaly(image[:1].expand(200, -1, -1, -1), generator()))
    one = image[0]
    turned = [torch.rot90(one, k, (1, 2)) for k in (1, 3)]
    kinds = [(first == item).flatten(1).all(1) for item in turned]
    changed = (first != one).any(1).flatten(1).float().mean(1)
    small = changed < 0.3  # cut-paste touches at most a quarter of the pixels
    same_pixels = (first.flatten(1).sort(1).values == one.flatten().sort().values).all(1)
    puzzled = same_pixels & ~kinds[0] & ~kinds[1]
    mixed = ~small & ~same_pixels
    for mask in (*kinds, small, puzzled, mixed):
        assert 20 <= mask.sum() <= 65  # 200 draws over five operations


def test_rotation_of_a_rectangle_names_the_way_out() -> None:
    with pytest.raises(ShapeError, match="leave rotate90"):
        augment.rotate90(torch.rand(1, 1, 4, 6))


def test_small_images_still_change() -> None:
    image = torch.rand(50, 1, 6, 6, generator=generator(3))
    assert (augment.cut_paste(image, generator()) != image).flatten(1).any(1).all()


def test_coefficients_of_mix_up_and_cut_paste_are_options(image: Tensor) -> None:
    out = augment.mix_up(image, generator(), share=(0.25, 0.25))
    either = [torch.lerp(image, torch.rot90(image, k, (2, 3)), 0.25) for k in (1, 3)]
    fits = torch.stack([(out - each).abs().amax((1, 2, 3)) < 1e-6 for each in either])
    assert fits.any(0).all()
    assert fits.any(1).all()
    changed = (augment.cut_paste(image, generator(), share=(0.6, 0.6)) != image).any(1)
    assert (changed.any(2).sum(1) <= 16).all()  # 0.6 * 28, rounded down
    assert (changed.any(2).sum(1) >= 12).all()  # a side may overlap its source
    same = augment.pseudo_anomaly(
        image, generator(), ["mix_up", "cut_paste"], mix_share=(0.3, 0.7), cut_share=(0.2, 0.5)
    )
    assert torch.equal(same, augment.pseudo_anomaly(image, generator(), ["mix_up", "cut_paste"]))
    other = augment.pseudo_anomaly(image, generator(), ["mix_up"], mix_share=(0.25, 0.25))
    assert torch.stack([(other - each).abs().amax((1, 2, 3)) < 1e-6 for each in either]).any(0).all()


def test_an_operation_named_twice_is_drawn_twice_as_often(image: Tensor) -> None:
    one = image[:1].expand(300, -1, -1, -1)
    out = augment.pseudo_anomaly(one, generator(), ["rotate90", "rotate90", "rotate270"])
    assert 170 <= int((out == torch.rot90(one, 1, (2, 3))).flatten(1).all(1).sum()) <= 230


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_torchs(turns: int) -> None:
    image = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment.quarter_turned(image, turns), torch.rot90(image, turns, (2, 3)))
