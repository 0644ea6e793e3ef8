from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from anomaly_suite.nn.video.i3d_resnet50 import I3DResNet50


def test_stages_of_i3d_resnet50(on_meta: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert shapes(on_meta(I3DResNet50), stages) == {
        "conv1": (64, 8, 112, 112),
        "layer1": (256, 4, 55, 55),
        "layer2": (512, 2, 28, 28),
        "layer3": (1024, 2, 14, 14),
        "layer4": (2048, 2, 7, 7),
        "": (2048,),
    }


def test_i3d_is_resnet50_for_weights_without_time() -> None:
    """Kernels that look at one frame only, on a still video: torchvision's network, but for its padded pooling."""
    image_net = torchvision.models.resnet50(weights=None).eval()
    image_net.maxpool, image_net.fc = nn.MaxPool2d(3, stride=2), nn.Identity()
    for module in image_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    net = I3DResNet50()
    flat = image_net.state_dict()
    state = {}
    for name, value in net.state_dict().items():
        assert name in flat
        if value.ndim == 5:
            inflated = torch.zeros_like(value)
            inflated[:, :, value.shape[2] // 2] = flat[name]
            state[name] = inflated
        else:
            state[name] = flat[name]
    net.load_state_dict(state)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = image_net((image - 0.45) / 0.225)
        found = net(image.unsqueeze(2).expand(-1, -1, 16, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("value", "expected"), [(114.75, 0.0), (0.0, -2.0), (255.0, 2.4444)])
def test_i3d_resnet50(on_meta: Callable[..., Any], value: float, expected: float) -> None:
    clip = torch.full((1, 3, 1, 1, 1), value / 255)
    assert on_meta(I3DResNet50).normalize(clip).flatten().tolist() == pytest.approx([expected] * 3, abs=1e-4)
