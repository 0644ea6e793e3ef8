"""SceneFolder: your own driving scenes, in folders of images, label files and ood masks, with a table of their numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from anomaly_suite.data.scenes.coco_cutouts import Exclusion
from anomaly_suite.data.scenes.id_table import IdTable, read_id_table
from anomaly_suite.data.scenes.labels import LabelTable
from anomaly_suite.data.scenes.module import SceneModule, SceneParts, SceneValidation
from anomaly_suite.data.scenes.scene_files import (
    Scene,
    SceneFiles,
    SceneSource,
    UnlabelledFiles,
    check_scenes,
    paired_files,
    without_numbers,
)
from anomaly_suite.data.transforms import Size
from anomaly_suite.errors import ConfigError, DatasetNotFoundError
from anomaly_suite.io.folders import check_leaks, on_disk, require_images

log = logging.getLogger(__name__)

IDS = "ids.yaml"


class SceneFolder(SceneModule):
    """Your own driving scenes: images, label files and ood masks of the same names, in folders.

    The default folders are ``train/images`` and ``train/labels``, ``val/...`` and ``test/...``, and ``test/ood_masks``; below them, files
    belong together by folder and name, and what a label file or mask adds may be ``_label``, ``_labels`` or ``_mask``. ``ids`` says what the
    numbers in these files mean, see :mod:`~anomaly_suite.data.scenes.id_table`:

    .. code-block:: yaml

        classes: {road: 0, car: [1, 7], sky: 2}
        anomalous: {animal: 11}
        void: [12]
        ood_mask: {normal: 0, anomalous: 1, void: 255}

    What is anomalous in test scenes is said by masks where there are any, else by the numbers under ``anomalous`` in label files. Test
    scenes without either can only be predicted; a folder without training scenes is for testing alone.

    Args:
        root: Folder that the others lie in; by default the current one.
        ids: YAML file of the numbers, or what it would hold; by default ``ids.yaml`` in ``root``.
        train_images: Folder below root, like the following.
        train_labels: Label files of the training scenes.
        val_images: Null is ``val/images``, or ``val_size`` of the training scenes where there is no such folder.
        val_labels: Null is ``val/labels``.
        test_images: Null is ``test/images``, or no test scene where there is no such folder.
        test_labels: Null is ``test/labels`` where there is such a folder.
        test_masks: Null is ``test/ood_masks`` where there is such a folder.
        training_anomalies: Training scenes with anomalous numbers: ``void`` keeps them, those pixels without a class; ``drop`` leaves
            whole scenes out.
        image_size: Height and width to which scenes are resized in training and evaluation (images by area averaging, labels to the
            nearest pixel), for small runs; null keeps every size.
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
        eval_batch_size: Scenes per validation, test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every draw and the order of training scenes.
        validation: ``holdout`` takes the validation scenes, ``test`` the test scenes, ``none`` nothing.
        val_size: A fraction of the training scenes, or a count, where there are no validation scenes.

    Raises:
        ConfigError: an option or a table that cannot work, or a stage for which there are no scenes or labels.
        DatasetNotFoundError: root or a folder is missing.
        DatasetError: an image has no label or mask, or the other way round; files of one name; an image in two parts; a number that
            the table does not have.
    """

    root: Path

    def __init__(
        self,
        *,
        root: str = ".",
        ids: str | dict[str, Any] | None = None,
        train_images: str = "train/images",
        train_labels: str = "train/labels",
        val_images: str | None = None,
        val_labels: str | None = None,
        test_images: str | None = None,
        test_labels: str | None = None,
        test_masks: str | None = None,
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
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__(
            crop_size=crop_size, flip=flip, scales=scales, scale_range=scale_range, train_transform=train_transform,
            outliers=outliers, outlier_fraction=outlier_fraction, outlier_exclude=outlier_exclude,
            outlier_share=outlier_share, outlier_class_share=outlier_class_share, outlier_min_size=outlier_min_size,
            outlier_single=outlier_single, outlier_rescale=outlier_rescale, outlier_on_road=outlier_on_road,
            train_batch_size=train_batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed,
            validation=validation, val_size=val_size,
        )  # fmt: skip
        self.root = on_disk(Path(root).expanduser())
        self.ids = read_id_table(ids) if isinstance(ids, dict) else None
        self._ids_file = ids if isinstance(ids, str) else None
        self.folders: dict[str, str | None] = {
            "train_images": train_images, "train_labels": train_labels, "val_images": val_images, "val_labels": val_labels,
            "test_images": test_images, "test_labels": test_labels, "test_masks": test_masks,
        }  # fmt: skip
        self.training_anomalies = training_anomalies
        self.image_size = image_size

    @property
    def table(self) -> IdTable:
        """What the numbers mean; a file is read at the first call, for predictions on new pictures need none.

        Raises:
            ConfigError: see :func:`~anomaly_suite.data.scenes.id_table.read_id_table`.
        """
        if self.ids is None:
            self.ids = read_id_table(self.root / IDS if self._ids_file is None else self._ids_file)
        return self.ids

    @property
    def classes(self) -> Sequence[str]:  # type: ignore[override] # not known before the table is read
        """Names of the classes in ``target``, from 0."""
        return self.table.classes

    def setup(self, stage: str | None = None) -> None:
        """Find the scenes once; refuse a stage for which there are none.

        Raises:
            ConfigError: see the class.
        """
        super().setup(stage)
        if stage is not None and self.new is None:
            self._require(stage)

    def _require(self, stage: str) -> None:
        if stage == "fit" and self._folder("train_images") is None:
            raise ConfigError(
                f"fit needs training scenes in '{self.root / str(self.folders['train_images'])}', which does not exist. Give train_images, or run "
                "test or predict with the checkpoint of another run."
            )
        tests = stage in ("test", "predict") or (stage in ("fit", "validate") and self.validation == "test")
        if tests and self._folder("test_images") is None:
            raise ConfigError(
                f"{stage} needs test scenes in '{self.root / 'test' / 'images'}', which does not exist. Give test_images, or add them."
            )
        if tests and stage != "predict" and self._folder("test_labels") is None and self._folder("test_masks") is None:
            raise ConfigError(
                f"{stage} needs the truth of the test scenes, label files in '{self.root / 'test' / 'labels'}' or masks in "
                f"'{self.root / 'test' / 'ood_masks'}'; neither exists. Give test_labels or test_masks, or use predict, which needs none."
            )

    def _folder(self, option: str) -> Path | None:
        """The folder of an option; None for a default that does not exist."""
        part, _, kind = option.partition("_")
        default = f"{part}/{'ood_masks' if kind == 'masks' else kind}"
        given = self.folders[option]
        folder = on_disk(self.root / (given or default))
        if not folder.is_dir() and given not in (None, default):
            raise DatasetNotFoundError(
                f"{option} must name a folder in root='{self.root}'; there is no '{folder}'. Correct it, or leave it out for '{default}'."
            )
        return folder if folder.is_dir() else None

    def read(self) -> SceneParts:
        """All scenes that there are.

        Raises:
            ConfigError: see the class.
            DatasetNotFoundError: see the class.
            DatasetError: see the class.
        """
        if not self.root.is_dir():
            raise DatasetNotFoundError(
                f"SceneFolder expects a folder at root='{self.root}'; there is none. Correct the path."
            )
        table = self.table
        train, val = self._labelled("train"), self._labelled("val")
        if train and not val and self.validation == "holdout":
            kept, held = self.hold_out(len(train))
            train, val = [train[index] for index in kept], [train[index] for index in held]
        test, tables = self._test(table)
        check_scenes(training=train, validation=val)
        check_leaks(
            {"training": [one.image for one in train], "validation": [one.image for one in val], "test": _images(test)}
        )
        numbers = [number for each in table.anomalous.values() for number in each]
        if numbers and self.training_anomalies == "drop" and train:
            train = without_numbers(train, numbers, what=", ".join(table.anomalous))
        log.info(
            "'%s': %d training, %d validation and %d test scenes", self.root, len(train), len(val), len(test.names)
        )
        files = [SceneFiles(scenes, image_size=self.image_size) for scenes in (train, val)]
        masks = test.read_mask if isinstance(test, SceneFiles) and any(scene.mask for scene in test.scenes) else None
        return SceneParts(files[0], files[1], test, table.target, tables, masks)

    def _labelled(self, part: str) -> list[Scene]:
        images = self._folder(f"{part}_images")
        if images is None:
            return []
        labels = self._folder(f"{part}_labels")
        if labels is None:
            raise DatasetNotFoundError(
                f"'{images}' needs label files in '{self.root / part / 'labels'}', which does not exist. Give {part}_labels, or add them."
            )
        found = paired_files(require_images(images, dataset="SceneFolder"), images, labels)
        return [Scene(image, label) for image, label in found.items()]

    def _test(self, table: IdTable) -> tuple[SceneFiles | UnlabelledFiles, dict[str, LabelTable]]:
        folder = self._folder("test_images")
        images = [] if folder is None else require_images(folder, dataset="SceneFolder")
        labels, masks = (self._folder(f"test_{kind}") for kind in ("labels", "masks"))
        if folder is None or (labels is None and masks is None):
            return UnlabelledFiles(images, image_size=self.image_size), {}
        by_kind = [None if each is None else paired_files(images, folder, each) for each in (labels, masks)]
        of_label, of_mask = by_kind
        if of_label is None:  # the mask is all that is known
            scenes = [Scene(image, mask) for image, mask in (of_mask or {}).items()]
            return SceneFiles(scenes, image_size=self.image_size), {"ood_mask": table.masks}
        scenes = [
            Scene(image, label, mask=None if of_mask is None else of_mask[image]) for image, label in of_label.items()
        ]
        tables = {"target": table.target}
        if of_mask is not None or table.anomalous:
            tables["ood_mask"] = table.unknown if of_mask is None else table.masks
        return SceneFiles(scenes, image_size=self.image_size), tables


def _images(source: SceneSource) -> list[Path]:
    return [Path(name) for name in source.names]
