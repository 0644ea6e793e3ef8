"""BDD-Anomaly: photographs of American streets; trains and motorcycles, which are rare in them, are the anomalies.

Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022, from BDD100K (Yu et al., CVPR 2020). Layout:
``<root>/seg/images/{train,val}/<id>.jpg`` and ``<root>/seg/train_labels/{train,val}/<id>_train_id.png``, whose numbers are those of
BDD100K's own ``<root>/seg/labels`` plus 2, with 1 for 255; either is read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomaly_suite.contract import VOID
from anomaly_suite.data.scenes.cityscapes import CLASSES
from anomaly_suite.data.scenes.coco_cutouts import Exclusion
from anomaly_suite.data.scenes.labels import label_table, read_label
from anomaly_suite.data.scenes.module import SceneModule, SceneParts, SceneValidation
from anomaly_suite.data.scenes.scene_files import Scene, SceneFiles, check_scenes, log_counts, require_labels
from anomaly_suite.data.transforms import Size
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import data_root, find_root, require_images

log = logging.getLogger(__name__)

NAMES = tuple(CLASSES)
VARIANTS = {
    "train_motorcycle": ("train", "motorcycle"),
    "train_motorcycle_bicycle": ("train", "motorcycle", "bicycle"),
}
PUBLISHED = {"train_motorcycle": (6688, 951, 361), "train_motorcycle_bicycle": (6280, 910, 810)}
SHIFT, OTHER = 2, 1  # of the release: train ids begin at 2, and 1 is what has none
READERS = 8  # threads that look through labels


class BDDAnomaly(SceneModule):
    """BDD-Anomaly: 8,000 scenes of 1280 x 720; those with an anomalous class are the test part, of both parts of BDD100K.

    Classes are those of Cityscapes less the anomalous ones, in their order. What has no class is void in ``target``, but is normal in
    ``ood_mask``: every pixel is scored. The release takes the mean of AUROC, AP and FPR95 over images: ``pixel_AUROC_per_image`` and
    so on, beside those of all pixels. Which scenes are anomalous is looked up in all labels, when a run begins.

    Args:
        root: Folder with ``seg``; by default ``$ANOMALY_SUITE_DATA/bdd100k``, or ``data/bdd100k`` where the variable is not set.
        variant: Anomalous classes: ``train_motorcycle``, of the paper (361 test scenes), or ``train_motorcycle_bicycle``, of later work
            (810). Figures of the two cannot be compared.
        image_size: Height and width to which scenes are resized in training and evaluation (images by area averaging,
            labels to the nearest pixel), for small runs; numbers then are those of the small size. None keeps 720 x 1280.
        crop_size: Height and width of training crops, one number for both; None for the size of the scenes.
        flip: Probability of a mirror image.
        scales: Factors by which training scenes are resized; one is drawn for each.
        scale_range: Smallest and largest factor, drawn uniformly, instead of ``scales``.
        train_transform: Steps of albumentations or torchvision v2 on training crops, such as ``{class: ColorJitter, p: 0.5}``.
        outliers: Where outliers come from: ``shapes``, a COCO annotation file, or a folder of cut-outs; see
            :class:`~anomaly_suite.data.scenes.module.SceneModule`. None pastes nothing.
        outlier_fraction: Scenes with outliers in an epoch, as a fraction of the training scenes.
        outlier_exclude: Classes of COCO whose images are not used: ``released``, ``disjoint`` or a list of names.
        outlier_share: Share of the cut-outs that is used at all, drawn by ``seed``, in (0, 1].
        outlier_class_share: Share of COCO's classes, less those left out, whose objects are used, drawn by ``seed``, in (0, 1].
        outlier_min_size: Least height and width of a COCO image in pixels.
        outlier_single: Paste one object of a cut-out, not all.
        outlier_rescale: Smallest and largest factor by which objects are resized; None keeps their size.
        outlier_on_road: Paste only where the object stands on the road.
        train_batch_size: Crops per training step and process.
        eval_batch_size: Scenes per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every draw and the order of training scenes.
        validation: ``holdout`` takes the data set's own validation part, ``test`` its test part, ``none`` nothing.

    Raises:
        ConfigError: an option that cannot work.
        DatasetNotFoundError: root or a part is missing, or no scene has an anomalous class.
        DatasetError: an image has no label or is in two parts, or a label holds numbers of another kind.
    """

    mean_over_images = True
    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        variant: Literal["train_motorcycle", "train_motorcycle_bicycle"] = "train_motorcycle",
        image_size: tuple[int, int] | None = None,
        crop_size: Size | None = None,
        flip: float = 0.5,
        scales: Sequence[float] = (1.0,),
        scale_range: tuple[float, float] | None = None,
        train_transform: list[Any] | None = None,
        outliers: str | None = None,
        outlier_fraction: float = 0.1,
        outlier_exclude: Exclusion | list[str] = "released",
        outlier_share: float = 1.0,
        outlier_class_share: float = 1.0,
        outlier_min_size: int = 480,
        outlier_single: bool = False,
        outlier_rescale: tuple[float, float] | None = None,
        outlier_on_road: bool = False,
        train_batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        validation: SceneValidation = "holdout",
    ) -> None:
        super().__init__(
            crop_size=crop_size, flip=flip, scales=scales, scale_range=scale_range, train_transform=train_transform,
            outliers=outliers, outlier_fraction=outlier_fraction, outlier_exclude=outlier_exclude,
            outlier_share=outlier_share, outlier_class_share=outlier_class_share, outlier_min_size=outlier_min_size,
            outlier_single=outlier_single, outlier_rescale=outlier_rescale, outlier_on_road=outlier_on_road,
            train_batch_size=train_batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed,
            validation=validation,
        )  # fmt: skip
        self.variant = variant
        self.classes: Sequence[str] = [name for name in NAMES if name not in VARIANTS[variant]]
        self.root = data_root(root, "bdd100k")
        self.image_size = image_size

    def read(self) -> SceneParts:
        """Normal scenes of either part, and all anomalous ones.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="BDDAnomaly",
            is_root=lambda folder: (folder / "seg" / "images" / "train").is_dir(),
            layout="seg/images and seg/train_labels or seg/labels",
            obtain="bdd100k_seg.zip (10K images) comes from the BDD100K page, after registration.",
        )
        released = (self.root / "seg" / "train_labels").is_dir()
        labels = "train_labels" if released else "labels"
        shift = SHIFT if released else 0
        other = OTHER if released else VOID
        parts = {part: _find_scenes(self.root / "seg", part, labels=labels) for part in ("train", "val")}
        unknown = [NAMES.index(name) + shift for name in VARIANTS[self.variant]]
        known = [NAMES.index(name) + shift for name in self.classes]
        target = label_table({number: index for index, number in enumerate(known)}, void=[*unknown, other])
        normal: dict[str, list[Scene]] = {}
        test: list[Scene] = []
        for part, scenes in parts.items():
            anomalous = _have(scenes, unknown, allowed=target >= 0)
            normal[part] = [scene for scene, found in zip(scenes, anomalous, strict=True) if not found]
            test += [scene for scene, found in zip(scenes, anomalous, strict=True) if found]
        if not test:
            raise DatasetNotFoundError(
                f"no label in '{self.root / 'seg' / labels}' has a {' or a '.join(VARIANTS[self.variant])}, which the test scenes are told by. "
                "Complete the data set."
            )
        check_scenes(training=normal["train"], validation=normal["val"], test=test)
        counts = {"training": len(normal["train"]), "validation": len(normal["val"]), "test": len(test)}
        log_counts(f"BDDAnomaly ({self.variant})", self.root, counts, PUBLISHED[self.variant])
        ood = label_table({**dict.fromkeys([*known, other], 0), **dict.fromkeys(unknown, 1)})
        files = [SceneFiles(scenes, image_size=self.image_size) for scenes in (normal["train"], normal["val"], test)]
        return SceneParts(files[0], files[1], files[2], target, {"target": target, "ood_mask": ood})


def _find_scenes(seg: Path, part: str, *, labels: str) -> list[Scene]:
    images = require_images(seg / "images" / part, dataset="BDDAnomaly")
    scenes = [Scene(path, seg / labels / part / f"{path.stem}_train_id.png") for path in images]
    require_labels(scenes, labels=f"'{seg / labels / part}'")
    return scenes


def _have(
    scenes: Sequence[Scene], numbers: Sequence[int], *, allowed: np.ndarray[Any, np.dtype[np.bool_]]
) -> list[bool]:
    """Which scenes have one of some numbers in their labels; those ``allowed`` (256,) are looked for anywhere."""

    def look(scene: Scene) -> bool:
        """Whether a scene has an anomalous class."""
        found = np.flatnonzero(np.bincount(read_label(scene.label).ravel(), minlength=256))
        if not allowed[found].all():
            foreign = found[~allowed[found]]
            raise DatasetError(
                f"'{scene.label}' holds {foreign[0]}, which is no label of BDDAnomaly. Give train ids (seg/labels), or those of the release "
                "(seg/train_labels), in which every id is 2 higher."
            )
        return bool(np.isin(found, numbers).any())

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(look, scenes))
