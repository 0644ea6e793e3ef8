"""Heavy augmentation of images without an upright: turned by any angle, cropped, mirrored, recoloured, blurred and with noise.

Source: Tian, thesis, ch. 10, has "high levels of data augmentation" and says no more; kinds and strengths are ours, for colonoscopy.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.augment.colour import Jitter, jitter
from anomaly_suite.augment.draws import Draws, between, normal
from anomaly_suite.augment.weak import blurred
from anomaly_suite.tracing import untraced

CROP_SCALE = (0.6, 1.0)  # of the area
JITTER: Jitter = (0.3, 0.3, 0.3, 0.05)
BLUR_SIGMA = (0.1, 1.5)  # px
NOISE_STD = (0.0, 0.05)


@untraced
@torch.no_grad()
def heavy_augmentation(image: Tensor, draws: Draws) -> Tensor:
    """One view of every image, normal and anomalous alike.

    Args:
        image: Shape (B, C, H, W), in [0, 1].
        draws: Source of all draws.

    Returns:
        Shape and type of ``image``, in [0, 1].
    """
    wide = image if image.dtype == torch.float64 else image.float()  # CPUs sample no grids in half precision
    uniform = draws(len(image), 12)
    view = _moved(wide, uniform[:, :6])
    view = jitter(view, uniform[:, 6:10], JITTER)
    view = blurred(view, between(uniform[:, 10], *BLUR_SIGMA))
    deviation = between(uniform[:, 11], *NOISE_STD).view(-1, 1, 1, 1)
    return (view + deviation * normal(draws(*image.shape))).clamp(0, 1).to(image.dtype)


def _moved(image: Tensor, uniform: Tensor) -> Tensor:
    """Crop, turn and mirror images by draws (B, 6)."""
    height, width = image.shape[2:]
    side = between(uniform[:, 0], *CROP_SCALE).sqrt()
    down, right = ((1 - side) * (2 * uniform[:, column] - 1) for column in (1, 2))
    angle = 2 * math.pi * uniform[:, 3]
    upright, across = (torch.where(uniform[:, column] < 0.5, -1.0, 1.0) for column in (4, 5))
    cos, sin = side * angle.cos(), side * angle.sin()
    # Of a grid that is 2 wide and 2 high whatever the image is: turned in pixels.
    rows = [cos * across, -sin * upright * height / width, right, sin * across * width / height, cos * upright, down]
    matrix = torch.stack(rows, 1).view(-1, 2, 3).to(image.dtype)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
