"""SceneModule and SceneTestModule: the data modules of driving scenes, for training and for testing alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from anomaly_suite.contract import AnomalyDataModule, Splits
from anomaly_suite.data.preparation import PicturePreparation
from anomaly_suite.data.scenes.coco_cutouts import Exclusion
from anomaly_suite.data.scenes.crops import CropScenes, check_range
from anomaly_suite.data.scenes.cutouts import open_cutouts
from anomaly_suite.data.scenes.datasets import EvaluationScenes, OutlierMix, TrainingScenes
from anomaly_suite.data.scenes.labels import LabelTable
from anomaly_suite.data.scenes.scene_files import SceneSource
from anomaly_suite.data.transforms import Pipeline, Pixels, Size
from anomaly_suite.errors import ConfigError, DatasetNotFoundError

log = logging.getLogger(__name__)


SceneValidation = Literal["holdout", "test", "none"]


class SceneParts(NamedTuple):
    """What a data set consists of.

    ``table`` maps label numbers to classes, for training and validation; ``test_tables`` and ``test_masks`` are those of
    :class:`EvaluationScenes`.
    """

    train: SceneSource
    val: SceneSource
    test: SceneSource
    table: LabelTable
    test_tables: Mapping[str, LabelTable]
    test_masks: Callable[[int], Pixels] | None = None


class SceneModule(AnomalyDataModule):
    """Data module on driving scenes for training; a data set writes ``read`` and sets ``classes``.

    Training batches hold ``image`` and ``target``: crops of every training scene once an epoch, and
    ``outlier_fraction`` as many further ones with outliers pasted in (AnomalyMix), with 254 there. Validation and test
    batches hold whole scenes in their own size, so only scenes of one size share a batch.

    Args:
        crop_size: Height and width of training crops, one number for both; None for the size of the scenes.
        flip: Probability of a mirror image.
        scales: Factors by which training scenes are resized before they are cropped; one is drawn for each.
        scale_range: Smallest and largest factor, drawn uniformly, instead of ``scales``.
        train_transform: Steps of albumentations or torchvision v2 on training crops, such as ``{class: ColorJitter, p: 0.5}``.
        outliers: ``shapes`` for drawn ones; a COCO annotation file or its root; masks prepared by the Meta-OoD recipe; a folder
            with ``images`` and ``masks``, or of RGBA images. None pastes nothing.
        outlier_fraction: Scenes with outliers in an epoch, as a fraction of the training scenes.
        outlier_exclude: COCO images with any object of these classes are not used: ``released`` is the list of PEBAL's code (8
            names, to which a train, a class of Cityscapes, does not belong), ``disjoint`` adds that and what the test sets contain,
            such as animals; or a list of names.
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
        val_size: Of a data set without a validation part: a fraction of the training scenes, or a count, that is held out.

    Raises:
        ConfigError: a value that cannot work.
    """

    classes: Sequence[str]
    """Names of the classes in ``target``, from 0."""

    def __init__(
        self,
        *,
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
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            validation=validation,
            val_size=val_size,
        )
        if validation not in ("holdout", "test", "none"):
            raise ConfigError(f"validation of driving scenes is holdout, test or none; got {validation!r}.")
        if outlier_fraction < 0:
            raise ConfigError(f"outlier_fraction must be at least 0; got {outlier_fraction}.")
        for name, share in {"outlier_share": outlier_share, "outlier_class_share": outlier_class_share}.items():
            if not 0 < share <= 1:
                raise ConfigError(f"{name} must be in (0, 1]; got {share}. 1 uses every cut-out.")
        check_range("outlier_rescale", outlier_rescale)
        self.crop = CropScenes(
            size=crop_size, flip=flip, scales=scales, scale_range=scale_range, steps=train_transform or []
        )
        self.outliers = outliers
        self.outlier_fraction = outlier_fraction
        self.outlier_exclude: Exclusion | list[str] = outlier_exclude
        self.outlier_share = outlier_share
        self.outlier_class_share = outlier_class_share
        self.outlier_min_size = outlier_min_size
        self.outlier_single = outlier_single
        self.outlier_rescale = outlier_rescale
        self.outlier_on_road = outlier_on_road

    @property
    def num_classes(self) -> int:
        """Classes in ``target``."""
        return len(self.classes)

    def preparation(self) -> PicturePreparation:
        """New scenes keep their size."""
        return PicturePreparation(Pipeline(image_size=None, center_crop=None, steps=()))

    def read(self) -> SceneParts:
        """Find all scenes.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def build(self) -> Splits:
        """Read and split.

        Raises:
            ConfigError: outliers that cannot be had.
            DatasetNotFoundError: files are missing.
            DatasetError: files that cannot be used.
        """
        parts = self.read()
        return Splits(
            TrainingScenes(parts.train, table=parts.table, crop=self.crop, mix=self._mix(parts.train), seed=self.seed),
            None if self.validation == "none" else EvaluationScenes(parts.val, tables={"target": parts.table}),
            EvaluationScenes(parts.test, tables=parts.test_tables, masks=parts.test_masks),
        )

    def _mix(self, train: SceneSource) -> OutlierMix | None:
        if self.outliers is None or self.outlier_fraction == 0:
            return None
        count = int(self.outlier_fraction * len(train.names))
        if count == 0:
            raise ConfigError(
                f"outlier_fraction={self.outlier_fraction} of {len(train.names)} training scenes is none. Raise it, or use 0."
            )
        if self.outlier_on_road and "road" not in self.classes:
            raise ConfigError(
                f"outlier_on_road needs a class 'road'; there are {', '.join(self.classes)}. Use outlier_on_road: false."
            )
        pool = open_cutouts(
            self.outliers,
            exclude=self.outlier_exclude,
            min_size=self.outlier_min_size,
            class_share=self.outlier_class_share,
            height=train.read(0)[1].shape[0],
            seed=self.seed,
        )
        members = np.arange(len(pool))
        if self.outlier_share < 1:
            drawn = np.random.default_rng((self.seed, 3)).permutation(len(pool))
            members = np.sort(drawn[: max(1, round(self.outlier_share * len(pool)))])
            log.info("outlier_share=%g uses %d of %d cut-outs", self.outlier_share, len(members), len(pool))
        road = list(self.classes).index("road") if self.outlier_on_road else None
        return OutlierMix(pool, members, count, self.outlier_single, self.outlier_rescale, road)


