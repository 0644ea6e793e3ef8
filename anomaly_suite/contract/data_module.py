"""AnomalyDataModule: training normals, validation and test data of one benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anomaly_suite.contract.batch import as_batch
from anomaly_suite.contract.loader import TrainingLoader
from anomaly_suite.contract.sampler import ShardSampler
from anomaly_suite.errors import ConfigError
from anomaly_suite.options import ChecksOptions

Validation = Literal["holdout", "augmented", "medmix", "test", "none"]


class FrameTruth(NamedTuple):
    """What is known of the frames of a test, all clips one after another: clip of each (F,), label (F,), anomalous pixels (F,) or None."""

    clip: Tensor
    label: Tensor
    area: Tensor | None


class Splits(NamedTuple):
    """Data sets of a data module; each has ``__len__`` and ``__getitems__(indices) -> Batch``.

    A negative index ``-1 - i`` asks for item ``i`` with ``padding`` True.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any]


class AnomalyDataModule(ChecksOptions, LightningDataModule):
    """Training normals, validation and test data of one benchmark; a data set writes ``__init__`` and ``build``.

    Args:
        train_batch_size: Samples per training step and process.
        eval_batch_size: Samples per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every split and the order of training samples.
        validation: ``holdout`` keeps ``val_size`` training normals (and labelled anomalies that the data set has apart
            from its test set); ``augmented`` keeps them together with one structure-breaking augmented copy of each as
            pseudo-anomaly, ``medmix`` with one that has 1 to 3 lesions, and its mask; ``test`` validates on the test set, which every result file then says; ``none``.
        val_size: A fraction of the training normals, or a count if an integer.

    Raises:
        ConfigError: a value that cannot work.
    """

    root: str | Path | None = None
    """Folder of the data set; None where there are no files. ``HeatmapExport`` names its files relative to it."""

    classes: Sequence[str] = ()
    """Names of the classes in the order of their numbers; empty where the data set has none."""

    dataset_version: str | None = None
    """Which of several published versions of the data set was read, for the result file; None where there is one."""

    frames: FrameTruth | None = None
    """Of the test, where its images are frames of clips or parts of them; their batches then say the ``frame`` of each."""

    def __init__(
        self,
        *,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("train_batch_size", train_batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        if val_size <= 0 or (isinstance(val_size, float) and val_size >= 1):
            raise ConfigError(
                f"val_size must be a fraction in (0, 1) or a positive count; got {val_size}. Use validation: none to keep no images."
            )
        self.train_batch_size = train_batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.validation = validation
        self.val_size = val_size
        self.splits: Splits | None = None

    def build(self) -> Splits:
        """Read the data set and split it; called once in every process.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build().")

    def setup(self, stage: str | None = None) -> None:
        """Build the splits once."""
        if self.splits is None:
            self.splits = self.build()

    def require_splits(self) -> Splits:
        """The splits, built if need be.

        Raises:
            ConfigError: a ``setup`` of another class has left them unset.
        """
        self.setup()
        if self.splits is None:
            raise ConfigError(
                f"{type(self).__name__}.setup must set self.splits; it is None after it. Call super().setup(stage), or set it."
            )
        return self.splits

    @property
    def validates_anomalies(self) -> bool | None:
        """Whether validation holds anomalies, before anything is loaded; None where the data set does not say.

        A data set says it by ``labels``, one number or tensor element an item.
        """
        val = self.require_splits().val
        if self.validation == "test" or val is None:
            return None if self.validation == "test" else False
        labels = getattr(val, "labels", None)
        return None if labels is None else any(bool(label) for label in labels)

    def hold_out(self, count: int) -> tuple[list[int], list[int]]:
        """Split ``range(count)`` training normals into sorted (training, validation) positions, seeded.

        Raises:
            ConfigError: nothing would be left for training.
        """
        if self.validation in ("test", "none"):
            return list(range(count)), []
        held = self.val_size if isinstance(self.val_size, int) else max(1, round(self.val_size * count))
        if held >= count:
            raise ConfigError(
                f"val_size={self.val_size} leaves no training item out of {count}. Give a smaller val_size or validation: none."
            )
        order = np.random.default_rng(self.seed).permutation(count).tolist()
        return sorted(order[held:]), sorted(order[:held])

    def train_dataloader(self) -> DataLoader[Any]:
        """Training normals, reshuffled every epoch from the seed and the epoch's number."""
        return self._loader(self.require_splits().train, self.train_batch_size, shuffle=True, kind=TrainingLoader)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Validation images in fixed order; an empty list if there are none."""
        splits = self.require_splits()
        val = splits.test if self.validation == "test" else splits.val
        return [] if val is None else self._loader(val, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images in fixed order."""
        return self._loader(self.require_splits().test, self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images, for ``predict``."""
        return self.test_dataloader()

    def _loader(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        shuffle: bool = False,
        kind: type[DataLoader[Any]] = DataLoader,
    ) -> DataLoader[Any]:
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        sampler = ShardSampler(dataset, world=world, rank=rank, shuffle=shuffle, seed=self.seed)
        # Worker processes start anew each epoch, so that they see the epoch's number in the data set.
        return kind(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=as_batch,
            pin_memory=torch.cuda.is_available(),
        )
