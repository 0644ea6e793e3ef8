"""Where outlier objects come from: COCO annotations, folders of cut-outs, or shapes that are drawn.

What is kept in memory are numbers in a few arrays, so that loader processes share them; images are read one by one.
Axes: H and W pixels.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.data.files import (
    check_file,
    pair_masks,
    read_image,
    read_mask,
    require_files,
    require_images,
)
from anomaly_suite.data.scenes.anomaly_mix import Cutout
from anomaly_suite.data.sets import derive_seed
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageReadError, did_you_mean

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

SHAPES = "shapes"
SUBPIXEL_BITS = 4  # of polygon coordinates


class Cutouts(Protocol):
    """A pool of images with outlier objects."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Cutout:
        """One of them."""
        ...


def open_cutouts(source: str, *, exclude: Exclusion | Sequence[str], min_size: int, height: int, seed: int) -> Cutouts:
    """The pool behind the option ``outliers``; logs what it holds and which classes were left out.

    Args:
        source: ``shapes``; a COCO annotation file ``<root>/annotations/instances_<part>.json`` with images in
            ``<root>/<part>``, or that ``<root>``; the masks ``<root>/annotations/ood_seg_<part>`` that the Meta-OoD recipe
            prepares beside ``<root>/<part>``, or a ``<root>`` with them and no annotation file; a folder with ``images`` and
            ``masks`` of equal names; a folder of RGBA images.
        exclude: Images with any object of these COCO classes are left out: a list of names, ``released`` (the 8 names of the
            Meta-OoD recipe) or ``disjoint`` (all that the test sets contain, too).
        min_size: Least height and width of a COCO image in pixels.
        height: Height of the scenes in pixels, which decides how large ``shapes`` are.
        seed: Decides ``shapes``.

    Raises:
        ConfigError: an unknown class, or an exclusion that prepared masks cannot grant.
        DatasetNotFoundError: nothing of the kind is there.
        DatasetError: the annotations are not those of COCO, or no image passes.
    """
    if source == SHAPES:
        return ShapeCutouts(seed=seed, height=height)
    path = Path(source).expanduser()
    annotations = path if path.suffix == ".json" else _annotation_file(path)
    if annotations is not None:
        return CocoCutouts(annotations, exclude=exclude, min_size=min_size)
    prepared = path if path.name.startswith("ood_seg_") else next(path.glob("annotations/ood_seg_*"), None)
    if prepared is not None:
        if exclude != "released":
            raise ConfigError(
                f"the masks in '{prepared}' name no classes, so outlier_exclude: {exclude} cannot be kept. "
                "Give the COCO annotation file, or leave outlier_exclude: released."
            )
        log.info("outliers from '%s'; classes left out: those of whoever prepared it (8 in the recipe)", prepared)
        return FolderCutouts(prepared.parent.parent / prepared.name.removeprefix("ood_seg_"), prepared)
    if (path / "images").is_dir() and (path / "masks").is_dir():
        return FolderCutouts(path / "images", path / "masks")
    if not path.is_dir():
        raise DatasetNotFoundError(
            f"outliers expects 'shapes', a COCO annotation file or a folder; '{path}' does not exist. Correct the path."
        )
    return FolderCutouts(path, None)


def _annotation_file(root: Path) -> Path | None:
    found = sorted(root.glob("annotations/instances_*.json"))
    train = [file for file in found if file.stem.startswith("instances_train")]
    if len(found) > 1 and len(train) != 1:
        names = ", ".join(file.name for file in found)
        raise ConfigError(f"'{root}' holds several annotation files ({names}). Give the path of one as outliers.")
    return next(iter(train or found), None)


class CocoCutouts:
    """Objects of a COCO annotation file, drawn when they are read.

    Polygons are drawn with their outlines, which makes objects up to a pixel wider than COCO's own tool does. Images
    without annotations are left out.

    Args:
        annotations: ``<root>/annotations/instances_<part>.json``; its images lie in ``<root>/<part>``.
        exclude: See :func:`open_cutouts`.
        min_size: See :func:`open_cutouts`.

    Raises:
        ConfigError: an unknown class in a list of names.
        DatasetNotFoundError: no annotation file.
        DatasetError: it is not a COCO file, or no image passes.
    """

    def __init__(self, annotations: Path, *, exclude: Exclusion | Sequence[str], min_size: int) -> None:
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
        drawn = [annotation for annotation in content["annotations"] if annotation[0] in size and annotation[3]]
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
        """Draw all objects of one image, crowds included; a later one covers an earlier one."""
        path, size = self.files[index], tuple(self.size[index].tolist())
        image = read_image(path)
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


