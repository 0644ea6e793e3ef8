"""Driving scenes in files: an image and its label image, read safely and together. Axes: H and W pixels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.contract import VOID
from anomaly_suite.data.scenes.labels import read_label
from anomaly_suite.data.transforms import Pixels
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.folders import by_name, check_leaks, image_files, require_images, require_once, same_name
from anomaly_suite.io.images import area_or_linear, read_image
from anomaly_suite.io.regular import require_regular

log = logging.getLogger(__name__)

ENDS = ("label", "labels", "mask")
"""What the name of a user's label file may add to that of its image, after an underscore."""


class SceneSource(Protocol):
    """Images with label numbers, in files or in memory; ``names`` say what ``image_path`` says of each."""

    names: list[str]

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Image (H, W, 3) and label numbers (H, W)."""
        ...


class Scene(NamedTuple):
    """One image file and its label file; ``overlay`` is added to the image, see :func:`add_overlay`.

    ``mask`` is a file with numbers of an ood mask, where these are not in the label file.
    """

    image: Path
    label: Path
    overlay: Path | None = None
    mask: Path | None = None


class SceneFiles:
    """Scenes in files.

    Args:
        scenes: The files.
        image_size: Height and width to which images are resized (by area averaging where they shrink) and labels (nearest
            pixel); None keeps every size.
    """

    def __init__(self, scenes: Sequence[Scene], *, image_size: tuple[int, int] | None = None) -> None:
        self.scenes = scenes
        self.image_size = image_size
        self.names = [str(scene.image) for scene in scenes]

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Read one scene.

        Returns:
            Image (H, W, 3) and label numbers (H, W).

        Raises:
            DatasetError: image and label differ in size, or one cannot be used.
            ImageReadError: a file cannot be read.
        """
        scene = self.scenes[index]
        image, label = read_image(scene.image), read_label(scene.label)
        if image.shape[:2] != label.shape:
            raise DatasetError(
                f"label '{scene.label}' is {label.shape}, but its image '{scene.image}' is {image.shape[:2]} (H, W). "
                "Restore the published files: labels are never resized."
            )
        if scene.overlay is not None:
            image = add_overlay(image, scene.overlay)
        return (image, label) if self.image_size is None else resize(image, label, self.image_size)

    def read_mask(self, index: int) -> Pixels:
        """Numbers of the ood mask of one scene that has a file of it, (H, W).

        Raises:
            DatasetError: it cannot be used.
            ImageReadError: it cannot be read.
        """
        mask = self.scenes[index].mask
        if mask is None:
            raise DatasetError(
                f"'{self.names[index]}' must have a file of its ood mask; there is none. Complete the masks."
            )
        pixels = read_label(mask)
        return pixels if self.image_size is None else resize_label(pixels, self.image_size)


class UnlabelledFiles:
    """Scenes in files of which nothing is known, for predictions; all their label numbers are 255.

    Args:
        images: The files.
        image_size: As of :class:`SceneFiles`.
    """

    def __init__(self, images: Sequence[Path], *, image_size: tuple[int, int] | None = None) -> None:
        self.images = images
        self.image_size = image_size
        self.names = [str(path) for path in images]

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Image (H, W, 3) and label numbers (H, W).

        Raises:
            ImageReadError: the file cannot be read.
        """
        image = read_image(self.images[index])
        label = np.full(image.shape[:2], VOID, np.uint8)
        return (image, label) if self.image_size is None else resize(image, label, self.image_size)


def add_overlay(image: Pixels, path: Path) -> Pixels:
    """Add the signed difference ``rgb`` of an ``.npz`` file and clip to [0, 255].

    Args:
        image: Shape (H, W, 3).
        path: The file.

    Returns:
        Shape (H, W, 3).

    Raises:
        DatasetError: no such array, unsigned numbers (which have lost their sign), or another shape.
    """
    require_regular(path)
    try:
        with np.load(path, allow_pickle=False) as content:
            overlay = content["rgb"]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"'{path}' holds no array 'rgb' ({error}). Fetch the file again.") from error
    if overlay.dtype.kind not in "if" or overlay.shape != image.shape:
        raise DatasetError(
            f"the overlay '{path}' must hold signed numbers of shape {image.shape}; got {overlay.dtype} {overlay.shape}. "
            "Fetch the file again."
        )
    total: npt.NDArray[np.int32] = image + np.rint(overlay).astype(np.int32)
    return total.clip(0, 255).astype(np.uint8)


def resize(image: Pixels, label: Pixels, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Resize an image by area averaging, or bilinearly where a side grows, and its label to the nearest pixel.

    Args:
        image: Shape (H, W, 3).
        label: Shape (H, W).
        size: New height and width.

    Returns:
        Image and label of that size.
    """
    how = area_or_linear((label.shape[0], label.shape[1]), size)
    return cv2.resize(image, size[::-1], interpolation=how), resize_label(label, size)


