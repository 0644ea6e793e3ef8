"""The convolution block and the resizing that the parts of a DeepLabv3+ share.

Axes: B batch, C channels, H and W pixels, h and w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm_relu(in_channels: int, out_channels: int, side: int, dilation: int = 1) -> nn.Sequential:
    """A convolution of ``side`` x ``side`` that keeps height and width, batch norm and ReLU."""
    padding = dilation * (side // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, side, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with aligned corners: shape (B, C, h, w) to (B, C, H, W) for a ``size`` of (H, W)."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
