from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.video.frame_average import FrameAverage


def test_is_the_mean_of_the_image_network() -> None:
    net = FrameAverage("resnet18")
    clip = torch.rand(2, 3, 4, 32, 32)
    reference = timm.create_model("resnet18", num_classes=0).eval()
    reference.load_state_dict({key.removeprefix("net.net."): value for key, value in net.state_dict().items()})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        frames = [reference((clip[:, :, t] - mean.view(3, 1, 1)) / std.view(3, 1, 1)) for t in range(clip.shape[2])]
    torch.testing.assert_close(net(clip), torch.stack(frames).mean(0), rtol=1e-3, atol=1e-5)


def test_geometry_is_that_of_the_image_network() -> None:
    assert (FrameAverage("resnet18").resize, FrameAverage("resnet18").crop) == ((256, 256), (224, 224))


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pt")
    clip = torch.rand(1, 3, 2, 32, 32)
    nets = [FrameAverage("resnet18") for _ in range(2)]
    assert not torch.equal(nets[0](clip), nets[1](clip))
    for net in nets:
        net.load_weights(str(tmp_path / "w.pt"))
    assert torch.equal(nets[0](clip), nets[1](clip))


def test_unknown_network() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
        FrameAverage("resnet81")
