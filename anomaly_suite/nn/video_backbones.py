"""Networks from clips of 16 frames to one feature vector each; they are never trained here.

Sources: Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017 (Inception I3D); Wang et al., "Non-local Neural
Networks", CVPR 2018 (the ResNet-50 I3D of its baseline); Tran et al., "Learning Spatiotemporal Features with 3D Convolutional
Networks", ICCV 2015 (C3D). Tensor names are those of the public PyTorch conversions; each class says which.
Differs: C3D subtracts the mean colour of Sports-1M where the original subtracts a mean clip, which no conversion contains.

Axes: N clips, T frames of a clip, H and W pixels, D feature width.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ShapeError, WeightsError
from anomaly_suite.nn.backbones import PREFIXES, FeatureExtractor, read_tensors


class VideoBackbone(nn.Module):
    """Clips to vectors, always in evaluation mode: statistics of a batch would make a clip's feature depend on its neighbours.

    Attributes:
        feature_dim: D.
        resize: Height and width to which whole frames are scaled first, whatever their aspect ratio.
        crop: Height and width cut out of the scaled frame, the network's input.
        normalization: What :meth:`forward` does to the pixels, in words.
        classifier: What the names of tensors begin with that a file of weights may hold and that are not needed.
    """

    feature_dim: int
    resize: tuple[int, int]
    crop: tuple[int, int]
    normalization: str
    classifier: ClassVar[tuple[str, ...]] = ()

    def train(self, mode: bool = True) -> VideoBackbone:
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    def freeze(self) -> None:
        """Evaluation mode, no gradients."""
        self.requires_grad_(False)
        self.eval()

    def forward(self, clip: Tensor) -> Tensor:
        """Features of clips.

        Args:
            clip: RGB, shape (N, 3, T, H, W); uint8 from 0 to 255, or floating point from 0 to 1.

        Returns:
            Shape (N, D), float32.

        Raises:
            ShapeError: another shape.
        """
        if clip.ndim != 5 or clip.shape[1] != 3:
            raise ShapeError(
                f"clips must have the shape (N, 3, T, H, W); got {tuple(clip.shape)}. Stack the frames along the third axis."
            )
        unit = clip.float() / 255 if clip.dtype == torch.uint8 else clip
        return self.features(self.normalize(unit)).float()

    def normalize(self, clip: Tensor) -> Tensor:
        """RGB in [0, 1] to what the weights were trained on."""
        raise NotImplementedError(f"{type(self).__name__} must define normalize(clip).")

    def features(self, clip: Tensor) -> Tensor:
        """Normalised clips to (N, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define features(clip).")

    def load_weights(self, weights: str) -> None:
        """Replace the random weights.

        Args:
            weights: A file of named tensors (``torch.save`` or safetensors), with or without the classifier, bare or under
                ``state_dict`` or ``model``; prefixes of a training program are ignored.

        Raises:
            WeightsError: no such file, an unreadable one, or one that does not fit: the first difference is named.
        """
        name = type(self).__name__
        if not Path(weights).is_file():
            raise WeightsError(f"{name} takes its weights from a file; there is none at {weights!r}. Check the path.")
        state = self.state_dict()
        tensors = {_known(key, state): value for key, value in read_tensors(weights).items()}
        tensors = {key: value for key, value in tensors.items() if not key.startswith(self.classifier)}
        left = sorted(tensors.keys() - state.keys())
        fault = f"it also holds {left[0]} {tuple(tensors[left[0]].shape)}" if left else ""
        for key, value in state.items():
            if key not in tensors:
                if key.endswith("num_batches_tracked"):  # absent from old files and never used in evaluation
                    continue
                near = difflib.get_close_matches(key, left, n=1, cutoff=0.0)
                beside = f"; the nearest name is {near[0]} {tuple(tensors[near[0]].shape)}" if near else ""
                fault = f"no tensor in it is named {key} {tuple(value.shape)}{beside}"
                break
            if tensors[key].shape != value.shape:
                fault = f"{key} is {tuple(tensors[key].shape)} in it and {tuple(value.shape)} in the network"
                break
        if fault:
            raise WeightsError(
                f"the weights in {weights} must fit {name}, but {fault}. Give a file of this network, or choose the network it is for."
            )
        self.load_state_dict(state | tensors)


def _known(key: str, state: dict[str, Tensor]) -> str:
    """A tensor's name without the prefixes of a training program."""
    plain = key
    while plain not in state:
        prefix = next((prefix for prefix in PREFIXES if plain.startswith(prefix)), None)
        if prefix is None:
            break
        plain = plain.removeprefix(prefix)
    return plain


class _Bottleneck(nn.Module):
    """1x1x1 (or 3x1x1 over time), 1x3x3 with the stride, 1x1x1, and a shortcut."""

    def __init__(self, inside: int, width: int, *, stride: int, temporal: bool, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(
            inside, width, (3 if temporal else 1, 1, 1), padding=(1 if temporal else 0, 0, 0), bias=False
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(4 * width)
        self.downsample = nn.Sequential()
        if project:
            self.downsample.append(nn.Conv3d(inside, 4 * width, 1, stride=(1, stride, stride), bias=False))
            self.downsample.append(nn.BatchNorm3d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class I3DResNet50(VideoBackbone):
    """The 2048-d feature of RTFM: ResNet-50 inflated over time, averaged over time and space after its last stage.

    Tensors are named as in torchvision's ResNet (``conv1``, ``layer1.0.conv1``, ``layer1.0.downsample.0``, ``fc``), as in the
    conversion of the non-local networks' baseline known as ``i3d_r50_kinetics.pth``.
    """

    feature_dim = 2048
    resize = (256, 256)
    crop = (224, 224)
    normalization = "(x - 114.75) / 57.375, x from 0 to 255"
    classifier = ("fc.",)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (5, 7, 7), stride=2, padding=(2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.layer1 = _stage(64, 64, stride=1, temporal=(True, True, True))
        self.layer2 = _stage(256, 128, stride=2, temporal=(True, False, True, False))
        self.layer3 = _stage(512, 256, stride=2, temporal=(True, False, True, False, True, False))
        self.layer4 = _stage(1024, 512, stride=2, temporal=(False, True, False))
        self.freeze()

    def normalize(self, clip: Tensor) -> Tensor:
        """[0, 1] to [-2, 2.44]."""
        return (clip * 255 - 114.75) / 57.375

    def features(self, clip: Tensor) -> Tensor:
        """Any number of frames from 7 on."""
        x = F.relu(self.bn1(self.conv1(clip)))  # N 64 T/2 H/2 W/2
        x = F.max_pool3d(x, (2, 3, 3), stride=2)  # N 64 T/4 H/4 W/4
        x = F.max_pool3d(self.layer1(x), (2, 1, 1), stride=(2, 1, 1))  # N 256 T/8 H/4 W/4
        x = self.layer4(self.layer3(self.layer2(x)))  # N 2048 T/8 H/32 W/32
        return cast(Tensor, x.mean((2, 3, 4)))


def _stage(inside: int, width: int, *, stride: int, temporal: Sequence[bool]) -> nn.Sequential:
    blocks = (
        _Bottleneck(4 * width if row else inside, width, stride=1 if row else stride, temporal=over, project=not row)
        for row, over in enumerate(temporal)
    )
    return nn.Sequential(*blocks)


class C3D(VideoBackbone):
    """The 4096-d feature of DeepMIL: eight 3x3x3 convolutions and the first linear layer after them, ``fc6``.

    Tensors are named as in the Caffe model and its PyTorch conversion ``c3d.pickle`` (``conv1`` to ``conv5b``, ``fc6``; ``fc7``
    and ``fc8`` are not needed). Takes clips of 16 frames of 112 x 112 pixels and no others.
    """

    feature_dim = 4096
    resize = (128, 171)
    crop = (112, 112)
    normalization = "x - (90.25, 97.66, 101.41) in the order blue, green, red, x from 0 to 255"
    classifier = ("fc7.", "fc8.")

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 3, padding=1)
        self.conv2 = nn.Conv3d(64, 128, 3, padding=1)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.fc6 = nn.Linear(512 * 4 * 4, self.feature_dim)
        mean = torch.tensor([90.25, 97.66, 101.41]).view(3, 1, 1, 1)  # of Sports-1M, for OpenCV's order of colours
        self.register_buffer("mean", mean, persistent=False)
        self.freeze()

    def normalize(self, clip: Tensor) -> Tensor:
        """RGB to blue, green, red on 0..255, less the mean colour."""
        return clip.flip(1) * 255 - self.mean

    def features(self, clip: Tensor) -> Tensor:
        """After the ReLU that follows fc6."""
        if clip.shape[2:] != (16, *self.crop):
            raise ShapeError(
                f"C3D takes clips of 16 frames of 112 x 112 pixels; got {tuple(clip.shape)}. Resize the frames, or take an I3D network."
            )
        x = F.max_pool3d(F.relu(self.conv1(clip)), (1, 2, 2))  # N 64 16 56 56
        x = F.max_pool3d(F.relu(self.conv2(x)), 2)  # N 128 8 28 28
        x = F.max_pool3d(F.relu(self.conv3b(F.relu(self.conv3a(x)))), 2)  # N 256 4 14 14
        x = F.max_pool3d(F.relu(self.conv4b(F.relu(self.conv4a(x)))), 2)  # N 512 2 7 7
        x = F.max_pool3d(F.relu(self.conv5b(F.relu(self.conv5a(x)))), 2, padding=(0, 1, 1))  # N 512 1 4 4
        return F.relu(self.fc6(x.flatten(1)))


class _Unit(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch normalisation, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 1, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inside, outside, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv3d
        return F.relu(self.bn(conv(_pad_same(x, conv.kernel_size, conv.stride))))


class _Pool(nn.Module):
    """Max pooling with TensorFlow's "same" padding; zeros pad, which changes nothing after a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], *, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_pad_same(x, self.kernel, self.stride), self.kernel, stride=self.stride)


class _Mixed(nn.Module):
    """Four branches side by side: 1x1x1; 1x1x1 and 3x3x3; the same, narrower; 3x3x3 max pooling and 1x1x1."""

    def __init__(self, inside: int, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        super().__init__()
        self.b0 = _Unit(inside, a)
        self.b1a = _Unit(inside, b)
        self.b1b = _Unit(b, c, 3)
        self.b2a = _Unit(inside, d)
        self.b2b = _Unit(d, e, 3)
        self.b3a = _Pool((3, 3, 3), stride=(1, 1, 1))
        self.b3b = _Unit(inside, f)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


def _pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros so that every axis of n gives ceil(n / stride) outputs; the odd one goes to the end, as in TensorFlow."""
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class InceptionI3D(VideoBackbone):
    """The 1024-d feature of XD-Violence and MIST: Inception-v1 inflated over time, averaged over time and space.

    Tensors are named as in the common PyTorch conversion ``rgb_imagenet.pt`` (``Conv3d_1a_7x7.conv3d.weight``,
    ``Mixed_3b.b1a.bn.weight``, ``logits``).
    """

    feature_dim = 1024
    resize = (256, 340)
    crop = (224, 224)
    normalization = "2 x / 255 - 1, x from 0 to 255"
    classifier = ("logits.",)

    def __init__(self) -> None:
        super().__init__()
        stages: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": _Unit(3, 64, 7, stride=2),
            "MaxPool3d_2a_3x3": _Pool((1, 3, 3), stride=(1, 2, 2)),
            "Conv3d_2b_1x1": _Unit(64, 64),
            "Conv3d_2c_3x3": _Unit(64, 192, 3),
            "MaxPool3d_3a_3x3": _Pool((1, 3, 3), stride=(1, 2, 2)),
            "Mixed_3b": _Mixed(192, 64, 96, 128, 16, 32, 32),
            "Mixed_3c": _Mixed(256, 128, 128, 192, 32, 96, 64),
            "MaxPool3d_4a_3x3": _Pool((3, 3, 3), stride=(2, 2, 2)),
            "Mixed_4b": _Mixed(480, 192, 96, 208, 16, 48, 64),
            "Mixed_4c": _Mixed(512, 160, 112, 224, 24, 64, 64),
            "Mixed_4d": _Mixed(512, 128, 128, 256, 24, 64, 64),
            "Mixed_4e": _Mixed(512, 112, 144, 288, 32, 64, 64),
            "Mixed_4f": _Mixed(528, 256, 160, 320, 32, 128, 128),
            "MaxPool3d_5a_2x2": _Pool((2, 2, 2), stride=(2, 2, 2)),
            "Mixed_5b": _Mixed(832, 256, 160, 320, 32, 128, 128),
            "Mixed_5c": _Mixed(832, 384, 192, 384, 48, 128, 128),
        }
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.freeze()

    def normalize(self, clip: Tensor) -> Tensor:
        """[0, 1] to [-1, 1]."""
        return clip * 2 - 1

    def features(self, clip: Tensor) -> Tensor:
        """Any number of frames; the average over 2 x 7 x 7 cells for clips of 16 frames of 224 x 224 pixels."""
        for stage in self.children():
            clip = stage(clip)
        return clip.mean((2, 3, 4))


class FrameAverage(VideoBackbone):
    """Any timm image network: the last feature map, averaged over its cells and over the frames. Blind to motion.

    Frames are scaled to the input size of the network's ImageNet weights over 0.875, and cut to it: 256 and 224 for most.

    Args:
        backbone: Name of the timm network.

    Raises:
        ConfigError: an unknown network, or one without feature maps.
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.net = FeatureExtractor(backbone, layers=[-1], frozen=True)
        self.feature_dim = self.net.channels[-1]
        height, width = self.net.net.pretrained_cfg["input_size"][1:]
        self.crop = (height, width)
        self.resize = (round(height / 0.875), round(width / 0.875))
        mean, std = (self.net.net.pretrained_cfg[key] for key in ("mean", "std"))
        self.normalization = f"(x / 255 - {tuple(mean)}) / {tuple(std)}, x from 0 to 255"
        self.freeze()

    def load_weights(self, weights: str) -> None:
        """Load a local file or, for ``imagenet``, timm's own; see :meth:`FeatureExtractor.load_weights`."""
        self.net.load_weights(weights)

    def normalize(self, clip: Tensor) -> Tensor:
        """Left to the image network."""
        return clip

    def features(self, clip: Tensor) -> Tensor:
        """Any number of frames."""
        frames = clip.transpose(1, 2)  # N T 3 H W
        features = self.net(frames.flatten(0, 1))[-1].mean((2, 3))  # NT D
        return cast(Tensor, features.unflatten(0, frames.shape[:2]).mean(1))


class MotionEnergy(VideoBackbone):
    """256 hand-made features of motion, without weights: where in the picture does how much change.

    Of the grey frames I (from 0 to 255) eight energies, all in squared grey levels, with D_k(t) = I(t + k) - I(t), and E the
    mean of I(t) and I(t + 1):

    - 0, 1, 2: the squares of D_1, D_2 and D_4, change over 1, 2 and 4 frames;
    - 3: the square of D_1(t + 1) - D_1(t), change of the change;
    - 4, 5: the squares of the derivatives of D_1 along x and along y, edges of what changes;
    - 6, 7: the sizes of D_1 times the derivative of E along x and along y, motion across vertical and horizontal edges.

    Each is averaged over time and over the pixels of every cell of an 8 x 12 grid. The 4 largest cells of each grid row are
    kept, largest first: 8 energies x 8 rows x 4 = 256 values in this order. So a feature knows how high in the picture
    something moves, which for a fixed camera is how far away, but not how far left or right.

    Source: ours.
    """

    feature_dim = 256
    resize = (120, 180)
    crop = (120, 180)
    normalization = "grey = 0.299 red + 0.587 green + 0.114 blue, from 0 to 255"

    GRID: ClassVar = (8, 12)
    KEPT: ClassVar = 4

    def normalize(self, clip: Tensor) -> Tensor:
        """RGB in [0, 1] to grey in [0, 255], shape (N, T, H, W)."""
        red, green, blue = (clip * 255).unbind(1)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def features(self, clip: Tensor) -> Tensor:
        """Any number of frames from 5 on."""
        change = clip[:, 1:] - clip[:, :-1]
        change_y, change_x = torch.gradient(change, dim=(2, 3))
        edge_y, edge_x = torch.gradient((clip[:, 1:] + clip[:, :-1]) / 2, dim=(2, 3))
        energies = (
            change.square(),
            (clip[:, 2:] - clip[:, :-2]).square(),
            (clip[:, 4:] - clip[:, :-4]).square(),
            (change[:, 1:] - change[:, :-1]).square(),
            change_x.square(),
            change_y.square(),
            (change * edge_x).abs(),
            (change * edge_y).abs(),
        )
        energy = torch.stack([each.mean(1) for each in energies], 1)  # N 8 H W
        cells = F.adaptive_avg_pool2d(energy, self.GRID)  # N 8 8 12
        return cells.topk(self.KEPT, dim=3).values.flatten(1)  # N 256
