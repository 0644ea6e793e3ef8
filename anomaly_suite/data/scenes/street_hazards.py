"""StreetHazards: rendered streets with strange objects in two towns that no training scene shows.

Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022. Layout of the two archives, in one folder:
``<root>/train/{images,annotations}/{training,validation}/<town>/<id>.png`` and ``<root>/test/{images,annotations}/test/<town>/<id>.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomaly_suite.data.scenes.coco_cutouts import Exclusion
from anomaly_suite.data.scenes.labels import label_table
from anomaly_suite.data.scenes.module import SceneModule, SceneParts, SceneValidation
from anomaly_suite.data.scenes.scene_files import Scene, SceneFiles, check_scenes, log_counts, require_labels
from anomaly_suite.data.transforms import Size
from anomaly_suite.io.folders import data_root, find_root, require_images

# In the order of the numbers in label files, which count from 1; 14 is an anomaly, in the test part alone.
CLASSES = (
    "unlabeled", "building", "fence", "other", "pedestrian", "pole", "road line", "road", "sidewalk", "vegetation", "car", "wall",
    "traffic sign",
)  # fmt: skip
ANOMALY = len(CLASSES) + 1
PUBLISHED = (5125, 1031, 1500)  # training, validation and test scenes
KNOWN = {index + 1: index for index in range(len(CLASSES))}
TRAIN_TABLE = label_table(KNOWN)
TEST_TABLES = {
    "target": label_table(KNOWN, void=[ANOMALY]),
    "ood_mask": label_table({**dict.fromkeys(KNOWN, 0), ANOMALY: 1}),
}


class StreetHazards(SceneModule):
    """StreetHazards: 7,656 rendered scenes of 1280 x 720 with 13 classes, and anomalies in the 1,500 of the test part.

    Every pixel is scored, those of the class ``unlabeled`` too. The release takes the mean of AUROC, AP and FPR95 over images, where an
    image without anomalies counts for nothing: ``pixel_AUROC_per_image`` and so on, beside those of all pixels.

    Args:
        root: Folder with ``train`` and ``test``; by default ``$ANOMALY_SUITE_DATA/street_hazards``, or ``data/street_hazards`` where
            the variable is not set.
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
        DatasetNotFoundError: root or a part is missing.
        DatasetError: an image has no label or is in two parts, or a label holds other numbers, such as an anomaly in training.
    """

    classes: Sequence[str] = CLASSES
    mean_over_images = True
    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
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
        self.root = data_root(root, "street_hazards")
        self.image_size = image_size

    def read(self) -> SceneParts:
        """Towns 1 to 3, town 4, and towns 5 and 6.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="StreetHazards",
            is_root=lambda folder: (
                (folder / "train" / "images" / "training").is_dir() and (folder / "test" / "images").is_dir()
            ),
            layout="train/images/training, train/annotations, test/images and test/annotations",
            obtain="streethazards_train.tar and streethazards_test.tar come from hendrycks/anomaly-seg on GitHub; unpack both in one folder.",
        )
        parts = (("train", "training"), ("train", "validation"), ("test", "test"))
        train, val, test = (_find_scenes(self.root / archive, part) for archive, part in parts)
        check_scenes(training=train, validation=val, test=test)
        found = {"training": len(train), "validation": len(val), "test": len(test)}
        log_counts("StreetHazards", self.root, found, PUBLISHED)
        files = [SceneFiles(scenes, image_size=self.image_size) for scenes in (train, val, test)]
        return SceneParts(files[0], files[1], files[2], TRAIN_TABLE, TEST_TABLES)


def _find_scenes(archive: Path, part: str) -> list[Scene]:
    folder = archive / "images" / part
    images = require_images(folder, dataset="StreetHazards")
    labels = archive / "annotations" / part
    scenes = [Scene(path, labels / path.relative_to(folder).with_suffix(".png")) for path in images]
    require_labels(scenes, labels=f"'{labels}'")
    return scenes
