"""Inception I3D, the network of the features of XD-Violence and MIST.

Paper: Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017.
Axes: N clips, T frames of a clip, H and W pixels, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.nn.video.backbone import VideoBackbone


class _Unit(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch normalisation, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 1, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inside, outside, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, C, T, H, W) to the same divided by the stride, rounded up."""
        conv = self.conv3d
        return F.relu(self.bn(conv(_pad_same(x, conv.kernel_size, conv.stride))))


class _Pool(nn.Module):
    """Max pooling with TensorFlow's "same" padding; zeros pad, which changes nothing after a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], *, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, C, T, H, W) to the same divided by the stride, rounded up."""
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
        """Shape (N, C, T, H, W) to (N, a + c + e + f, T, H, W)."""
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
        """[0, 1] to [-1, 1], shape (N, 3, T, H, W) unchanged."""
        return clip * 2 - 1

    def features(self, clip: Tensor) -> Tensor:
        """Normalised clips (N, 3, T, H, W), of any number of frames, to (N, 1024).

        Clips of 16 frames of 224 x 224 pixels are averaged over 2 x 7 x 7 cells.
        """
        for stage in self.children():
            clip = stage(clip)
        return clip.mean((2, 3, 4))
