"""COCO files: polygons, plain and packed run lengths, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.coco import coco_pictures, is_coco

FILE = Path("a.json")


def content(*marked: Any, **changes: Any) -> dict[str, Any]:
    image = {"id": 5, "file_name": "kind\\0.png", "height": 4, "width": 5}
    annotations = [{"id": 7, "image_id": 5, "category_id": 1, "segmentation": each} for each in marked]
    return {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "dent"}], **changes}


def mask(*marked: Any, **changes: Any) -> list[list[int]]:
    (picture,) = coco_pictures(content(*marked, **changes), FILE)
    assert picture.name == "kind/0.png"
    return picture.drawing.mask((4, 5)).astype(int).tolist()


def packed(counts: list[int]) -> str:
    """COCO's packing, written from its description: differences, groups of five bits, lowest first, the sixth says that more follow."""
    text = ""
    for place, count in enumerate(counts):
        value = count - (counts[place - 2] if place > 2 else 0)
        more = True
        while more:
            part = value & 31
            value >>= 5
            more = value != (-1 if part & 16 else 0)
            text += chr(48 + (part | 32 if more else part))
    return text


def test_polygons_and_run_lengths_mark_the_same() -> None:
    square = [[1, 1, 4, 1, 4, 3, 1, 3]]
    counts = [5, 2, 2, 2, 2, 2, 5]
    expected = [[0] * 5, [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0] * 5]
    for marked in (square, square[0], {"counts": counts, "size": [4, 5]}, {"counts": packed(counts), "size": [4, 5]}):
        assert mask(marked) == expected
    assert mask() == [[0] * 5] * 4
    assert not coco_pictures(content(), FILE)[0].drawing.marks


def test_packed_run_lengths_of_any_size() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3000, 21).tolist()
    image = {"id": 5, "file_name": "a.png", "height": 1, "width": sum(counts)}
    (picture,) = coco_pictures(content({"counts": packed(counts)}, images=[image]), FILE)
    runs = picture.drawing.shapes[0].runs
    assert runs is not None
    assert runs.tolist() == counts


def test_a_category_of_the_background_takes_away() -> None:
    marked = content(
        [[0, 0, 5, 0, 5, 4, 0, 4]],
        [[0, 0, 3, 0, 3, 2, 0, 2]],
        categories=[{"id": 1, "name": "dent"}, {"id": 2, "name": "Hole"}],
    )
    marked["annotations"][1]["category_id"] = 2
    (picture,) = coco_pictures(marked, FILE)
    assert picture.drawing.mask((4, 5)).sum() == 20 - 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (content([]), "annotation 7 of 'a.json' has no segmentation, which says no pixels"),
        (content([[1, 2, 3, 4]]), "annotation 7 of 'a.json' has a polygon of 2 corners"),
        (content({"counts": [20], "size": [5, 4]}), r"run lengths of 5 x 4 pixels for a picture of 4 x 5 \(H x W\)"),
        (content({"counts": "~", "size": [4, 5]}), "cannot be unpacked"),
        (content({"counts": [21, -1]}), "negative run lengths"),
        (content({"size": [4, 5]}), r"not a COCO file as expected \(KeyError: 'counts'\)"),
        (
            content([[1, 1, 2, 1, 2, 2]], images=[{"id": 6, "file_name": "b.png"}]),
            "belongs to image 5, which the file does not list",
        ),
        (content(images=[{"id": 6}]), r"not a COCO file as expected \(KeyError: 'file_name'\)"),
        (content(annotations=[3]), "not a COCO file as expected"),
        (content(annotations=[{"id": 1, "image_id": 5, "bbox": [0, 0, 2, 2]}]), "no segmentation but a box"),
    ],
)
def test_what_marks_no_pixels_is_refused(changed: dict[str, Any], message: str) -> None:
    assert is_coco(changed)
    with pytest.raises(DatasetError, match=message):
        coco_pictures(changed, FILE)


def test_other_json() -> None:
    assert not any(map(is_coco, ([], {}, {"images": [], "shapes": []}, {"images": "x", "annotations": []})))
