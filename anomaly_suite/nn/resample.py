"""Resizing by two small matrices: what OpenCV and torchvision do, as a graph that takes images of any size.

Axes: B batch, C channels, H and W pixels before, h and w after.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["opencv", "antialias"]
PARTS = 2018
"""Parts of a grey level to which results are first rounded. Small sides have many sums halfway between two levels, which runtimes that add in
another order would take for the one level or the other. Twice a prime: half a level is among the parts, and nearly no sum lies between two."""


def resample(image: Tensor, size: tuple[int, int], rule: Rule) -> Tensor:
    """Resize images of whole grey levels, to whole grey levels.

    Args:
        image: Values from 0 to 255 as floats, shape (B, C, H, W).
        size: h and w.
        rule: ``opencv`` averages over areas where no side grows, interpolates bilinearly where no side shrinks, and does between these
            what OpenCV's ``INTER_AREA`` does; ``antialias`` is torch's bilinear interpolation with ``antialias=True``.

    Returns:
        Shape (B, C, h, w). OpenCV itself calculates bilinear weights of 8-bit images with 11 bits, so one level may differ.
    """
    height, width = (torch.scalar_tensor(side, dtype=torch.float64, device=image.device) for side in image.shape[2:])
    factors = height / size[0], width / size[1]
    if rule == "antialias":
        rows, columns = (_triangles(side, after) for side, after in zip(image.shape[2:], size, strict=True))
    else:
        shrinks, grows = (factors[0] >= 1) & (factors[1] >= 1), (factors[0] <= 1) & (factors[1] <= 1)
        rows, columns = (
            torch.where(shrinks, _areas(side, after), torch.where(grows, _triangles(side, after), _steps(side, after)))
            for side, after in zip(image.shape[2:], size, strict=True)
        )
    out = rows.to(image.dtype) @ image @ columns.to(image.dtype).transpose(0, 1)
    exact = (out * PARTS).round() / PARTS
    even = exact.round()  # a half goes to the even level
    if rule == "opencv":  # but up where OpenCV averages two by two
        even = torch.where((factors[0] == 2) & (factors[1] == 2), (exact + 0.5).floor(), even)
    return even.clamp(0, 255)


def _grid(before: int, after: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels after (h, 1) and before (1, H), and how many of the latter one of the former spans."""
    new = torch.arange(after, dtype=torch.float64).unsqueeze(1)
    old = torch.arange(before, dtype=torch.float64).unsqueeze(0)
    return new, old, torch.scalar_tensor(before, dtype=torch.float64) / after


def _areas(before: int, after: int) -> Tensor:
    """Shares of old pixels in new ones, shape (h, H)."""
    new, old, span = _grid(before, after)
    return (torch.minimum((new + 1) * span, old + 1) - torch.maximum(new * span, old)).clamp_min(0) / span


def _triangles(before: int, after: int) -> Tensor:
    """Bilinear interpolation, widened where the image shrinks, shape (h, H)."""
    new, old, span = _grid(before, after)
    weight = (1 - (old + 0.5 - (new + 0.5) * span).abs() / span.clamp_min(1)).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


def _steps(before: int, after: int) -> Tensor:
    """OpenCV's ``INTER_AREA`` where one side grows and the other shrinks, shape (h, H)."""
    new, old, span = _grid(before, after)
    first = (new * span).floor()
    share = (new + 1) - (first + 1) / span
    share = torch.where(share <= 0, torch.zeros_like(share), share - share.floor())
    second = (first + 1).clamp_max(old[0, -1])
    return (1 - share) * (old == first) + share * (old == second)
