"""Masks from polygons and run lengths, against matplotlib's test of points and a slow loop."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.polygons import Drawing, Shape, as_polygon, fill, unite

SQUARE = np.array([[2.0, 3], [6, 3], [6, 8], [2, 8]])


def inside(polygon: Any, size: tuple[int, int]) -> Any:
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    return Path(polygon).contains_points(centres).reshape(size)


def moved(by: float) -> Any:
    return SQUARE + by


def test_pixels_whose_centres_lie_inside() -> None:
    rng = np.random.default_rng(0)
    for corners in (3, 4, 7, 40):
        angle = np.sort(rng.random(corners)) * 2 * np.pi
        radius = rng.uniform(5, 45, corners)
        polygon = np.stack([30 + radius * np.cos(angle), 40 + radius * np.sin(angle)], 1)  # reaches beyond the picture
        found = fill(polygon, (70, 55))
        assert np.array_equal(found, inside(polygon, (70, 55)))
        assert np.array_equal(found, fill(polygon[::-1], (70, 55)))
    assert not fill(SQUARE + 100, (70, 55)).any()
    assert fill(SQUARE, (12, 10)).sum() == 20  # its area


def test_parts_holes_islands_and_repeated_parts() -> None:
    inner, outer = (SQUARE - 4) / 4 + 4, (SQUARE - 4) * 2 + 8
    size = (20, 20)
    hole = fill(outer, size) & ~fill(SQUARE + 4, size)
    assert np.array_equal(unite([SQUARE + 4, outer], size), hole)
    assert np.array_equal(unite([inner + 4, outer, SQUARE + 4], size), hole | fill(inner + 4, size))
    assert np.array_equal(unite([SQUARE, SQUARE + 1, SQUARE], size), fill(SQUARE, size) | fill(SQUARE + 1, size))
    assert not unite([], size).any()


def test_shapes_of_a_drawing() -> None:
    bitmap = Shape(bitmap=np.ones((2, 3), bool), corner=(0, 1))
    erased = Shape(polygons=(SQUARE,), erases=True)
    drawing = Drawing("a.json", (12, 10), (erased, Shape(polygons=(SQUARE, SQUARE + 1)), bitmap))
    expected = fill(SQUARE + 1, (12, 10)) & ~fill(SQUARE, (12, 10))
    expected[:2, 1:4] = True
    assert np.array_equal(drawing.mask((12, 10)), expected)
    assert drawing.marks
    assert not Drawing("a.json", None, (erased,)).marks


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (Drawing("a.json", (10, 12), ()), r"a\.json was drawn on 10 x 12 pixels, but its image 'a\.png' is 12 x 10 .*set exif to the other value"),
        (Drawing("a.json", (24, 20), ()), r"drawn on 24 x 20 pixels, .* Annotate the picture that is read"),
        (Drawing("a.json", (12, 10), (Shape((SQUARE + 20,)),)), r"from \(22, 23\) to \(26, 28\), which leaves its image 'a\.png' of 12 x 10"),
        (Drawing("a.json", None, (Shape((SQUARE + 5,)),)), r"from \(7, 8\) to \(11, 13\)|from \(7, 8\)"),
        (Drawing("a.json", None, (Shape((SQUARE * 3,)),)), r"which leaves its image"),
    ],
)  # fmt: skip
def test_pictures_of_another_size(drawing: Drawing, message: str) -> None:
    if "7, 8" in message:  # a corner a pixel beyond the edge is cut off
        drawing.require_size(File("a.png"), (12, 10))
        return
    with pytest.raises(DatasetError, match=message):
        drawing.require_size(File("a.png"), (12, 10), (10, 12))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1, 2, 3, 4], "of 2 corners; three are needed"),
        ([1, 2, 3, 4, 5], "is no list of x and y in turn"),
        (["a", "b"], "is no list of x and y in turn"),
        ([1, 2, 3, float("nan"), 5, 6], "corner that is no finite number"),
        ([0.1, 0.2, 0.5, 0.2, 0.5, 0.9], r"within one pixel \(0.1 to 0.9\), as shares of the picture"),
    ],
)
def test_no_polygons(numbers: list[Any], message: str) -> None:
    with pytest.raises(DatasetError, match=f"it has a polygon .*{message}"):
        as_polygon(numbers, "it")


def test_bitmaps_and_runs_that_leave_the_picture() -> None:
    with pytest.raises(
        DatasetError, match="a bitmap of 2 x 3 pixels at row 11, column 1, which leaves the picture of 12 x 10"
    ):
        Drawing("it", None, (Shape(bitmap=np.ones((2, 3), bool), corner=(11, 1)),)).mask((12, 10))
    with pytest.raises(DatasetError, match="add up to 12 x 10 pixels; got 5"):
        Drawing("it", None, (Shape(runs=np.array([2, 3])),)).mask((12, 10))
