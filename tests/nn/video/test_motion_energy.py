from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_suite.nn.video.motion_energy import MotionEnergy


def motion_by_hand(clip: Tensor) -> np.ndarray[Any, Any]:
    """The 256 values of one clip (3, T, H, W), cell by cell; H and W are multiples of the grid."""
    weights = np.array([0.299, 0.587, 0.114])
    grey = 255 * np.einsum("cthw,c->thw", clip.double().numpy(), weights)
    frames, height, width = grey.shape
    one = np.stack([grey[t + 1] - grey[t] for t in range(frames - 1)])
    edge = np.stack([(grey[t + 1] + grey[t]) / 2 for t in range(frames - 1)])
    energies = [
        one**2,
        np.stack([grey[t + 2] - grey[t] for t in range(frames - 2)]) ** 2,
        np.stack([grey[t + 4] - grey[t] for t in range(frames - 4)]) ** 2,
        np.stack([one[t + 1] - one[t] for t in range(frames - 2)]) ** 2,
        np.gradient(one, axis=2) ** 2,
        np.gradient(one, axis=1) ** 2,
        np.abs(one * np.gradient(edge, axis=2)),
        np.abs(one * np.gradient(edge, axis=1)),
    ]
    values: list[float] = []
    h, w = height // 8, width // 12
    for energy in energies:
        for row in range(8):
            cells = [energy[:, row * h : (row + 1) * h, col * w : (col + 1) * w].mean() for col in range(12)]
            values += sorted(cells, reverse=True)[:4]
    return np.array(values)


def test_equals_a_loop_over_cells() -> None:
    clip = torch.rand(2, 3, 6, 16, 36)
    found = MotionEnergy()(clip)
    for feature, one in zip(found, clip, strict=True):
        np.testing.assert_allclose(feature.numpy(), motion_by_hand(one), rtol=1e-4)


def test_a_still_video_has_none() -> None:
    clip = torch.rand(1, 3, 1, 120, 180).expand(-1, -1, 16, -1, -1)
    assert torch.equal(MotionEnergy()(clip), torch.zeros(1, 256))


def test_knows_the_row_and_not_the_column() -> None:
    def moving(row: int, column: int) -> Tensor:
        """A bright square that flickers in one cell of the grid."""
        clip = torch.zeros(1, 3, 16, 120, 180)
        clip[:, :, ::2, row * 15 + 4 : row * 15 + 11, column * 15 + 4 : column * 15 + 11] = 1
        return MotionEnergy()(clip)

    assert torch.equal(moving(2, 3), moving(2, 8))
    assert not torch.allclose(moving(2, 3), moving(5, 3))
    assert moving(2, 3).view(8, 8, 4)[:, :, 0].nonzero()[:, 1].unique().tolist() == [2]


def test_motion_energy() -> None:
    clip = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1, 1)
    assert float(MotionEnergy().normalize(clip)) == pytest.approx(255 * (0.299 + 0.057))
