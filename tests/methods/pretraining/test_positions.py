from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.errors import ShapeError
from anomaly_suite.methods.pretraining.positions import DIRECTIONS, PatchPairs, PositionHead, position_pairs


def pairs(image: Tensor, *, size: int = 32, count: int = 4000) -> PatchPairs:
    return position_pairs(image, GeneratorDraws(Generator().manual_seed(0)), size=size, count=count)


def test_pairs_lie_in_the_image_and_in_the_direction_of_their_label() -> None:
    found = pairs(torch.rand(3, 1, 70, 96))
    assert found.corners.amin() >= 0
    assert (found.corners.amax((0, 1)) <= torch.tensor([38, 64])).all()
    offset = found.corners[1] - found.corners[0]
    assert torch.equal(offset.sign(), torch.tensor(DIRECTIONS)[found.label])
    assert set(offset.abs().flatten().tolist()) == {0, *range(24, 32)}
    assert torch.bincount(found.label).min() > 400
    mirrored = [DIRECTIONS.index((-row, -column)) for row, column in DIRECTIONS]
    assert mirrored == [7 - p for p in range(8)]


def test_patches_are_those_of_the_corners_jittered_alike() -> None:
    image = torch.linspace(0.45, 0.55, 64 * 64).view(1, 1, 64, 64)
    found = pairs(image, size=16, count=20)
    for number in range(20):
        cut = [image[0, :, row : row + 16, column : column + 16] for row, column in found.corners[:, number].tolist()]
        # Without a jitter of the mean the same factors hold: a patch's mean is scaled by the brightness alone.
        ratio = [patch[number].mean() / part.mean() for patch, part in zip(found[:2], cut, strict=True)]
        torch.testing.assert_close(ratio[0], ratio[1], atol=1e-3, rtol=0)
        torch.testing.assert_close(
            (found.first[number] - found.first[number].mean()) / (found.second[number] - found.second[number].mean()),
            (cut[0] - cut[0].mean()) / (cut[1] - cut[1].mean()), atol=1e-2, rtol=1e-2,
        )  # fmt: skip


def test_the_head_has_eight_answers_and_its_input_a_sign() -> None:
    head = PositionHead(6)
    first, second = torch.randn(2, 3, 6)
    assert head(first - second).shape == (3, 8)
    assert not torch.allclose(head(first - second), head(second - first))


def test_an_image_too_small_for_a_pair() -> None:
    assert pairs(torch.rand(1, 3, 63, 63), count=8).first.shape == (8, 3, 32, 32)
    with pytest.raises(ShapeError, match=r"at least 63 pixels for patches of 32; got \(1, 3, 63, 62\)"):
        pairs(torch.rand(1, 3, 63, 62))
