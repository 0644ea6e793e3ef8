"""Cityscapes with fine labels: what driving-scene methods train on.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. Layout:
``<root>/leftImg8bit/<split>/<city>/<id>_leftImg8bit.png`` and ``<root>/gtFine/<split>/<city>/<id>_gtFine_labelIds.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomaly_suite.data.scenes.coco_cutouts import Exclusion
from anomaly_suite.data.scenes.labels import label_table
from anomaly_suite.data.scenes.module import SceneModule, SceneParts, SceneValidation
from anomaly_suite.data.scenes.scene_files import Scene, SceneFiles, check_scenes, find_scenes, log_counts
from anomaly_suite.data.transforms import Size
from anomaly_suite.errors import ConfigError, DatasetNotFoundError
from anomaly_suite.io.folders import data_root, find_root

# name: id in the published label files; the order is that of the training classes
CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
NUM_IDS = 34  # -1, the license plate, is 255 in an 8-bit file

LABEL_IDS = label_table({number: index for index, number in enumerate(CLASSES.values())}, void={*range(NUM_IDS)})
TRAIN_IDS = label_table({index: index for index in range(len(CLASSES))})

TRAIN_CITIES, VAL_CITIES = 18, ("frankfurt", "lindau", "munster")
PUBLISHED = (2975, 500)  # official training and validation images
CV2_CITIES = ("monchengladbach", "strasbourg", "stuttgart")


class Cityscapes(SceneModule):
    """Cityscapes: city streets with 19 classes, to train on and to measure mIoU with.

    Validation and test part are both the validation cities with their classes, since the labels of the official test part
    are withheld. Anomalies are tested with another data module: ``LostAndFound``, ``FishyscapesLostAndFound``,
    ``FishyscapesStatic`` or ``RoadAnomaly``. A copy with fewer images is used as it is and logged.

    Defaults are those of PEBAL: crops of 900 x 900, flips, six scales; 297 of 3272 scenes of an epoch have outliers once
    ``outliers`` says where they come from.

    Args:
        root: Folder with ``leftImg8bit`` and ``gtFine``; by default ``$ANOMALY_SUITE_DATA/cityscapes``, or
            ``data/cityscapes`` where the variable is not set.
        split: ``cv0`` is the official split. ``cv2`` validates on monchengladbach, strasbourg and stuttgart and trains on
            the official validation cities, as the published network with 90.3 mIoU did.
        labels: Which label files to read: the published ``labelIds``, or ``labelTrainIds``, which the maintainers' script
            makes of them.
        crop_size: Height and width of training crops, one number for both; None for the size of the scenes.
        scales: Factors by which training scenes are resized; one is drawn for each.
        flip: Probability of a mirror image.
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
        DatasetError: an image has no label, or a label file holds numbers of another kind.
    """

    classes: Sequence[str] = tuple(CLASSES)

    root: Path

    def __init__(
        self,
        *,
        root: str | None = None,
        split: Literal["cv0", "cv2"] = "cv0",
        labels: Literal["labelIds", "labelTrainIds"] = "labelIds",
        crop_size: Size | None = 900,
        scales: Sequence[float] = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0),
        flip: float = 0.5,
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
        if split not in ("cv0", "cv2") or labels not in ("labelIds", "labelTrainIds"):
            raise ConfigError(
                f"split is cv0 or cv2, and labels is labelIds or labelTrainIds; got split: {split}, labels: {labels}."
            )
        self.root = data_root(root, "cityscapes")
        self.split = split
        self.labels = labels

    def read(self) -> SceneParts:
        """Training and validation scenes.

        Raises:
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        find_root(
            self.root,
            dataset="Cityscapes",
            is_root=lambda folder: (folder / "leftImg8bit" / "train").is_dir() and (folder / "gtFine").is_dir(),
            layout="leftImg8bit/train and gtFine",
            obtain="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip come from the Cityscapes page, after registration.",
        )
        scenes = {part: find_scenes(self.root, part, truth="gtFine", labels=self.labels) for part in ("train", "val")}
        train, val = scenes["train"], scenes["val"]
        if self.split == "cv2":
            val = [scene for scene in train if city(scene) in CV2_CITIES]
            train = [scene for scene in train if city(scene) not in CV2_CITIES] + scenes["val"]
            if not val:
                raise DatasetNotFoundError(
                    f"split: cv2 validates on {', '.join(CV2_CITIES)}; none of them is in '{self.root / 'leftImg8bit/train'}'. "
                    "Complete the data set, or use split: cv0."
                )
        found = {"official training": len(scenes["train"]), "validation": len(scenes["val"])}
        log_counts("Cityscapes", self.root, found, PUBLISHED)
        check_scenes(training=train, validation=val)
        table = LABEL_IDS if self.labels == "labelIds" else TRAIN_IDS
        evaluation = SceneFiles(val)
        return SceneParts(SceneFiles(train), evaluation, evaluation, table, {"target": table})


def city(scene: Scene) -> str:
    """The city of a scene, which is its folder."""
    return scene.image.parent.name
