"""I3D on ResNet-50, the network of RTFM's features.

Paper: Wang et al., "Non-local Neural Networks", CVPR 2018: the ResNet-50 I3D of its baseline.
Axes: N clips, T frames of a clip, H and W pixels, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.nn.video.backbone import VideoBackbone


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
        """Shape (N, C, T, H, W) to (N, 4 width, T, H / stride, W / stride)."""
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
        """[0, 1] to [-2, 2.44], shape (N, 3, T, H, W) unchanged."""
        return (clip * 255 - 114.75) / 57.375

    def features(self, clip: Tensor) -> Tensor:
        """Normalised clips (N, 3, T, H, W), of any number of frames from 7 on, to (N, 2048)."""
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
