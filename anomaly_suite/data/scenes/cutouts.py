"""Pools of outlier objects, and which of them the option ``outliers`` means."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from anomaly_suite.data.scenes.anomaly_mix import Cutout
from anomaly_suite.data.scenes.coco_cutouts import CocoCutouts, Exclusion
from anomaly_suite.data.scenes.folder_cutouts import FolderCutouts
from anomaly_suite.data.scenes.shape_cutouts import SHAPES, ShapeCutouts
from anomaly_suite.errors import ConfigError, DatasetNotFoundError

log = logging.getLogger(__name__)


class Cutouts(Protocol):
    """A pool of images with outlier objects."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Cutout:
        """One of them."""
        ...


def open_cutouts(
    source: str,
    *,
    exclude: Exclusion | Sequence[str],
    min_size: int,
    height: int,
    seed: int,
    class_share: float = 1.0,
) -> Cutouts:
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
        seed: Decides ``shapes``, and the classes of ``class_share``.
        class_share: Share of COCO's classes, less those left out, whose objects are used, in (0, 1].

    Raises:
        ConfigError: an unknown class, or an exclusion or a share of classes that the source cannot grant.
        DatasetNotFoundError: nothing of the kind is there.
        DatasetError: the annotations are not those of COCO, or no image passes.
    """
    path = Path(source).expanduser()
    annotations = None if source == SHAPES else path if path.suffix == ".json" else _annotation_file(path)
    if class_share < 1 and annotations is None:
        raise ConfigError(
            f"outlier_class_share={class_share:g} needs outliers that have classes; {source!r} is no COCO annotation file. Give one, or "
            "leave outlier_class_share: 1."
        )
    if source == SHAPES:
        return ShapeCutouts(seed=seed, height=height)
    if annotations is not None:
        return CocoCutouts(annotations, exclude=exclude, min_size=min_size, class_share=class_share, seed=seed)
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
