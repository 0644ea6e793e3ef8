from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anomaly_suite.errors import ShapeError
from anomaly_suite.nn.video.c3d import C3D


def test_stages_of_c3d(on_meta: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    assert shapes(on_meta(C3D), ["conv2", "conv3b", "conv5b"]) == {
        "conv2": (128, 16, 56, 56),
        "conv3b": (256, 8, 28, 28),
        "conv5b": (512, 2, 7, 7),
        "": (4096,),
    }


def test_c3d_is_finite_and_positive() -> None:
    net = C3D()
    feature = net(torch.rand(1, 3, 16, 112, 112))
    assert feature.shape == (1, 4096)
    assert bool(feature.isfinite().all())
    assert float(feature.min()) == 0.0
    assert 0.2 < float((feature > 0).float().mean()) < 0.8


def test_c3d_refuses_other_clips(on_meta: Callable[..., Any]) -> None:
    with pytest.raises(ShapeError, match=r"16 frames of 112 x 112 pixels; got \(1, 3, 17, 112, 112\)"):
        on_meta(C3D)(torch.empty(1, 3, 17, 112, 112, device="meta"))


def test_c3d_turns_rgb_to_bgr() -> None:
    clip = (torch.tensor([10.0, 20.0, 30.0]) / 255).view(1, 3, 1, 1, 1)
    expected = [30 - 90.25, 20 - 97.66, 10 - 101.41]
    assert C3D().normalize(clip).flatten().tolist() == pytest.approx(expected, abs=1e-4)
