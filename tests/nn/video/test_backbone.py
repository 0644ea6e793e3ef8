from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly_suite.errors import ShapeError, WeightsError
from anomaly_suite.nn.video import C3D, FrameAverage, I3DResNet50, InceptionI3D, MotionEnergy, VideoBackbone


def lively(net: VideoBackbone) -> VideoBackbone:
    """The network with weights that keep the size of its activations; PyTorch's own let them die out with depth."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return net


@pytest.fixture(scope="module", params=["I3DResNet50", "InceptionI3D", "FrameAverage", "MotionEnergy"])
def net(request: Any) -> VideoBackbone:
    torch.manual_seed(0)
    if request.param == "FrameAverage":
        return FrameAverage("resnet18")
    return lively(
        {"I3DResNet50": I3DResNet50, "InceptionI3D": InceptionI3D, "MotionEnergy": MotionEnergy}[request.param]()
    )


class Small(VideoBackbone):
    """Stands for a big network where only the reading of weights matters."""

    feature_dim, resize, crop, normalization, classifier = 2, (4, 4), (4, 4), "none", ("fc.",)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(2)

    def normalize(self, clip: Tensor) -> Tensor:
        return clip

    def features(self, clip: Tensor) -> Tensor:
        return self.bn1(self.conv1(clip)).mean((2, 3, 4))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("cls", "weights"), [(I3DResNet50, 27_223_872), (C3D, 61_214_464), (InceptionI3D, 12_287_264)])
def test_number_of_weights(on_meta: Callable[..., Any], cls: type[VideoBackbone], weights: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(cls).parameters()) == weights


@pytest.mark.parametrize("frames", [16, 17, 32])
@pytest.mark.parametrize("cls", [I3DResNet50, InceptionI3D])
def test_other_numbers_of_frames_give_the_same_width(
    on_meta: Callable[..., Any], shapes: Callable[..., Any], cls: type[VideoBackbone], frames: int
) -> None:
    net = on_meta(cls)
    assert shapes(net, [], frames)[""] == (net.feature_dim,)


def test_bytes_are_floats_times_255(net: VideoBackbone) -> None:
    clip = torch.randint(0, 256, (1, 3, 16, 32, 48), dtype=torch.uint8)
    assert torch.equal(net(clip), net(clip.float() / 255))


class TestEveryNetwork:
    def test_finite_positive_repeatable(self, net: VideoBackbone) -> None:
        clip = torch.rand(2, 3, 16, 32, 48)
        feature = net(clip)
        assert feature.shape == (2, net.feature_dim)
        assert feature.dtype == torch.float32
        assert bool(feature.isfinite().all())
        assert float(feature.min()) >= 0
        assert bool((feature > 0).any(1).all())
        assert torch.equal(feature, net(clip))

    def test_a_feature_does_not_depend_on_the_batch(self, net: VideoBackbone) -> None:
        clip = torch.rand(3, 3, 16, 32, 48)
        together = net(clip)
        assert float((together[0] - together[1]).abs().max()) > 1e-4 * float(together.abs().max())
        one_by_one = torch.cat([net(part) for part in clip.split(1)])
        torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5 * float(together.abs().max()))

    def test_stays_in_evaluation_mode(self, net: VideoBackbone) -> None:
        before = {name: value.clone() for name, value in net.state_dict().items()}
        net.train()
        net(torch.rand(2, 3, 16, 32, 48))
        assert not any(module.training for module in net.modules())
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert not any(parameter.requires_grad for parameter in net.parameters())

    @pytest.mark.parametrize("shape", [(3, 16, 32, 48), (1, 1, 16, 32, 48)])
    def test_refuses_other_shapes(self, net: VideoBackbone, shape: tuple[int, ...]) -> None:
        with pytest.raises(ShapeError, match=r"clips must have the shape \(N, 3, T, H, W\); got"):
            net(torch.rand(shape))


class TestWeights:
    @pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
    @pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
    def test_wrappers_prefixes_and_classifiers(self, tmp_path: Path, wrapper: str | None, prefix: str) -> None:
        source, target = Small(), Small()
        state = source.state_dict() | {"fc.weight": torch.rand(400, 2), "fc.bias": torch.rand(400)}
        del state["bn1.num_batches_tracked"]
        state = {prefix + key: value for key, value in state.items()}
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
        target.load_weights(str(tmp_path / "w.pth"))
        assert torch.equal(target.conv1.weight, source.conv1.weight)

    def test_safetensors(self, tmp_path: Path) -> None:
        source, target = Small(), Small()
        save_file(source.state_dict(), tmp_path / "w.safetensors")
        target.load_weights(str(tmp_path / "w.safetensors"))
        assert torch.equal(target.conv1.weight, source.conv1.weight)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"conv1.weight": None, "conv_1.weight": (2, 3, 1, 1, 1)}, r"no tensor in it is named conv1\.weight \(2, 3, 1, 1, 1\); the nearest name is conv_1\.weight"),
            ({"conv1.weight": (2, 3, 3, 1, 1)}, r"conv1\.weight is \(2, 3, 3, 1, 1\) in it and \(2, 3, 1, 1, 1\) in the network"),
            ({"nl.theta.weight": (2, 2)}, r"it also holds nl\.theta\.weight \(2, 2\)"),
        ],
    )  # fmt: skip
    def test_the_first_difference_is_named(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        state = dict(Small().state_dict())
        for key, shape in change.items():
            state.pop(key, None)
            if shape:
                state[key] = torch.rand(shape)
        torch.save(state, tmp_path / "w.pth")
        net = Small()
        before = net.conv1.weight.clone()
        with pytest.raises(WeightsError, match=message):
            net.load_weights(str(tmp_path / "w.pth"))
        assert torch.equal(net.conv1.weight, before)

    def test_no_file(self) -> None:
        with pytest.raises(WeightsError, match="Small takes its weights from a file; there is none at 'nowhere'"):
            Small().load_weights("nowhere")

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        torch.save(Small(), tmp_path / "w.pth")
        with pytest.raises(WeightsError, match="must hold plain tensors"):
            Small().load_weights(str(tmp_path / "w.pth"))

    @pytest.mark.parametrize(
        ("cls", "names"),
        [
            (I3DResNet50, {"conv1.weight": (64, 3, 5, 7, 7), "layer1.0.downsample.0.weight": (256, 64, 1, 1, 1), "layer2.2.conv1.weight": (128, 512, 3, 1, 1), "layer2.3.conv1.weight": (128, 512, 1, 1, 1), "layer4.1.conv1.weight": (512, 2048, 3, 1, 1), "layer4.2.bn3.running_var": (2048,)}),
            (C3D, {"conv3b.weight": (256, 256, 3, 3, 3), "fc6.weight": (4096, 8192), "fc6.bias": (4096,)}),
            (InceptionI3D, {"Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7), "Mixed_4e.b1b.conv3d.weight": (288, 144, 3, 3, 3), "Mixed_5c.b3b.bn.running_mean": (128,)}),
        ],
    )  # fmt: skip
    def test_names_of_public_conversions(
        self, on_meta: Callable[..., Any], cls: type[VideoBackbone], names: dict[str, tuple[int, ...]]
    ) -> None:
        state = on_meta(cls).state_dict()
        assert {name: tuple(state[name].shape) for name in names} == names

    def test_a_file_of_another_network(self, on_meta: Callable[..., Any], tmp_path: Path) -> None:
        torch.save({"conv1.weight": torch.rand(64, 3, 3, 3, 3)}, tmp_path / "c3d.pth")
        with pytest.raises(WeightsError, match=r"must fit I3DResNet50, but conv1\.weight is \(64, 3, 3, 3, 3\) in it"):
            on_meta(I3DResNet50).load_weights(str(tmp_path / "c3d.pth"))