def resize_label(label: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize label numbers (H, W) to the nearest pixel."""
    # cv2.INTER_NEAREST would shift labels against the image by half a pixel.
    nearest: Pixels = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return nearest


def check_scenes(**parts: Sequence[Scene]) -> None:
    """Check that all images are whole and none is in two parts, or twice in one.

    Args:
        parts: Scenes by the name of their part.

    Raises:
        DatasetError: the same image in two parts.
        ImageReadError: a file is empty, truncated or a Git LFS pointer.
    """
    images = {name: [scene.image for scene in scenes] for name, scenes in parts.items()}
    check_leaks(images)
    require_once(images)


def require_labels(scenes: Sequence[Scene], *, labels: str) -> None:
    """Check that every image has its label file, and no two images the same.

    Args:
        scenes: Images and labels.
        labels: What to complete, for the message.

    Raises:
        DatasetError: a label is missing, naming the first and the count; or two images share one, naming both.
    """
    owner: dict[Path, Path] = {}
    for scene in scenes:
        if owner.setdefault(scene.label, scene.image) != scene.image:
            raise DatasetError(
                f"'{owner[scene.label]}' and '{scene.image}' both have the label '{scene.label}'. Delete the image that is not its own."
            )
    missing = [scene for scene in scenes if not scene.label.is_file()]
    if missing:
        raise DatasetError(
            f"'{missing[0].image}' has no label; looked for '{missing[0].label}' ({len(missing)} images without one). "
            f"Complete {labels}, or take the images out."
        )


def paired_files(images: Sequence[Path], folder: Path, labels: Path) -> dict[Path, Path]:
    """The label file or mask of every image, by folder and name.

    Args:
        images: Files below ``folder``.
        folder: Of the images.
        labels: Folder of the others, whose names may end in ``_label``, ``_labels`` or ``_mask``.

    Raises:
        DatasetError: an image without one, one without an image, or two for one image; names both.
    """

    def name_in(path: Path, below: Path) -> str:
        return same_name(path.relative_to(below).with_suffix("").as_posix())

    by_name(images, lambda path: name_in(path, folder), what="images of one name", advice="Delete the wrong one.")
    files = by_name(
        image_files(labels),
        lambda path: name_in(path, labels),
        what="files of one name",
        advice="Delete the wrong one.",
    )
    found: dict[Path, Path] = {}
    for image in images:
        stem = name_in(image, folder)
        fitting = [files.pop(name) for name in (stem, *(f"{stem}_{end}" for end in ENDS)) if name in files]
        if len(fitting) > 1:
            raise DatasetError(f"'{fitting[0]}' and '{fitting[1]}' both belong to '{image}'. Delete the wrong one.")
        if fitting:
            found[image] = fitting[0]
    missing = [image for image in images if image not in found]
    if missing:
        raise DatasetError(
            f"'{missing[0]}' has no file of its name in '{labels}' ({len(missing)} images without one). Complete that folder, or take the images "
            "out."
        )
    if files:
        left = next(iter(files.values()))
        raise DatasetError(
            f"'{left}' has no image of its name in '{folder}' ({len(files)} such files). Restore the image, or delete the file."
        )
    return found


def without_numbers(scenes: Sequence[Scene], numbers: Sequence[int], *, what: str) -> list[Scene]:
    """Scenes whose labels hold none of some numbers.

    Args:
        scenes: Training scenes.
        numbers: Of label files.
        what: What these are, for messages.

    Raises:
        DatasetError: none is left.
    """
    kept = [scene for scene in scenes if not np.isin(read_label(scene.label), numbers).any()]
    log.info("training_anomalies: drop leaves %d of %d training scenes", len(kept), len(scenes))
    if not kept:
        raise DatasetError(
            f"every training scene has one of {what}. Use training_anomalies: void, or hold out rarer classes."
        )
    return kept


def log_counts(dataset: str, root: Path, found: Mapping[str, int], published: Sequence[int]) -> None:
    """Log how many images were found, and the published numbers where they are others.

    Args:
        dataset: Its name.
        root: Where the images are.
        found: Number of images of each kind.
        published: The published numbers, in the same order.
    """
    log.info("'%s': %s images", root, _listed([f"{count} {kind}" for kind, count in found.items()]))
    if list(found.values()) != list(published):
        log.info("%s has published %s", dataset, _listed(list(map(str, published))))


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def find_scenes(root: Path, part: str, *, truth: str, labels: str) -> list[Scene]:
    """Scenes of one part in the layout of Cityscapes, which Lost and Found has too, sorted by id; images and labels are matched by id.

    Args:
        root: Folder with ``leftImg8bit`` and the labels.
        part: Folder inside both.
        truth: ``gtFine`` or ``gtCoarse``.
        labels: End of the label files' names, such as ``labelIds``.

    Raises:
        DatasetNotFoundError: there is no image.
        DatasetError: an image has no label.
    """
    scenes = []
    for image in require_images(root / "leftImg8bit" / part, dataset=f"{root.name} ({part})"):
        folder, name = image.parent.name, image.stem.removesuffix("_leftImg8bit")
        scenes.append(Scene(image, root / truth / part / folder / f"{name}_{truth}_{labels}.png"))
    require_labels(scenes, labels=truth)
    return scenes
