"""LabelMe files: every kind of shape, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.labelme import is_labelme, labelme_drawing

FILE = Path("a.json")
BITMAP = np.array([[0, 255, 255], [255, 255, 0]], np.uint8)
ENCODED = base64.b64encode(cv2.imencode(".png", BITMAP)[1].tobytes()).decode()


def shape(points: Any, kind: str | None = "polygon", **changes: Any) -> dict[str, Any]:
    return {"label": "dent", "points": points, "group_id": None, "shape_type": kind, "flags": {}, **changes}


def mask(*shapes: dict[str, Any], **changes: Any) -> Any:
    content = {"version": "5.5.0", "shapes": list(shapes), "imageHeight": 20, "imageWidth": 30, **changes}
    return labelme_drawing(content, FILE).mask((20, 30))


def test_every_kind_of_shape() -> None:
    square = [[2, 3], [12, 3], [12, 9], [2, 9]]
    expected = np.zeros((20, 30), bool)
    expected[3:9, 2:12] = True
    for same in (shape(square), shape(square, None), shape([[12, 9], [2, 3]], "rectangle"), shape(square, "rotation")):
        assert np.array_equal(mask(same), expected)
    circle = mask(shape([[15, 10], [15, 16]], "circle"))
    assert abs(circle.sum() - np.pi * 36) < 3
    assert circle[10, 20]
    assert not circle[10, 21]
    found = mask(shape([[4, 5], [6, 6]], "mask", mask=ENCODED))
    assert np.array_equal(found[5:7, 4:7], BITMAP > 0)
    assert found.sum() == 4


def test_groups_have_holes_and_a_background_takes_away() -> None:
    outer, inner = [[0, 0], [10, 0], [10, 10], [0, 10]], [[2, 2], [5, 2], [5, 5], [2, 5]]
    assert mask(shape(outer), shape(inner)).sum() == 100  # two objects
    assert mask(shape(inner, group_id=1), shape(outer, group_id=1)).sum() == 91
    assert mask(shape(inner, group_id=1), shape(outer, group_id=2)).sum() == 100
    assert mask(shape(inner, label="_background_"), shape(outer)).sum() == 91
    assert not labelme_drawing({"shapes": [shape(inner, label="__ignore__")]}, FILE).marks


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            shape([[1, 2]], "point"),
            r"shape 0 of 'a\.json' is a point, which marks no area; polygon, rectangle, circle and mask do",
        ),
        (shape([[1, 2], [3, 4]], "line"), "is a line, which marks no area"),
        (shape([[1, 2], [3, 4]]), "a polygon of 2 corners"),
        (shape([], "rectangle"), "is no rectangle as LabelMe stores it"),
        (shape([[1, 2]], "circle"), "is no circle as LabelMe stores it"),
        (shape([[4, 5], [6, 6]], "mask"), "is no mask as LabelMe stores it"),
        (shape([[4, 5], [6, 6]], "mask", mask="AAAA"), "is no mask as LabelMe stores it"),
        ({"label": "a"}, "has no list of points"),
        (3, "has no list of points"),
    ],
)
def test_what_marks_no_area_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        mask(entry)


def test_other_json() -> None:
    assert is_labelme({"shapes": []})
    assert not any(map(is_labelme, ([], {}, {"shapes": 3})))
    assert labelme_drawing({"shapes": [], "imageHeight": None}, FILE).size is None
