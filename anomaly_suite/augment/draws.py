"""Where augmentations get their random numbers from: a generator, or the images themselves.

Numbers that follow from an image alone are the same in every batch, order and process: what is measured over augmented images
then does not depend on how they were divided.

Axes: B batch, P pixels of all channels.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Generator, Tensor

_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)  # of splitmix64, as signed numbers
_STEP = 0x9E3779B97F4A7C15 - 2**64


class Draws(Protocol):
    """Uniform numbers in [0, 1), float32, of a shape whose first axis are images: ``draws(B, 3)``."""

    def __call__(self, *shape: int) -> Tensor:
        """The next numbers of that shape."""
        ...


class GeneratorDraws:
    """Draws of a generator, on its device."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def __call__(self, *shape: int) -> Tensor:
        """The next numbers."""
        return torch.rand(*shape, generator=self.generator, dtype=torch.float32, device=self.generator.device)


class ContentDraws:
    """Draws that follow from keys, one an image.

    Args:
        keys: Shape (B,), int64, as :func:`image_keys` makes them.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.used = 0

    def __call__(self, *shape: int) -> Tensor:
        """The next numbers; the first axis must be B long."""
        count = math.prod(shape[1:])
        place = torch.arange(self.used, self.used + count, device=self.keys.device)
        self.used += count
        bits = _mix(self.keys.unsqueeze(1) + _STEP * (place + 1))
        return (((bits >> 40) & 0xFFFFFF).float() / 2**24).view(shape)


def image_keys(image: Tensor, salt: int = 0) -> Tensor:
    """A number for every image that follows from its pixels.

    Args:
        image: Shape (B, C, H, W).
        salt: Gives other numbers for the same images.

    Returns:
        Shape (B,), int64.
    """
    bits = image.float().contiguous().view(torch.int32).flatten(1).long()  # (B, P)
    factors = _mix(torch.arange(1, bits.shape[1] + 1, device=image.device) * _STEP) | 1
    return _mix((bits * factors).sum(1) + _mix(torch.tensor(salt, device=image.device)))


def normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones of any shape."""
    return math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-6, 1 - 1e-6))


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Numbers in [0, 1) moved to [low, high)."""
    return low + (high - low) * uniform


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64; int64 wraps around."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _FACTORS[0]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _FACTORS[1]
    return x ^ ((x >> 31) & (2**33 - 1))
