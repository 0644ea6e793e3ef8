from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anomaly_suite.nn.video.inception_i3d import InceptionI3D, _pad_same


def test_stages_of_inception_i3d(on_meta: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    stages = ["Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c"]
    assert shapes(on_meta(InceptionI3D), stages) == {
        "Conv3d_1a_7x7": (64, 8, 112, 112),
        "Conv3d_2c_3x3": (192, 8, 56, 56),
        "Mixed_3c": (480, 8, 28, 28),
        "Mixed_4f": (832, 4, 14, 14),
        "Mixed_5c": (1024, 2, 7, 7),
        "": (1024,),
    }


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [(224, 7, 2, (2, 3)), (56, 3, 2, (0, 1)), (57, 3, 2, (1, 1)), (28, 3, 1, (1, 1)), (14, 2, 2, (0, 0))],
)
def test_padding_is_that_of_tensorflow(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    padded = _pad_same(torch.ones(1, 1, 1, 1, size), (1, 1, kernel), (1, 1, stride))[0, 0, 0, 0]
    assert padded.tolist() == [0.0] * pads[0] + [1.0] * size + [0.0] * pads[1]


def test_inception_i3d(on_meta: Callable[..., Any]) -> None:
    clip = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1, 1)
    assert on_meta(InceptionI3D).normalize(clip).flatten().tolist() == [-1.0, 0.0, 1.0]
