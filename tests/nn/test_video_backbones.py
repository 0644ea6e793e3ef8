from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.nn.video_backbones import (
    C3D,
    FrameAverage,
    I3DResNet50,
    InceptionI3D,
    MotionEnergy,
    VideoBackbone,
    _pad_same,
)


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


def on_meta(cls: type[VideoBackbone]) -> VideoBackbone:
    with torch.device("meta"):
        return cls()


def shapes(net: VideoBackbone, names: list[str], frames: int = 16) -> dict[str, tuple[int, ...]]:
    """What comes out of some layers for one clip of the network's own size, without computing anything."""
    seen: dict[str, tuple[int, ...]] = {}
    for name in names:
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, tuple(out.shape[1:]))
        )
    seen[""] = tuple(net(torch.empty(1, 3, frames, *net.crop, device="meta")).shape[1:])
    return seen


class TestArchitectures:
    @pytest.mark.parametrize(
        ("cls", "weights"), [(I3DResNet50, 27_223_872), (C3D, 61_214_464), (InceptionI3D, 12_287_264)]
    )
    def test_number_of_weights(self, cls: type[VideoBackbone], weights: int) -> None:
        assert sum(parameter.numel() for parameter in on_meta(cls).parameters()) == weights

    def test_stages_of_i3d_resnet50(self) -> None:
        stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
        assert shapes(on_meta(I3DResNet50), stages) == {
            "conv1": (64, 8, 112, 112),
            "layer1": (256, 4, 55, 55),
            "layer2": (512, 2, 28, 28),
            "layer3": (1024, 2, 14, 14),
            "layer4": (2048, 2, 7, 7),
            "": (2048,),
        }

    def test_stages_of_inception_i3d(self) -> None:
        stages = ["Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c"]
        assert shapes(on_meta(InceptionI3D), stages) == {
            "Conv3d_1a_7x7": (64, 8, 112, 112),
            "Conv3d_2c_3x3": (192, 8, 56, 56),
            "Mixed_3c": (480, 8, 28, 28),
            "Mixed_4f": (832, 4, 14, 14),
            "Mixed_5c": (1024, 2, 7, 7),
            "": (1024,),
        }

    def test_stages_of_c3d(self) -> None:
        assert shapes(on_meta(C3D), ["conv2", "conv3b", "conv5b"]) == {
            "conv2": (128, 16, 56, 56),
            "conv3b": (256, 8, 28, 28),
            "conv5b": (512, 2, 7, 7),
            "": (4096,),
        }

    @pytest.mark.parametrize("frames", [16, 17, 32])
    @pytest.mark.parametrize("cls", [I3DResNet50, InceptionI3D])
    def test_other_numbers_of_frames_give_the_same_width(self, cls: type[VideoBackbone], frames: int) -> None:
        net = on_meta(cls)
        assert shapes(net, [], frames)[""] == (net.feature_dim,)

    def test_i3d_is_resnet50_for_weights_without_time(self) -> None:
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

    @pytest.mark.parametrize(
        ("size", "kernel", "stride", "pads"),
        [(224, 7, 2, (2, 3)), (56, 3, 2, (0, 1)), (57, 3, 2, (1, 1)), (28, 3, 1, (1, 1)), (14, 2, 2, (0, 0))],
    )
    def test_padding_is_that_of_tensorflow(self, size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
        padded = _pad_same(torch.ones(1, 1, 1, 1, size), (1, 1, kernel), (1, 1, stride))[0, 0, 0, 0]
        assert padded.tolist() == [0.0] * pads[0] + [1.0] * size + [0.0] * pads[1]

    def test_c3d_is_finite_and_positive(self) -> None:
        net = C3D()
        feature = net(torch.rand(1, 3, 16, 112, 112))
        assert feature.shape == (1, 4096)
        assert bool(feature.isfinite().all())
        assert float(feature.min()) == 0.0
        assert 0.2 < float((feature > 0).float().mean()) < 0.8

    def test_c3d_refuses_other_clips(self) -> None:
        with pytest.raises(ShapeError, match=r"16 frames of 112 x 112 pixels; got \(1, 3, 17, 112, 112\)"):
            on_meta(C3D)(torch.empty(1, 3, 17, 112, 112, device="meta"))


class TestNormalization:
    @pytest.mark.parametrize(("value", "expected"), [(114.75, 0.0), (0.0, -2.0), (255.0, 2.4444)])
    def test_i3d_resnet50(self, value: float, expected: float) -> None:
        clip = torch.full((1, 3, 1, 1, 1), value / 255)
        assert on_meta(I3DResNet50).normalize(clip).flatten().tolist() == pytest.approx([expected] * 3, abs=1e-4)

    def test_inception_i3d(self) -> None:
        clip = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1, 1)
        assert on_meta(InceptionI3D).normalize(clip).flatten().tolist() == [-1.0, 0.0, 1.0]

    def test_c3d_turns_rgb_to_bgr(self) -> None:
        clip = (torch.tensor([10.0, 20.0, 30.0]) / 255).view(1, 3, 1, 1, 1)
        expected = [30 - 90.25, 20 - 97.66, 10 - 101.41]
        assert C3D().normalize(clip).flatten().tolist() == pytest.approx(expected, abs=1e-4)

    def test_motion_energy(self) -> None:
        clip = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1, 1)
        assert float(MotionEnergy().normalize(clip)) == pytest.approx(255 * (0.299 + 0.057))

    def test_bytes_are_floats_times_255(self, net: VideoBackbone) -> None:
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


