"""Networks small enough for tests, and whole ones without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anomaly_suite.nn.deeplab import DeepLabNetwork, wide_resnet38


@pytest.fixture
def tiny() -> Callable[..., DeepLabNetwork]:
    def make(**options: Any) -> DeepLabNetwork:
        return DeepLabNetwork(**{"backbone": "resnet10t", "num_classes": 5, "width": 8, **options})

    return make


@pytest.fixture
def on_meta() -> Callable[..., DeepLabNetwork]:
    def make(**options: Any) -> DeepLabNetwork:
        with torch.device("meta"):
            return DeepLabNetwork(**options)

    return make


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """WideResNet38 with a 32nd of its channels."""
    stages = {
        name: (blocks, tuple(width // 32 for width in channels), *rest)
        for name, (blocks, channels, *rest) in wide_resnet38.STAGES.items()
    }
    monkeypatch.setattr(wide_resnet38, "STAGES", stages)
