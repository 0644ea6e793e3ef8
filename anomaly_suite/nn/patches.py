"""Overlapping square patches of images, and maps put together from them again.

Axes: B batch, C channels, H and W pixels, P patches of an image, S side of a patch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.exporting import is_exporting, plain, portions
from anomaly_suite.nn.size import resize_antialiased

SCALES = (0.5, 2.0)  # of rescaled patches: Student-Teacher resizes its crops at random

PATCHES_AT_ONCE = 450
"""Patches scored at once, which bounds the memory; those of two images of 256 pixels."""


def random_patches(image: Tensor, *, size: int, count: int, generator: Generator) -> Tensor:
    """Square patches at places that are all equally likely.

    Args:
        image: Shape (B, C, H, W).
        size: S.
        count: P.
        generator: Source of the places, on the device of ``image``.

    Returns:
        Shape (B * P, C, S, S), the patches of an image next to each other.

    Raises:
        ShapeError: an image smaller than a patch.
    """
    batch, _, height, width = image.shape
    if min(height, width) < size:
        raise ShapeError(
            f"images must be at least as large as a patch of {size} pixels; got {tuple(image.shape)}. "
            "Enlarge the images or lower the patch size."
        )
    row, column = (
        torch.randint(side - size + 1, (batch * count,), generator=generator, device=image.device)
        for side in (height, width)
    )
    owner = torch.arange(batch, device=image.device).repeat_interleave(count)
    windows = image.unfold(2, size, 1).unfold(3, size, 1)  # B C rows columns S S, without a copy
    return windows[owner, :, row, column]


def rescaled_patches(image: Tensor, *, size: int, count: int, generator: Generator) -> Tensor:
    """Random patches of images at a random scale, one for all of them, half of the patches mirrored.

    Args:
        image: Shape (B, C, H, W).
        size: S.
        count: P.
        generator: Source of the draws, on the device of ``image``.

    Returns:
        Shape (B * P, C, S, S), the patches of an image next to each other.
    """
    smallest = size / min(image.shape[2:])
    draw = torch.rand((), generator=generator, dtype=torch.float32, device=image.device).item()
    scale = max(smallest, SCALES[0] + (SCALES[1] - SCALES[0]) * draw)
    height, width = (max(size, round(scale * side)) for side in image.shape[2:])
    resized = resize_antialiased(image, (height, width))
    patch = random_patches(resized, size=size, count=count, generator=generator)
    mirrored = torch.rand(len(patch), 1, 1, 1, generator=generator, dtype=torch.float32, device=image.device) < 0.5
    return torch.where(mirrored, patch.flip(3), patch)


class PatchGrid:
    """Where the patches of an image lie: every ``stride`` pixels, row by row.

    An image that the grid does not cover to its right and lower border is continued there by its outermost pixels.

    Args:
        size: S, in pixels.
        stride: Pixels from one patch to the next; at most S, so that none is left out.

    Raises:
        ConfigError: a stride below 1 or above ``size``.
    """

    def __init__(self, *, size: int, stride: int) -> None:
        if not 1 <= stride <= size:
            raise ConfigError(
                f"patch_stride must be between 1 and patch_size={size}; got {stride}. Half of it is usual."
            )
        self.size = size
        self.stride = stride

    def count(self, height: int, width: int) -> int:
        """P for images of this size; 225 for 256 x 256 with patches of 32 every 16."""
        rows, columns = (1 + -(-max(side - self.size, 0) // self.stride) for side in (height, width))
        return rows * columns

    def cut(self, image: Tensor) -> Tensor:
        """All patches of images.

        Args:
            image: Shape (B, C, H, W).

        Returns:
            Shape (B * P, C, S, S), the patches of an image next to each other.

        Raises:
            ShapeError: an image smaller than a patch.
        """
        channels, height, width = map(plain, image.shape[1:])
        if min(height, width) < self.size:
            raise ShapeError(
                f"images must be at least as large as a patch of {self.size} pixels; got {tuple(image.shape)}. "
                "Raise image_size or lower patch_size."
            )
        down, right = (-(side - self.size) % self.stride for side in (height, width))
        image = F.pad(image, (0, right, 0, down), mode="replicate")
        if is_exporting():  # ONNX has no views of windows; this copies twice
            return (
                F.unfold(image, self.size, stride=self.stride)
                .transpose(1, 2)
                .reshape(-1, channels, self.size, self.size)
            )
        windows = image.unfold(2, self.size, self.stride).unfold(3, self.size, self.stride)  # B C rows columns S S
        return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, self.size, self.size)

    def sample(self, image: Tensor, count: int | None, *, generator: Generator) -> Tensor:
        """Some of the patches that :meth:`cut` gives, drawn without replacement.

        Args:
            image: Shape (B, C, H, W).
            count: How many of all B * P patches; null, or a number above, takes all of them in order.
            generator: Source of the draws, on the device of ``image``.

        Returns:
            Shape (``count``, C, S, S).

        Raises:
            ShapeError: an image smaller than a patch.
        """
        batch, _, height, width = image.shape
        every = batch * self.count(height, width)
        if count is None or count >= every:
            return self.cut(image)
        return self.cut(image)[torch.randperm(every, generator=generator, device=image.device)[:count]]

    def join(self, patches: Tensor, *, height: int, width: int) -> Tensor:
        """Put patches together again.

        Args:
            patches: Shape (B * P, C, S, S), as :meth:`cut` orders them.
            height: H.
            width: W.

        Returns:
            Shape (B, C, H, W), the mean where patches overlap.
        """
        channels, height, width = plain(patches.shape[1]), plain(height), plain(width)
        count = self.count(height, width)
        padded = (height + -(height - self.size) % self.stride, width + -(width - self.size) % self.stride)
        columns = patches.reshape(-1, count, channels * self.size**2).transpose(1, 2)  # (B, C * S * S, P)
        total = F.fold(columns, padded, self.size, stride=self.stride)
        ones = columns.new_ones(1, self.size**2, count)
        overlap = F.fold(ones, padded, self.size, stride=self.stride)
        return (total / overlap)[:, :, :height, :width]

    def score(self, image: Tensor, function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Score images by their patches.

        Args:
            image: Shape (B, C, H, W).
            function: Patches (N, C, S, S) to scores (N,) and maps (N, 1, S, S).

        Returns:
            The highest score of each image (B,), and its map (B, 1, H, W), the mean where patches overlap.

        Raises:
            ShapeError: an image smaller than a patch.
        """
        pieces = [function(some) for some in portions(self.cut(image), PATCHES_AT_ONCE)]
        score, patch_map = (torch.cat(kind) for kind in zip(*pieces, strict=True))
        joined = self.join(patch_map, height=image.shape[2], width=image.shape[3])
        return score.view(image.shape[0], -1).amax(1), joined
