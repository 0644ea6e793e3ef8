"""Masks drawn from what annotation tools store: polygons, run lengths, cut-out bitmaps.

Coordinates are x and y in pixels, (0, 0) being the upper left corner of the picture, as COCO and LabelMe have them; a pixel is inside where
its centre is. OpenCV would add the outline, half a pixel all round. Axes: H and W pixels, N corners, R runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import DatasetError

Mask = npt.NDArray[np.bool_]
BACKGROUND = frozenset({"_background_", "__ignore__", "background", "hole", "holes"})
"""Labels that tools keep for what is no object: such a shape takes away what others have marked."""


class Shape(NamedTuple):
    """One annotated object.

    ``polygons`` have shape (N, 2) each: all are united, but one that lies inside the others is a hole. ``runs`` (R,) are run lengths over the
    whole picture (COCO). ``bitmap`` (h, w) stands with its upper left pixel at ``corner``, row and column (LabelMe). ``erases`` takes away
    what other shapes mark.
    """

    polygons: tuple[npt.NDArray[np.float64], ...] = ()
    runs: npt.NDArray[np.int64] | None = None
    bitmap: Mask | None = None
    corner: tuple[int, int] = (0, 0)
    erases: bool = False


class Drawing(NamedTuple):
    """What is annotated in one picture; ``size`` is the picture's height and width where the file says it, ``source`` is for messages."""

    source: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]

    @property
    def marks(self) -> bool:
        """Whether any shape marks something."""
        return any(not shape.erases for shape in self.shapes)

    def require_size(self, image: Path, size: tuple[int, int], turned: tuple[int, int] | None = None) -> None:
        """Check that a picture has the size that it was annotated with.

        Args:
            image: The picture, for the message.
            size: Its height and width.
            turned: Those that it would have if its rotation mark (EXIF) were read in the other way.

        Raises:
            DatasetError: it has not, or a shape lies outside of it.
        """
        if self.size is not None and self.size != size:
            advice = "Annotate the picture that is read, or give the picture that was annotated."
            if self.size == turned:
                advice = "The image has a rotation mark (EXIF) that the annotation does not follow: set exif to the other value."
            raise DatasetError(
                f"{self.source} was drawn on {self.size[0]} x {self.size[1]} pixels, but its image '{image}' is {size[0]} x {size[1]} (H x W). {advice}"
            )
        for polygon in (each for shape in self.shapes for each in shape.polygons):
            low, high = polygon.min(0), polygon.max(0)
            height, width = size
            beyond = 1 if self.size is None else max(size)  # a corner a bit outside is cut off where the size is known
            if (high <= 0).any() or (low >= (width, height)).any() or (high > np.add((width, height), beyond)).any():
                raise DatasetError(
                    f"{self.source} has a polygon from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}), which leaves its image '{image}' of "
                    f"{height} x {width} pixels (H x W). Annotate the picture that is read."
                )

    def mask(self, size: tuple[int, int]) -> Mask:
        """Draw all shapes, those that erase last.

        Args:
            size: Height and width of the picture, as :meth:`require_size` has checked it.

        Returns:
            Shape (H, W).

        Raises:
            DatasetError: run lengths or a bitmap do not fit the picture.
        """
        found = np.zeros(size, np.bool_)
        for shape in sorted(self.shapes, key=lambda shape: shape.erases):
            drawn = self._draw(shape, size)
            found = found & ~drawn if shape.erases else found | drawn
        return found

    def _draw(self, shape: Shape, size: tuple[int, int]) -> Mask:
        found = np.zeros(size, np.bool_)
        if shape.runs is not None:
            found |= decode_runs(shape.runs, size)
        if shape.bitmap is not None:
            (top, left), (height, width) = shape.corner, shape.bitmap.shape
            if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
                raise DatasetError(
                    f"{self.source} has a bitmap of {height} x {width} pixels at row {top}, column {left}, which leaves the picture of "
                    f"{size[0]} x {size[1]} (H x W). Annotate the picture that is read."
                )
            found[top : top + height, left : left + width] |= shape.bitmap
        return found | unite(shape.polygons, size)


