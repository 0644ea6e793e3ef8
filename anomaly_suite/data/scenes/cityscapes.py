"""Cityscapes with fine labels: what driving-scene methods train on.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. Layout:
``<root>/leftImg8bit/<split>/<city>/<id>_leftImg8bit.png`` and ``<root>/gtFine/<split>/<city>/<id>_gtFine_labelIds.png``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomaly_suite.data.files import data_root, find_root, require_images
from anomaly_suite.data.pipeline import Size
from anomaly_suite.data.scenes.scenes import (
    Scene,
    SceneFiles,
    SceneModule,
    SceneParts,
    check_scenes,
    label_table,
)
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

log = logging.getLogger(__name__)

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
COUNTS = (2975, 500)  # official training and validation images
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
        crop_size: See :class:`~anomaly_suite.data.scenes.scenes.SceneModule`, like the others.
        scales: Factors by which training scenes are resized; one is drawn for each.
        scenes: Options of :class:`~anomaly_suite.data.scenes.scenes.SceneModule`.

    Raises:
        ConfigError: an option that cannot work.
        DatasetNotFoundError: root or a part is missing.
        DatasetError: an image has no label, or a label file holds numbers of another kind.
    """

    classes: Sequence[str] = tuple(CLASSES)

    def __init__(
        self,
        *,
        root: str | None = None,
        split: Literal["cv0", "cv2"] = "cv0",
        labels: Literal["labelIds", "labelTrainIds"] = "labelIds",
        crop_size: Size | None = 900,
        scales: Sequence[float] = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0),
        **scenes: Any,
    ) -> None:
        super().__init__(crop_size=crop_size, scales=scales, **scenes)
        if split not in ("cv0", "cv2") or labels not in ("labelIds", "labelTrainIds"):
            raise ConfigError(
                f"split is cv0 or cv2, and labels is labelIds or labelTrainIds; got split: {split}, labels: {labels}."
            )
        self.root = data_root(root, "cityscapes")
        self.split = split
        self.labels = labels

    def read(self) -> SceneParts:
        """Training and validation scenes."""
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
        counts = len(scenes["train"]), len(scenes["val"])
        log.info("'%s': %d official training and %d validation images", self.root, *counts)
        if counts != COUNTS:
            log.info("Cityscapes has published %d and %d", *COUNTS)
        check_scenes(training=train, validation=val)
        table = LABEL_IDS if self.labels == "labelIds" else TRAIN_IDS
        evaluation = SceneFiles(val)
        return SceneParts(SceneFiles(train), evaluation, evaluation, table, {"target": table})


def city(scene: Scene) -> str:
    """The city of a scene, which is its folder."""
    return scene.image.parent.name


def find_scenes(root: Path, part: str, *, truth: str, labels: str) -> list[Scene]:
    """Scenes of one part in the layout of Cityscapes, sorted by id; images and labels are matched by id.

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
    missing = [scene for scene in scenes if not scene.label.is_file()]
    if missing:
        raise DatasetError(
            f"'{missing[0].image}' has no label; looked for '{missing[0].label}' ({len(missing)} images without one). "
            f"Complete {truth}, or take the images out."
        )
    return scenes
