"""Colour jitter of a batch, every image by numbers of its own.

Brightness, contrast, then saturation and hue as one matrix that scales and turns the two colour axes of YIQ: cheaper than a
way through HSV, of the same range.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_suite.augment.draws import between

Jitter = tuple[float, float, float, float]
"""Most change of brightness, contrast and saturation, as shares, and of hue, in turns."""

_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def jitter(image: Tensor, uniform: Tensor, most: Jitter, *, inside: Tensor | None = None) -> Tensor:
    """Change brightness, contrast, saturation and hue.

    Args:
        image: Shape (B, C, H, W), in [0, 1]. Of other than three channels only brightness and contrast change.
        uniform: Draws in [0, 1), shape (B, 4); 0.5 leaves an image as it is.
        most: See :data:`Jitter`.
        inside: Pixels that the mean of the contrast is taken over, bool (B, 1, H, W); None takes all.

    Returns:
        Shape of ``image``, in [0, 1].
    """
    change = [between(part, -each, each).view(-1, 1, 1, 1).to(image.dtype) for part, each in zip(uniform.unbind(1), most, strict=True)]  # fmt: skip
    image = (image * (1 + change[0])).clamp(0, 1)
    grey = greyscale(image)
    if inside is None:
        mean = grey.mean((2, 3), keepdim=True)
    else:
        mean = (grey * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
    image = (mean + (image - mean) * (1 + change[1])).clamp(0, 1)
    if image.shape[1] != 3:
        return image
    matrix = _colour_matrix(1 + change[2].flatten(), 2 * math.pi * change[3].flatten())
    return torch.einsum("bij,bjhw->bihw", matrix, image).clamp(0, 1)


def greyscale(image: Tensor) -> Tensor:
    """Luminance of images: (B, C, H, W) to (B, 1, H, W); the mean of other than three channels."""
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    weight = image.new_tensor(_YIQ[0]).view(3, 1, 1)
    return (image * weight).sum(1, keepdim=True)


def _colour_matrix(scale: Tensor, angle: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that scale and turn the colour axes, given (B,) each."""
    to_yiq = scale.new_tensor(_YIQ)
    turn = torch.zeros(len(scale), 3, 3, dtype=scale.dtype, device=scale.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = scale * angle.cos()
    turn[:, 2, 1] = scale * angle.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    back = torch.linalg.inv(to_yiq.double()).to(scale.dtype)
    matrix: Tensor = back @ turn @ to_yiq
    return matrix