def unite(polygons: Sequence[npt.NDArray[np.float64]], size: tuple[int, int]) -> Mask:
    """Polygons of one object: parts are united, one that lies inside what is drawn already is a hole, and one inside a hole an island.

    Args:
        polygons: Corners, shape (N, 2) each.
        size: Height and width.

    Returns:
        Shape (H, W).

    Example:
        >>> square, hole = np.array([[0, 0], [4, 0], [4, 4], [0, 4.0]]), np.array([[1, 1], [2, 1], [2, 2], [1, 2.0]])
        >>> int(unite([hole, square], (5, 5)).sum())
        15
    """
    found = np.zeros(size, np.bool_)
    masks = sorted((fill(polygon, size) for polygon in polygons), key=lambda mask: -int(mask.sum()))
    for number, mask in enumerate(masks):
        if any(np.array_equal(mask, other) for other in masks[:number]):
            continue  # stored twice
        is_hole = not (mask & ~found).any()
        found = found & ~mask if is_hole else found | mask
    return found


def fill(polygon: npt.NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """Pixels whose centres lie inside a polygon; where it crosses itself, those that are enclosed an odd number of times.

    Args:
        polygon: Corners x and y, shape (N, 2); what lies outside of the picture is cut off.
        size: Height and width.

    Returns:
        Shape (H, W).

    Example:
        >>> fill(np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]]), (2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    height, width = size
    found = np.zeros(size, np.bool_)
    start, end = polygon, np.roll(polygon, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)  # rows whose centres an edge crosses
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    count = np.maximum(last - first, 0)
    if not count.any():
        return found
    edge = np.repeat(np.arange(len(start)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    crossing = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    top, bottom, left, right = row.min(), row.max() + 1, column.min(), column.max()
    if left < right:
        shape = bottom - top, right - left + 1
        turns = np.bincount((row - top) * shape[1] + column - left, minlength=math.prod(shape)).reshape(shape)
        found[top:bottom, left:right] = np.cumsum(turns, axis=1)[:, :-1] % 2 == 1
    return found


def as_polygon(numbers: Any, source: str) -> npt.NDArray[np.float64]:
    """Corners of a polygon from what a file holds.

    Args:
        numbers: Pairs, or x and y in turn.
        source: Where they stand, for messages.

    Returns:
        Shape (N, 2).

    Raises:
        DatasetError: no numbers, fewer than three corners, or shares of the picture in place of pixels.
    """
    try:
        polygon = np.asarray(numbers, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{source} has a polygon that is no list of x and y in turn ({error}). Export the annotations again."
        ) from error
    if len(polygon) < 3:
        raise DatasetError(f"{source} has a polygon of {len(polygon)} corners; three are needed. Correct or delete it.")
    if not np.isfinite(polygon).all():
        raise DatasetError(
            f"{source} has a polygon with a corner that is no finite number. Export the annotations again."
        )
    if np.abs(polygon).max() <= 1:
        raise DatasetError(
            f"{source} has a polygon within one pixel ({polygon.min():g} to {polygon.max():g}), as shares of the picture would be; coordinates are "
            "pixels. Export the annotations in pixels."
        )
    return polygon


def decode_runs(counts: npt.NDArray[Any], size: tuple[int, int]) -> Mask:
    """Mask from run lengths: outside, inside, outside and so on, counted down the columns.

    Args:
        counts: Pixels of each run, shape (R,).
        size: Height and width.

    Returns:
        Shape (H, W).

    Raises:
        DatasetError: the runs do not fill the mask exactly.

    Example:
        >>> decode_runs(np.array([1, 2, 1]), (2, 2)).astype(int).tolist()
        [[0, 1], [1, 0]]
    """
    if counts.sum() != math.prod(size):
        raise DatasetError(
            f"run lengths must add up to {size[0]} x {size[1]} pixels; got {counts.sum()}. Restore the annotation file."
        )
    mask: Mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T
    return mask
