"""Large images in overlapping windows, whose maps are averaged.

Axes: B batch, C and D channels, H and W pixels of an image, h and w of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Literal, cast

import torch
from torch import Tensor

Blend = Literal["uniform", "tapered"]
Place = tuple[EllipsisType, slice, slice]


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every ``stride`` pixels, the last one moved back to end with the side.

    Example:
        >>> window_starts(1024, 800, 534)
        [0, 224]
        >>> window_starts(600, 800, 534)
        [0]
    """
    return [*range(0, max(side - window, 0), stride), max(side - window, 0)]


def window_places(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> list[Place]:
    """Windows of an image as indices of its last two axes, row by row.

    Args:
        size: Height and width of the image.
        window: Height and width of a window, cut to those of the image.
        stride: Pixels from one window to the next, down and to the right.
    """
    sides, down, right = _grid(size, window, stride)
    return [_place(top, left, sides) for top in down for left in right]


def sliding_windows(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    blend: Blend = "uniform",
) -> Tensor:
    """Apply a function to overlapping windows and average what it returns.

    The windows of an image are taken one after another, so that the memory depends on their size. Where the weights of a pixel
    come from several windows, they sum to one. A window longer than a side of the image is cut to it: a window that covers the
    image gives what the function gives on the whole image, to the last bit.

    Args:
        function: Images (B, C, h, w) to maps (B, D, h, w).
        image: Shape (B, C, H, W).
        window: Height and width.
        stride: Pixels from one window to the next, down and to the right.
        blend: ``uniform`` weighs every pixel of a window alike, ``tapered`` in proportion to its distance to the border, down
            and to the right.

    Returns:
        Shape (B, D, H, W), float32.
    """
    size = (image.shape[2], image.shape[3])
    if len(window_places(size, window, stride)) == 1:
        return function(image).float()
    total: Tensor | None = None
    for place, weight in _weighted(image, window, stride, blend):
        part = function(image[place]).float()
        if total is None:
            total = part.new_zeros(part.shape[0], part.shape[1], *size)
        total[place].addcmul_(part, weight)
    return cast(Tensor, total)  # there is at least one window


def tiled_scores(
    function: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    image: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    blend: Blend = "tapered",
) -> tuple[Tensor, Tensor | None]:
    """Score large images tile by tile: the highest tile is the score of an image, maps are blended.

    Args:
        function: Images (B, C, h, w) to scores (B,) and maps (B, 1, h, w), or None for methods without maps.
        image: Shape (B, C, H, W), at least as large as a window.
        window: Height and width of a tile.
        stride: Pixels from one tile to the next, down and to the right.
        blend: See :func:`sliding_windows`.

    Returns:
        Scores (B,) and maps (B, 1, H, W), float32; beside them only one tile is in memory.
    """
    best: Tensor | None = None
    total: Tensor | None = None
    for place, weight in _weighted(image, window, stride, blend):
        score, part = function(image[place])
        best = score.float() if best is None else torch.maximum(best, score.float())
        if part is not None:
            if total is None:
                total = part.new_zeros(part.shape[0], part.shape[1], *image.shape[2:], dtype=torch.float32)
            total[place].addcmul_(part.float(), weight)
    return cast(Tensor, best), total


def _weighted(
    image: Tensor, window: tuple[int, int], stride: tuple[int, int], blend: Blend
) -> Iterator[tuple[Place, Tensor]]:
    """Windows of an image and the weights of their pixels, row by row."""
    size = (image.shape[2], image.shape[3])
    sides, down, right = _grid(size, window, stride)
    rows, columns = (
        _weights(starts, side, full, blend, image.device)
        for starts, side, full in zip((down, right), sides, size, strict=True)
    )
    for top, row in zip(down, rows, strict=True):
        for left, column in zip(right, columns, strict=True):
            yield _place(top, left, sides), row[:, None] * column


def _grid(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> tuple[list[int], list[int], list[int]]:
    """Sides of the windows of an image, where they begin from the top, and where from the left."""
    sides = [min(side, most) for side, most in zip(size, window, strict=True)]
    down, right = (window_starts(*each) for each in zip(size, sides, stride, strict=True))
    return sides, down, right


def _place(top: int, left: int, sides: list[int]) -> Place:
    return (..., slice(top, top + sides[0]), slice(left, left + sides[1]))


def _weights(starts: list[int], side: int, full: int, blend: Blend, device: torch.device) -> list[Tensor]:
    """Weights (side,) of each window along one axis; those of a pixel sum to one, and so do their products over both axes."""
    place = torch.arange(side, dtype=torch.float32, device=device)
    taper = torch.minimum(place, place.flip(0)) + 1 if blend == "tapered" else torch.ones_like(place)
    total = place.new_zeros(full)
    for start in starts:
        total[start : start + side] += taper
    return [taper / total[start : start + side] for start in starts]
