"""COCO files: the annotated objects of every picture that they list. Axes: R runs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.polygons import BACKGROUND, Drawing, Shape, as_polygon

ADVICE = "Export the annotations as COCO instance segmentation again."


class CocoPicture(NamedTuple):
    """A picture as the file names it, with ``/`` between folders, and what is drawn in it."""

    name: str
    drawing: Drawing


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file is of this kind."""
    return isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content


def coco_pictures(content: dict[str, Any], file: Path) -> list[CocoPicture]:
    """All pictures of a COCO file; objects of every category are marked, crowds too, but for those of a background.

    Args:
        content: Of the file.
        file: For messages.

    Raises:
        DatasetError: a part that is missing or cannot be meant; names the annotation.
    """
    try:
        categories = {entry["id"]: str(entry.get("name", "")) for entry in content.get("categories", [])}
        images = {entry["id"]: entry for entry in content["images"]}
        names = {key: str(entry["file_name"]).replace("\\", "/") for key, entry in images.items()}
        sizes = {key: _size(entry) for key, entry in images.items()}
        shapes: dict[Any, list[Shape]] = defaultdict(list)
        for number, entry in enumerate(content["annotations"]):
            source = f"annotation {entry.get('id', number)} of '{file}'"
            if entry.get("image_id") not in images:
                raise DatasetError(
                    f"{source} belongs to image {entry.get('image_id')!r}, which the file does not list. {ADVICE}"
                )
            erases = categories.get(entry.get("category_id"), "").casefold() in BACKGROUND
            shape = _shape(entry, sizes[entry["image_id"]], source)
            shapes[entry["image_id"]].append(shape._replace(erases=erases))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"'{file}' is not a COCO file as expected ({type(error).__name__}: {error}). {ADVICE}"
        ) from error
    return [
        CocoPicture(name, Drawing(f"the annotation of {name!r} in '{file}'", sizes[key], tuple(shapes[key])))
        for key, name in names.items()
    ]


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    return None if not height or not width else (int(height), int(width))


def _shape(entry: dict[str, Any], size: tuple[int, int] | None, source: str) -> Shape:
    marked = entry.get("segmentation")
    if isinstance(marked, dict):
        stated = tuple(int(side) for side in marked.get("size") or ())
        if stated and size and stated != size:
            raise DatasetError(
                f"{source} has run lengths of {stated[0]} x {stated[1]} pixels for a picture of {size[0]} x {size[1]} (H x W). {ADVICE}"
            )
        counts = marked["counts"]
        runs = _packed(counts, source) if isinstance(counts, str | bytes) else np.asarray(counts, np.int64)
        if (runs < 0).any():
            raise DatasetError(f"{source} has negative run lengths. {ADVICE}")
        return Shape(runs=runs)
    if isinstance(marked, list) and marked and not isinstance(marked[0], list | tuple):
        marked = [marked]  # one polygon without the list around it
    if not marked:
        raise DatasetError(
            f"{source} has no segmentation{' but a box' if entry.get('bbox') else ''}, which says no pixels. Export polygons, or take it out."
        )
    return Shape(polygons=tuple(as_polygon(part, source) for part in marked))


def _packed(counts: str | bytes, source: str) -> npt.NDArray[np.int64]:
    """Run lengths of COCO's packed form: groups of 5 bits as characters, from the third on as differences to the last but one.

    Args:
        counts: The characters.
        source: For messages.

    Returns:
        Shape (R,).

    Raises:
        DatasetError: characters that cannot be.
    """
    data = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for character in data:
        part = character - 48
        if not 0 <= part < 64:
            raise DatasetError(f"{source} has run lengths that cannot be unpacked ({chr(character)!r}). {ADVICE}")
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        if part & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return np.array(runs, np.int64)
