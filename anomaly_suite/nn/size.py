"""Image sizes: one number or two in an option, checked against what a network was built for.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.errors import ConfigError, ShapeError

ImageSize = int | tuple[int, int]
"""Height and width in pixels, or one number for both."""


def height_width(size: ImageSize) -> tuple[int, int]:
    """An image size as (height, width); a YAML list of two is accepted too.

    Example:
        >>> height_width(32), height_width((32, 48))
        ((32, 32), (32, 48))
    """
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return int(height), int(width)


def require_divisible(size: tuple[int, int], halvings: int) -> None:
    """Refuse to build a network that could not halve the images so often.

    Args:
        size: (H, W).
        halvings: How often.

    Raises:
        ConfigError: a side that is not divisible.
    """
    if any(side % 2**halvings for side in size):
        raise ConfigError(
            f"image_size must be divisible by {2**halvings} for {halvings} levels that halve it; got {size}. "
            "Resize the images (28-pixel sets to 32), or give fewer widths."
        )


def resize_antialiased(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing: shape (B, C, h, w) to (B, C, H, W) for a ``size`` of (H, W), of the same type."""
    wide = image if image.dtype == torch.float64 else image.float()  # CPUs have no such operator in half precision
    return F.interpolate(wide, size=size, mode="bilinear", antialias=True).to(image.dtype)


def require_image(image: Tensor, *, channels: int, size: tuple[int, int]) -> None:
    """Refuse images that a network of fixed size cannot take.

    Args:
        image: Shape (B, C, H, W).
        channels: The C that was built for.
        size: The (H, W) that was built for.

    Raises:
        ShapeError: another number of channels, height or width.
    """
    expected = (channels, *size)
    if tuple(image.shape[1:]) != expected:
        raise ShapeError(
            f"the network was built for images of shape (C, H, W) = {expected}; got {tuple(image.shape[1:])}. "
            "Set in_channels and image_size to the data, or resize the images."
        )
