"""Gaussian smoothing of anomaly maps.

Axes: B batch, H and W pixels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.nn.exporting import plain

Border = Literal["mirror", "symmetric"]
"""How an image goes on beyond its border: mirrored at the outermost pixels, or behind them, so that these are repeated."""


def gaussian_blur(x: Tensor, *, sigma: float, radius: int | None = None, border: Border = "mirror") -> Tensor:
    """Smooth every plane of a batch with a separable Gaussian, in the precision of the batch also under autocast.

    Args:
        x: Shape (B, 1, H, W).
        sigma: Standard deviation in pixels, above 0.
        radius: Reach of the kernel, which has 2 * radius + 1 weights; null is 4 sigma, rounded up.
        border: See :data:`Border`.

    Returns:
        Shape (B, 1, H, W).
    """
    most = math.ceil(4 * sigma) if radius is None else radius
    for dim in (2, 3):
        reach = min(most, plain(x.shape[dim]) - (border == "mirror"))  # a reflection cannot be wider than the image
        offset = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
        kernel = torch.softmax(-(offset**2) / (2 * sigma**2), 0)
        shape, padding = ((1, 1, -1, 1), (0, 0, reach, reach)) if dim == 2 else ((1, 1, 1, -1), (reach, reach, 0, 0))
        with torch.autocast(x.device.type, enabled=False):
            if border == "mirror":
                padded = F.pad(x, padding, mode="reflect")
            else:
                ends = x.narrow(dim, 0, reach), x.narrow(dim, x.shape[dim] - reach, reach)
                padded = torch.cat([ends[0].flip(dim), x, ends[1].flip(dim)], dim)
            x = F.conv2d(padded, kernel.view(shape))
    return x


def smoothing_sigma(height: int, width: int, *, sigma: float = 4.0) -> float:
    """Width of the smoothing for an image size.

    Args:
        height: Pixels.
        width: Pixels.
        sigma: Pixels for images of 224 to 256 pixels, where papers state it; other sizes get it in proportion to 256.

    Returns:
        Pixels; 1 at 64 pixels for the default. The shorter side counts.
    """
    side = min(height, width)
    return sigma if 224 <= side <= 256 else sigma * side / 256


def smoothing_matrix(
    cells: int, pixels: int, *, sigma: float, device: torch.device, border: Border = "mirror"
) -> Tensor:
    """What bilinear enlarging and then smoothing do to one axis of a map, as one matrix.

    Args:
        cells: Length of the axis.
        pixels: Length that it is enlarged to.
        sigma: Standard deviation in pixels; see :func:`gaussian_blur`.
        device: Where the matrix is used.
        border: See :data:`Border`.

    Returns:
        Shape (pixels, cells): ``down @ map @ across.T`` enlarges and smooths both axes.
    """
    axis = F.interpolate(
        torch.eye(cells, dtype=torch.float32, device=device).view(cells, 1, cells, 1), size=(pixels, 1), mode="bilinear"
    )
    return gaussian_blur(axis, sigma=sigma, border=border).view(cells, pixels).T