class SceneTestModule(AnomalyDataModule):
    """Data module on driving scenes with anomalies, for testing alone; a data set writes ``read``.

    Test batches hold whole scenes in their own size and ``ood_mask``: 0 normal, 1 anomalous, 255 not scored.

    Args:
        eval_batch_size: Scenes per test or predict step and process; more than one only where all have one size.
        num_workers: Loader processes; 0 loads in the main process.

    Raises:
        ConfigError: on training.
    """

    def __init__(self, *, eval_batch_size: int = 1, num_workers: int = 0) -> None:
        super().__init__(eval_batch_size=eval_batch_size, num_workers=num_workers, validation="none")
        self.hidden: EvaluationScenes | None = None

    def preparation(self) -> PicturePreparation:
        """New scenes keep their size."""
        return PicturePreparation(Pipeline(image_size=None, center_crop=None, steps=()))

    def read(self) -> EvaluationScenes:
        """Find all scenes.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read().")

    def setup(self, stage: str | None = None) -> None:
        """Read the list of scenes once; refuse to train.

        Raises:
            ConfigError: on training.
        """
        if stage == "fit":
            raise self._refusal()
        super().setup(stage)

    def read_hidden(self) -> EvaluationScenes | None:
        """Find the scenes that ``predict`` scores, after :meth:`read`; None where these are those of the test."""
        return None

    def build(self) -> Splits:
        """The test part."""
        test = self.read()
        self.hidden = self.read_hidden()
        return Splits(test, None, test)  # no one gets the first: see train_dataloader

    def predict_dataloader(self) -> DataLoader[Any]:
        """The scenes of :meth:`read_hidden`, those for testing where there are none, or the samples given to :meth:`predict_on`.

        Raises:
            DatasetNotFoundError: a part without a scene.
        """
        if self.new is not None or self.hidden is None:
            return super().predict_dataloader()
        if not len(self.hidden):
            raise DatasetNotFoundError(
                f"{type(self).__name__} has no scene of the part that predict should score in '{self.root}'. Complete the data set, or ask for "
                "another part."
            )
        return self._loader(self.hidden, self.eval_batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise self._refusal()

    def _refusal(self) -> ConfigError:
        name = type(self).__name__
        return ConfigError(
            f"{name} is for testing: it has no training part. Train on Cityscapes, then run test with --data {name} and the checkpoint."
        )
