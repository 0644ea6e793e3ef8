"""Video networks without weights, and what comes out of their layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from anomaly_suite.nn.video import VideoBackbone


def _on_meta(cls: type[VideoBackbone]) -> VideoBackbone:
    with torch.device("meta"):
        return cls()


def _shapes(net: VideoBackbone, names: list[str], frames: int = 16) -> dict[str, tuple[int, ...]]:
    """What comes out of some layers for one clip of the network's own size, without computing anything."""
    seen: dict[str, tuple[int, ...]] = {}
    for name in names:
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, tuple(out.shape[1:]))
        )
    seen[""] = tuple(net(torch.empty(1, 3, frames, *net.crop, device="meta")).shape[1:])
    return seen


@pytest.fixture
def on_meta() -> Callable[[type[VideoBackbone]], VideoBackbone]:
    return _on_meta


@pytest.fixture
def shapes() -> Callable[..., dict[str, tuple[int, ...]]]:
    return _shapes