class TestFrameAverage:
    def test_is_the_mean_of_the_image_network(self) -> None:
        net = FrameAverage("resnet18")
        clip = torch.rand(2, 3, 4, 32, 32)
        reference = timm.create_model("resnet18", num_classes=0).eval()
        reference.load_state_dict({key.removeprefix("net.net."): value for key, value in net.state_dict().items()})
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            frames = [reference((clip[:, :, t] - mean.view(3, 1, 1)) / std.view(3, 1, 1)) for t in range(clip.shape[2])]
        torch.testing.assert_close(net(clip), torch.stack(frames).mean(0), rtol=1e-3, atol=1e-5)

    def test_geometry_is_that_of_the_image_network(self) -> None:
        assert (FrameAverage("resnet18").resize, FrameAverage("resnet18").crop) == ((256, 256), (224, 224))

    def test_weights_from_a_file(self, tmp_path: Path) -> None:
        torch.manual_seed(1)
        torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pt")
        clip = torch.rand(1, 3, 2, 32, 32)
        nets = [FrameAverage("resnet18") for _ in range(2)]
        assert not torch.equal(nets[0](clip), nets[1](clip))
        for net in nets:
            net.load_weights(str(tmp_path / "w.pt"))
        assert torch.equal(nets[0](clip), nets[1](clip))

    def test_unknown_network(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
            FrameAverage("resnet81")


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


class TestMotionEnergy:
    def test_equals_a_loop_over_cells(self) -> None:
        clip = torch.rand(2, 3, 6, 16, 36)
        found = MotionEnergy()(clip)
        for feature, one in zip(found, clip, strict=True):
            np.testing.assert_allclose(feature.numpy(), motion_by_hand(one), rtol=1e-4)

    def test_a_still_video_has_none(self) -> None:
        clip = torch.rand(1, 3, 1, 120, 180).expand(-1, -1, 16, -1, -1)
        assert torch.equal(MotionEnergy()(clip), torch.zeros(1, 256))

    def test_knows_the_row_and_not_the_column(self) -> None:
        def moving(row: int, column: int) -> Tensor:
            """A bright square that flickers in one cell of the grid."""
            clip = torch.zeros(1, 3, 16, 120, 180)
            clip[:, :, ::2, row * 15 + 4 : row * 15 + 11, column * 15 + 4 : column * 15 + 11] = 1
            return MotionEnergy()(clip)

        assert torch.equal(moving(2, 3), moving(2, 8))
        assert not torch.allclose(moving(2, 3), moving(5, 3))
        assert moving(2, 3).view(8, 8, 4)[:, :, 0].nonzero()[:, 1].unique().tolist() == [2]


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
    def test_names_of_public_conversions(self, cls: type[VideoBackbone], names: dict[str, tuple[int, ...]]) -> None:
        state = on_meta(cls).state_dict()
        assert {name: tuple(state[name].shape) for name in names} == names

    def test_a_file_of_another_network(self, tmp_path: Path) -> None:
        torch.save({"conv1.weight": torch.rand(64, 3, 3, 3, 3)}, tmp_path / "c3d.pth")
        with pytest.raises(WeightsError, match=r"must fit I3DResNet50, but conv1\.weight is \(64, 3, 3, 3, 3\) in it"):
            on_meta(I3DResNet50).load_weights(str(tmp_path / "c3d.pth"))
