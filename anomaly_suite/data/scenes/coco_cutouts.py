"""Outlier objects from a COCO annotation file.

What is kept in memory are numbers in a few arrays, so that loader processes share them; images are read one by one.
Axes: H and W pixels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from anomaly_suite.data.scenes.anomaly_mix import Cutout
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, did_you_mean
from anomaly_suite.io.folders import require_files
from anomaly_suite.io.images import read_image
from anomaly_suite.io.polygons import decode_runs

log = logging.getLogger(__name__)

Exclusion = Literal["released", "disjoint"]

RELEASED = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign")
# What else Cityscapes, Road Anomaly, Lost and Found, and Fishyscapes Static contain; the Pascal VOC list is from memory.
DISJOINT = (
    *RELEASED,
    "train",
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    "sports ball",
    *("airplane", "boat", "bottle", "chair", "couch", "tv"),
)

SUBPIXEL_BITS = 4  # of polygon coordinates


class CocoCutouts:
    """Objects of a COCO annotation file, drawn when they are read.

    Polygons are drawn with their outlines, which makes objects up to a pixel wider than COCO's own tool does. Images
    without annotations are left out.

    Args:
        annotations: ``<root>/annotations/instances_<part>.json``; its images lie in ``<root>/<part>``.
        exclude: See :func:`open_cutouts`.
        min_size: See :func:`open_cutouts`.
        class_share: See :func:`open_cutouts`.
        seed: Decides which classes these are.

    Raises:
        ConfigError: an unknown class in a list of names.
        DatasetNotFoundError: no annotation file.
        DatasetError: it is not a COCO file, or no image passes.
    """

    def __init__(
        self,
        annotations: Path,
        *,
        exclude: Exclusion | Sequence[str],
        min_size: int,
        class_share: float = 1.0,
        seed: int = 0,
    ) -> None:
        content = _read_annotations(annotations)
        categories = {record["id"]: record["name"] for record in content["categories"]}
        names = {"released": RELEASED, "disjoint": DISJOINT}[exclude] if isinstance(exclude, str) else tuple(exclude)
        for name in () if isinstance(exclude, str) else names:
            if name not in categories.values():
                raise ConfigError(f"'{annotations}' has no class {name!r}.{did_you_mean(name, categories.values())}")
        banned = {annotation[0] for annotation in content["annotations"] if categories.get(annotation[1]) in names}
        size = {
            record["id"]: (record["height"], record["width"])
            for record in content["images"]
            if record["id"] not in banned and min(record["height"], record["width"]) >= min_size
        }
        used = set(categories)
        if class_share < 1:
            free = sorted(number for number, name in categories.items() if name not in names)
            order = np.random.default_rng((seed, 4)).permutation(free)
            used = set(order[: max(1, round(class_share * len(free)))].tolist())
            log.info(
                "outliers of %d of %d classes: %s", len(used), len(free), ", ".join(categories[n] for n in sorted(used))
            )
        drawn = [
            annotation
            for annotation in content["annotations"]
            if annotation[0] in size and annotation[1] in used and annotation[3]
        ]
        drawn.sort(key=lambda annotation: annotation[0])  # stable: objects of an image keep their order
        if not drawn:
            raise DatasetError(
                f"no image of '{annotations}' has annotations, at least {min_size} px on both sides and none of the classes "
                f"{', '.join(names)}. Change outlier_exclude or outlier_min_size."
            )
        images = list(dict.fromkeys(annotation[0] for annotation in drawn))
        file_name = {record["id"]: record["file_name"] for record in content["images"]}
        folder = annotations.parent.parent / annotations.stem.removeprefix("instances_")
        self.files = [folder / file_name[image] for image in images]
        require_files(self.files, source=f"'{annotations}'")
        self.size = np.array([size[image] for image in images])
        # Shapes one after another: numbers, where each begins, its image, whether it is run lengths, its object's number.
        flat = [
            (image, runs, number, part) for number, (image, _, runs, parts) in enumerate(drawn, 1) for part in parts
        ]
        self.numbers = np.concatenate([part for *_, part in flat])
        self.begin = np.cumsum([0, *(len(part) for *_, part in flat)])
        self.image = np.searchsorted(images, [image for image, *_ in flat])
        self.runs = np.array([runs for _, runs, *_ in flat])
        self.instance = np.array([number for _, _, number, _ in flat], np.int32)
        what = exclude if isinstance(exclude, str) else "given"
        log.info(
            "outliers: %d images of '%s'; classes left out (%s): %s", len(self), annotations, what, ", ".join(names)
        )

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Cutout:
        """Draw all objects of one image, crowds included; a later one covers an earlier one.

        Raises:
            DatasetError: the image has another size than its annotation says, or run lengths do not fill it.
            ImageReadError: the image cannot be read.
        """
        path, size = self.files[index], tuple(self.size[index].tolist())
        image = read_image(path)
        if image.shape[:2] != size:  # annotated as it is stored, not as it is seen
            image = read_image(path, exif="ignore")
        if image.shape[:2] != size:
            raise DatasetError(
                f"'{path}' is {image.shape[0]} x {image.shape[1]}, but its annotation says {size[0]} x {size[1]} (H x W). "
                "Restore the image."
            )
        instance = np.zeros(size, np.int32)
        first, last = np.searchsorted(self.image, [index, index + 1])
        for shape in range(first, last):
            numbers = self.numbers[self.begin[shape] : self.begin[shape + 1]]
            if self.runs[shape]:
                instance[decode_runs(numbers, size)] = self.instance[shape]
            else:
                cv2.fillPoly(instance, [numbers.reshape(-1, 2)], int(self.instance[shape]), shift=SUBPIXEL_BITS)
        return Cutout(image, instance)


def _read_annotations(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetNotFoundError(f"there is no annotation file '{path}'. Correct outliers.")
    try:
        content = json.loads(path.read_bytes(), object_hook=_compact)
        for part, keys in (("images", {"id", "file_name", "height", "width"}), ("categories", {"id", "name"})):
            if not all(keys <= record.keys() for record in content[part]):
                raise ValueError(f"{part} without {', '.join(sorted(keys))}")
        if not all(isinstance(annotation, tuple) for annotation in content["annotations"]):
            raise ValueError("annotations without image_id, category_id and segmentation")
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"'{path}' is not a COCO file of instances with polygons or plain run lengths ({error}). "
            "Use instances_train2017.json, or another file in its format."
        ) from error
    return dict(content)


def _compact(record: dict[str, Any]) -> Any:
    """Turn an annotation into (image, category, whether it is run lengths, int32 numbers of each part) while parsing.

    As Python numbers the polygons of COCO would take gigabytes. Polygons become fixed-point coordinates of pixel centres.
    """
    if not {"image_id", "category_id", "segmentation"} <= record.keys():
        return record
    shapes = record["segmentation"]
    runs = isinstance(shapes, dict)
    if runs:
        parts = [np.array(shapes["counts"], dtype=np.int32)]
    else:
        parts = [np.rint((np.array(part) - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32) for part in shapes]
    return record["image_id"], record["category_id"], runs, [part for part in parts if len(part)]
