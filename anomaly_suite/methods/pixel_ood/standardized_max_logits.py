"""Standardized max logits: the largest logit by the statistics of its class, corrected where predicted classes meet.

Paper: Jung et al., "Standardized Max Logits: A Simple yet Effective Approach for Identifying Unexpected Road Obstacles in
    Urban-Scene Segmentation", ICCV 2021, arXiv:2107.11264 (SML).
Reference: described by our notes; no code was read.
Differs: a class that is never predicted gets the pooled statistics.
Axes: B batch, Y classes, H and W pixels.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.errors import ConfigError

log = logging.getLogger(__name__)

SMALLEST_VARIANCE = 1e-6
SMOOTHING_SIDE, SMOOTHING_SIGMA, SMOOTHING_DILATION = 7, 1.0, 6  # appendix of the paper


def max_logit_sums(logits: Tensor) -> list[Tensor]:
    """Number, sum and sum of squares of the largest logits of every predicted class.

    Args:
        logits: Shape (B, Y, H, W).

    Returns:
        Three tensors of shape (Y,), in float64.
    """
    value, index = logits.double().max(1)
    value, index = value.flatten(), index.flatten()
    return [
        torch.zeros(logits.shape[1], dtype=torch.float64, device=value.device).index_add_(0, index, part)
        for part in (torch.ones_like(value), value, value.square())
    ]


def class_statistics(count: Tensor, total: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the largest logits of every class; those of all for a class that is predicted less than twice.

    Args:
        count: Shape (Y,), as the others, from :func:`max_logit_sums`.
        total: Sums.
        square: Sums of squares.

    Returns:
        Mean and variance, shape (Y,) each, float32.
    """
    mean = total / count.clamp_min(1)
    variance = (square - count * mean.square()) / (count - 1).clamp_min(1)
    pooled_mean = total.sum() / count.sum()
    pooled = (square.sum() - count.sum() * pooled_mean.square()) / (count.sum() - 1)
    rare = count < 2
    if bool(rare.any()):
        names = ", ".join(map(str, rare.nonzero().flatten().tolist()))
        log.warning(
            "Classes %s are hardly ever predicted on the training scenes; they get the statistics of all.", names
        )
    mean = mean.where(~rare, pooled_mean).float()
    return mean, variance.where(~rare, pooled).clamp_min(SMALLEST_VARIANCE).float()


def standardized_max_logit(logits: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Largest logit of every pixel, standardised by the statistics of its class, in float32.

    Args:
        logits: Shape (B, Y, H, W).
        mean: Shape (Y,).
        variance: Shape (Y,).

    Returns:
        The standardised logit and the class, shape (B, 1, H, W) each.
    """
    value, index = logits.float().max(1, keepdim=True)
    return (value - mean.float()[index]) / variance.float()[index].sqrt(), index


def boundary_schedule(width: int, steps: int) -> list[int]:
    """Radius of each step of :func:`suppress_boundaries`: from ``width - 1`` down, the last one 0.

    Raises:
        ConfigError: ``steps`` does not divide ``width``.

    Example:
        >>> boundary_schedule(4, 4), boundary_schedule(4, 2), boundary_schedule(0, 4)
        ([3, 2, 1, 0], [3, 0], [])
    """
    if width < 0 or steps < 1 or width % steps:
        raise ConfigError(
            f"boundary_steps must divide boundary_width, both from 1 (or a width of 0); got {steps} and {width}. Published: 4 and 4."
        )
    if width == 0:
        return []
    return [width - width // steps * step - 1 for step in range(steps - 1)] + [0]


def boundaries(label: Tensor) -> Tensor:
    """Borders between predicted classes: the largest class number of the pixel and its four neighbours differs from the smallest of 3 x 3.

    Args:
        label: Class numbers, shape (B, 1, H, W).

    Returns:
        Bool, shape (B, 1, H, W).
    """
    number = F.pad(label.float(), (1, 1, 1, 1), mode="replicate")
    rows, columns = number[:, :, :, 1:-1], number[:, :, 1:-1]
    largest = torch.maximum(F.max_pool2d(rows, (3, 1), 1), F.max_pool2d(columns, (1, 3), 1))
    smallest = -F.max_pool2d(-number, 3, 1)
    return largest != smallest


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Grow a bool mask of shape (B, 1, H, W) by all pixels at most ``radius`` steps along the axes away."""
    grown = mask.float()
    for _ in range(radius):
        grown = torch.maximum(F.max_pool2d(grown, (3, 1), 1, (1, 0)), F.max_pool2d(grown, (1, 3), 1, (0, 1)))
    return grown.bool()


def suppress_boundaries(value: Tensor, label: Tensor, *, width: int, steps: int) -> Tensor:
    """Replace scores near borders of classes by the mean of their 3 x 3 neighbours away from them, from outside in.

    Args:
        value: Shape (B, 1, H, W).
        label: Predicted classes, shape (B, 1, H, W).
        width: Pixels around a border.
        steps: See :func:`boundary_schedule`.

    Returns:
        Shape (B, 1, H, W).

    Source:
        Section 3.3 of the SML paper.
    """
    border = boundaries(label)
    for radius in boundary_schedule(width, steps):
        masked = dilate(border, radius)
        free = F.pad((~masked).to(value.dtype), (1, 1, 1, 1), mode="replicate")
        total = F.avg_pool2d(F.pad(value, (1, 1, 1, 1), mode="replicate") * free, 3, 1)
        share = F.avg_pool2d(free, 3, 1)
        value = torch.where(masked & (share > 0), total / share.clamp_min(1e-6), value)
    return value


def smooth_dilated(value: Tensor) -> Tensor:
    """Gaussian of 7 x 7 pixels, 6 apart, deviation 1 in these steps, borders repeated: shape (B, 1, H, W) to the same."""
    offset = torch.arange(SMOOTHING_SIDE, dtype=value.dtype, device=value.device) - SMOOTHING_SIDE // 2
    kernel = torch.softmax(-(offset**2) / (2 * SMOOTHING_SIGMA**2), 0)
    reach = SMOOTHING_SIDE // 2 * SMOOTHING_DILATION
    value = F.conv2d(
        F.pad(value, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1), dilation=(SMOOTHING_DILATION, 1)
    )
    return F.conv2d(
        F.pad(value, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1), dilation=(1, SMOOTHING_DILATION)
    )
