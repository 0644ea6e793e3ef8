"""Atrous spatial pyramid pooling: one map seen at several scales.

Paper: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv:1706.05587.
Axes: B batch, C channels, h and w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anomaly_suite.nn.deeplab.blocks import conv_norm_relu, resize


class ASPP(nn.Module):
    """Five views of the deepest map side by side: image mean, 1x1, and three dilated 3x3 convolutions.

    Args:
        in_channels: C of the deepest map.
        width: C of each view.
        rates: Dilation of the 3x3 convolutions.
    """

    def __init__(self, in_channels: int, *, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        views = [conv_norm_relu(in_channels, width, 1), *(conv_norm_relu(in_channels, width, 3, r) for r in rates)]
        self.features = nn.ModuleList(views)
        self.img_conv = conv_norm_relu(in_channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 5 * width, h, w), the image mean first.

        In training, the mean of a single image is normalised by running statistics: it has one value a channel.
        """
        if self.training:
            self.img_conv.train(len(x) > 1)
        mean = self.img_conv(x.mean((2, 3), keepdim=True))
        return torch.cat([resize(mean, x.shape[2:]), *(view(x) for view in self.features)], 1)
