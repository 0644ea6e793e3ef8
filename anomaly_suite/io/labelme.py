"""LabelMe files: the annotated objects of one picture."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.polygons import BACKGROUND, Drawing, Shape, as_polygon

CORNERS = 128  # of the polygon that a circle becomes


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is of this kind."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def labelme_drawing(content: dict[str, Any], file: Path) -> Drawing:
    """What is drawn in the picture of a LabelMe file; all labels are marked, but for those of a background.

    Polygons of one label and group are parts of one object, and one of them inside the others is a hole.

    Args:
        content: Of the file.
        file: For messages.

    Raises:
        DatasetError: a shape that marks no area, or cannot be read; names it.
    """
    height, width = content.get("imageHeight"), content.get("imageWidth")
    groups: dict[Any, Shape] = {}
    for number, entry in enumerate(content["shapes"]):
        source = f"shape {number} of '{file}'"
        if not isinstance(entry, dict) or not isinstance(entry.get("points"), list):
            raise DatasetError(f"{source} has no list of points. Save the annotation with LabelMe again.")
        label = str(entry.get("label", ""))
        shape = _shape(entry, source)._replace(erases=label.casefold() in BACKGROUND)
        group = entry.get("group_id")
        key = number if group is None or not shape.polygons else (label, group)
        groups[key] = shape._replace(polygons=(groups[key].polygons if key in groups else ()) + shape.polygons)
    size = (int(height), int(width)) if height and width else None
    return Drawing(f"'{file}'", size, tuple(groups.values()))


def _shape(entry: dict[str, Any], source: str) -> Shape:
    kind, points = entry.get("shape_type") or "polygon", entry["points"]
    try:
        if kind in ("polygon", "rotation"):
            return Shape(polygons=(as_polygon(points, source),))
        if kind == "rectangle":
            corners = np.asarray(points, np.float64).reshape(-1, 2)
            (left, top), (right, bottom) = corners.min(0), corners.max(0)
            return Shape(polygons=(as_polygon([[left, top], [right, top], [right, bottom], [left, bottom]], source),))
        if kind == "circle":
            centre, edge = np.asarray(points, np.float64).reshape(2, 2)
            angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
            around = np.stack([np.cos(angle), np.sin(angle)], 1) * np.linalg.norm(edge - centre)
            return Shape(polygons=(as_polygon(centre + around, source),))
        if kind == "mask":
            left, top = np.asarray(points, np.float64).reshape(-1, 2).min(0)
            stored = np.frombuffer(base64.b64decode(entry["mask"]), np.uint8)
            bitmap = cv2.imdecode(stored, cv2.IMREAD_GRAYSCALE)
            if bitmap is None:
                raise ValueError("the bitmap is no image")
            return Shape(bitmap=bitmap > 0, corner=(round(top), round(left)))
    except (KeyError, TypeError, ValueError, binascii.Error, cv2.error) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{source} is no {kind} as LabelMe stores it ({error}). Save the annotation with LabelMe again."
        ) from error
    raise DatasetError(
        f"{source} is a {kind}, which marks no area; polygon, rectangle, circle and mask do. Draw its outline, or delete it."
    )
