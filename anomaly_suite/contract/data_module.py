"""AnomalyDataModule: training normals, validation and test data of one benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anomaly_suite.contract.batch import as_batch
from anomaly_suite.contract.items import in_batches
from anomaly_suite.contract.loader import TrainingLoader
from anomaly_suite.contract.sampler import ShardSampler
from anomaly_suite.errors import ConfigError
from anomaly_suite.options import ChecksOptions

Validation = Literal["holdout", "augmented", "medmix", "test", "none"]
UNREADABLE = "unreadable"  # key of a batch


class Listed(NamedTuple):
    """One sample of a data set, for the table of splits; ``path`` is its file, or its name where there is none."""

    path: str
    label: int
    mask: str | None = None
    category: str = ""
    defect_type: str = ""
    group: int = 0


class FrameTruth(NamedTuple):
    """What is known of the frames of a test, all clips one after another: clip of each (F,), label (F,), anomalous pixels (F,) or None."""

    clip: Tensor
    label: Tensor
    area: Tensor | None


class Splits(NamedTuple):
    """Data sets of a data module; each has ``__len__`` and ``__getitem__``, and perhaps ``labels`` and ``listed() -> Iterator[Listed]``.

    Items are put together as :class:`~anomaly_suite.contract.items.CollatedItems` says. One with ``batch(indices)`` and ``__getitems__(indices) -> Batch``
    hands out batches itself; a negative index ``-1 - i`` then asks for item ``i`` with ``padding`` True.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any]


class Preparation(Protocol):
    """What a data module makes of one picture before the network sees it, without any draw; of new pictures as of test images."""

    channels: Literal[1, 3]
    """Of the pictures: 3 for RGB, 1 for grey."""

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Decode a file as those of the data set are decoded, shape (H, W, channels).

        Raises:
            ImageReadError: it cannot be read; says why.
        """

    def __call__(self, picture: npt.NDArray[np.uint8], *, source: str) -> npt.NDArray[np.uint8]:
        """Cut, resize and transform a decoded picture.

        Args:
            picture: Shape (H, W, channels).
            source: What it is, for messages.

        Returns:
            Shape (H', W', channels).
        """


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

    labelled_anomalies: Mapping[str, Any] | None = None
    """Which labelled anomalies were moved from the test set into training, for the result file; None where none were."""

    dataset_version: str | None = None
    """Which of several published versions of the data set was read, for the result file; None where there is one."""

    submission: str | None = None
    """Of a benchmark whose server scores maps of its hidden scenes: the name of the folder that they are sent in; None elsewhere."""

    mean_over_images: bool = False
    """Whether the benchmark takes the mean of the pixel metrics of single images, which are then given beside those of all pixels."""

    validated_on: str | None = None
    """What validation is, where the word of ``validation`` does not say it all, for the record of thresholds; None where it does."""

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
        self.new: Dataset[Any] | None = None
        """Samples that ``predict`` scores in place of the test set; see :meth:`predict_on`."""
        self.unreadable: list[str] = []
        """What is wrong with those of them that could not be read, so far and in this process."""

    def build(self) -> Splits:
        """Read the data set and split it; called once in every process.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build().")

    def preparation(self) -> Preparation:
        """How new pictures are prepared for a network that was trained on this data; nothing of the data set is read.

        Raises:
            ConfigError: the data set does not consist of pictures.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot prepare new pictures: it defines no preparation(). Score them with a run on images, or let "
            "preparation() return how they are read and resized."
        )

    def predict_on(self, samples: Dataset[Any], root: Path) -> None:
        """Let ``predict`` score other samples than those for testing; the data set itself is then not read.

        Args:
            samples: ``__getitems__(indices)`` gives a batch of those samples that can be read, and under ``unreadable`` a sentence for
                each of the others; where none can be read, that alone.
            root: Folder that they lie in, which names of written files mirror.
        """
        self.new, self.root = samples, root

    def setup(self, stage: str | None = None) -> None:
        """Build the splits once; for a prediction on other samples they are not needed."""
        if self.splits is None and self.new is None:
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

    def listed_samples(self) -> Iterator[tuple[str, Listed]]:
        """Every sample with its split, ``train``, ``val`` or ``test``, of the data sets that can say it; one may be in two.

        Paths are relative to ``root`` where they lie below it. Pseudo-anomalies are not listed, but the samples that they are copies of.
        """
        root = None if self.root is None else Path(self.root)
        for split, part in zip(("train", "val", "test"), self.require_splits(), strict=True):
            for item in getattr(part, "listed", tuple)():
                mask = None if item.mask is None else _below(root, item.mask)
                yield split, item._replace(path=_below(root, item.path), mask=mask)

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
        return self._loader(self.training_set(), self.train_batch_size, shuffle=True, kind=TrainingLoader)

    def training_set(self) -> Dataset[Any]:
        """What the method at hand trains on."""
        return self.require_splits().train

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Validation images in fixed order; an empty list if there are none."""
        splits = self.require_splits()
        val = splits.test if self.validation == "test" else splits.val
        return [] if val is None else self._loader(val, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images in fixed order."""
        return self._loader(self.require_splits().test, self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images, or the samples given to :meth:`predict_on`."""
        return self.test_dataloader() if self.new is None else self._loader(self.new, self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note what could not be read; None in place of a batch of nothing else."""
        if isinstance(batch, dict) and UNREADABLE in batch:
            self.unreadable += batch.pop(UNREADABLE)
            return batch or None
        return batch

    def _loader(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        shuffle: bool = False,
        kind: type[DataLoader[Any]] = DataLoader,
    ) -> DataLoader[Any]:
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        batches = in_batches(dataset)
        sampler = self._sampler(dataset, world=world, rank=rank, shuffle=shuffle)
        # Worker processes start anew each epoch, so that they see the epoch's number in the data set.
        return kind(
            batches,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
        )

    def _sampler(self, dataset: Dataset[Any], *, world: int, rank: int, shuffle: bool) -> ShardSampler:
        return ShardSampler(dataset, world=world, rank=rank, shuffle=shuffle, seed=self.seed)


def _collate(batch: Any) -> Any:
    return batch if isinstance(batch, dict) and set(batch) == {UNREADABLE} else as_batch(batch)


def _below(root: Path | None, path: str) -> str:
    """A path relative to a folder that it lies in."""
    start = "" if root is None else f"{root}{os.sep}"
    return path.removeprefix(start).replace(os.sep, "/") if start and path.startswith(start) else path