def decode_runs(counts: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
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
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T


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


class FolderCutouts:
    """Images with a mask each, or RGBA images whose opaque half is the object.

    In masks every connected region counts as one object.

    Args:
        images: Folder of the images, RGBA if there are no masks.
        masks: Folder of masks with the same names (a mask may end in ``_mask``); images without a mask are left out.

    Raises:
        DatasetNotFoundError: a folder is missing or empty.
        DatasetError: a mask has no image.
    """

    def __init__(self, images: Path, masks: Path | None) -> None:
        self.files = require_images(images, dataset="outliers")
        self.masks: list[Path] = []
        if masks is not None:
            require_images(masks, dataset="outliers")
            stems = {file: file.relative_to(images).with_suffix("").as_posix() for file in self.files}
            pairs = pair_masks(masks, {file: [stem, f"{stem}_mask"] for file, stem in stems.items()})
            self.files, self.masks = list(pairs), list(pairs.values())
        log.info("outliers: %d images of '%s'", len(self), images)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Cutout:
        """Read one image and its objects."""
        if not self.masks:
            return _read_rgba(self.files[index])
        image = read_image(self.files[index])
        mask = read_mask(self.masks[index], anomalous=False)
        if mask.shape != image.shape[:2]:
            raise DatasetError(
                f"mask '{self.masks[index]}' is {mask.shape}, but '{self.files[index]}' is {image.shape[:2]} (H, W). "
                "Give every mask the size of its image."
            )
        return Cutout(image, cv2.connectedComponents(mask)[1])


def _read_rgba(path: Path) -> Cutout:
    from PIL import Image  # OpenCV turns a palette with transparency into RGB

    check_file(path)
    try:
        with Image.open(path) as file:
            if not file.has_transparency_data:
                raise DatasetError(
                    f"'{path}' has no transparency to cut its object out. Give RGBA images, or folders 'images' and 'masks'."
                )
            pixels = np.asarray(file.convert("RGBA"))
    except OSError as error:
        raise ImageReadError(f"'{path}' is not a readable image: {error}. Replace the file.") from error
    return Cutout(np.ascontiguousarray(pixels[..., :3]), (pixels[..., 3] >= 128).astype(np.int32))


class ShapeCutouts:
    """Ellipses and diamonds in two random colours, checked, spotted or speckled; made when they are read.

    Args:
        seed: Decides all of them.
        height: Height of the scenes in pixels; shapes are 0.12 to 0.4 of it across.
    """

    def __init__(self, *, seed: int, height: int) -> None:
        self.seed = seed
        self.height = height

    def __len__(self) -> int:
        return 4096

    def read(self, index: int) -> Cutout:
        """Draw one shape."""
        rng = np.random.default_rng(derive_seed(self.seed, index))
        side = max(3, round(self.height * rng.uniform(0.12, 0.4)))
        steps = np.linspace(-1, 1, side)
        angle, aspect = rng.uniform(0, math.pi), rng.uniform(0.5, 1)
        along = steps * math.cos(angle) + steps[:, None] * math.sin(angle)
        across = (steps[:, None] * math.cos(angle) - steps * math.sin(angle)) / aspect
        inside = along**2 + across**2 <= 1 if rng.random() < 0.5 else np.abs(along) + np.abs(across) <= 1
        cycles = rng.uniform(2, 4) * math.pi
        waves = np.sin(cycles * along + rng.uniform(0, 6)), np.sin(cycles * across + rng.uniform(0, 6))
        kind = rng.integers(3)
        pattern = (waves[0] * waves[1] > 0, waves[0] + waves[1] > 0.6, rng.random((side, side)) < 0.5)[kind]
        colours = rng.uniform(0, 255, (2, 3))
        image = colours[pattern.astype(int)] + rng.normal(0, 6, (side, side, 1))
        return Cutout(image.round().clip(0, 255).astype(np.uint8), inside.astype(np.int32))
