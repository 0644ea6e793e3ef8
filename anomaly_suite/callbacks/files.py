"""What callbacks that write files share: stages, output folder, whole-or-nothing writes, file names, rows of all processes."""

from __future__ import annotations

import itertools
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DistributedSampler

from anomaly_suite.contract import Batch, Calibration, Prediction, as_batch

Stage = Literal["test", "predict"]
T = TypeVar("T")


class StageCallback(Callback):
    """The test and predict hooks as three methods: :meth:`begin`, :meth:`collect` and :meth:`finish`.

    Batches arrive checked; a step that returned no mapping is skipped, so any Lightning module may run beside it.
    """

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Forget the stage before; called in every process, which ``trainer.log_dir`` needs."""
        raise NotImplementedError

    def collect(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Prediction,
        batch: Batch,
        *,
        stage: Stage,
        dataloader_idx: int,
    ) -> None:
        """Take what is needed of one batch."""
        raise NotImplementedError

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Write what needs the whole stage; called in every process."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.begin(trainer, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self.begin(trainer, "predict")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect."""
        if isinstance(outputs, Mapping):
            prediction = cast(Prediction, outputs)
            self.collect(trainer, pl_module, prediction, as_batch(batch), stage="test", dataloader_idx=dataloader_idx)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect."""
        if isinstance(outputs, Mapping):
            prediction = cast(Prediction, outputs)
            self.collect(
                trainer, pl_module, prediction, as_batch(batch), stage="predict", dataloader_idx=dataloader_idx
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish."""
        self.finish(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish."""
        self.finish(trainer, pl_module, "predict")


def output_folder(trainer: Trainer, folder: str | None, name: str = "") -> Path:
    """The folder asked for, else ``name`` in the run's log folder, else in the trainer's root; to be called in every process."""
    return Path(folder) if folder is not None else Path(trainer.log_dir or trainer.default_root_dir) / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.

    Yields:
        A temporary name in the same folder with the same suffix. It becomes ``path`` when the block ends, and is removed
        when the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class MirroredNames:
    """One file name for each image of a stage; no two images get the same one, whatever their case or suffix.

    With a path: the path below ``root``, or its last three components where it does not lie there, with the suffix
    ``.png``; a name that is taken gets ``-2``, ``-3`` and so on. Without: ``image_000123.png``, numbered in the order of
    the data set, which samplers deal out to the processes like cards.

    Several processes cannot see each other's names, so there the name of a path ends in a checksum of the whole path.

    Args:
        trainer: Its data module's ``root``, where it has one, is the root of the input tree.
    """

    def __init__(self, trainer: Trainer) -> None:
        root = getattr(getattr(trainer, "datamodule", None), "root", None)
        self._root = Path(os.path.abspath(root)) if isinstance(root, (str, Path)) else None
        self._rank, self._world = trainer.global_rank, trainer.world_size
        self._count = 0
        self._used: set[str] = set()

    def next(self, path: str | None) -> Path:
        """The name of the next image, relative to the output folder."""
        number = self._rank + self._count * self._world
        self._count += 1
        name = self._mirrored(path) if path else Path(f"image_{number:06d}")
        free = free_name(name, self._used)
        return free.with_name(f"{free.name}.png")

    def _mirrored(self, path: str) -> Path:
        whole = Path(os.path.abspath(path))
        if self._root is not None and whole.is_relative_to(self._root):
            parts = whole.relative_to(self._root).parts
        else:
            parts = tree_parts(path)
        checksum = f"-{zlib.crc32(os.fsencode(whole)):08x}" if self._world > 1 else ""
        return Path(*parts[:-1], Path(parts[-1]).stem + checksum)


def tree_parts(path: str) -> tuple[str, ...]:
    """The last three components of a path, without what would leave the output folder."""
    given = Path(os.path.normpath(path))
    return tuple(part for part in given.parts if part not in (given.anchor, os.pardir))[-3:]


def free_name(name: Path, used: set[str]) -> Path:
    """``name``, or the first of ``name-2``, ``name-3`` and so on that is not in ``used``, whatever its case; added there."""
    again = (name.with_name(f"{name.name}-{time}") for time in itertools.count(2))
    free = next(each for each in itertools.chain([name], again) if str(each).casefold() not in used)
    used.add(str(free).casefold())
    return free


def gather_rows(trainer: Trainer, stage: Stage, rows: Mapping[int, list[T]]) -> list[T]:
    """Rows of all processes, one loader after the other.

    Args:
        trainer: The trainer of the stage.
        stage: Whose loaders the rows come from.
        rows: Per loader, this process's rows in the order seen, one a sample.

    Returns:
        The same list in every process. Under a ``DistributedSampler`` that does not shuffle, such as ``ShardSampler`` and
        the one that Lightning puts in, rows are back in the order of the data set, and those of samples that it repeated
        to give every process equally many are dropped. Otherwise they stay in the order seen, process after process.
    """
    parts: list[Mapping[int, list[T]]] = [rows]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(parts, dict(rows))
    loaders = CombinedLoader(getattr(trainer, f"{stage}_dataloaders"), "sequential").flattened
    out: list[T] = []
    for index in sorted(set().union(*parts)):
        shares = [part.get(index, []) for part in parts]
        sampler = getattr(loaders[index], "sampler", None)
        if isinstance(sampler, DistributedSampler) and not sampler.shuffle:
            dealt = (row for hand in itertools.zip_longest(*shares) for row in hand if row is not None)
            out.extend(itertools.islice(dealt, len(cast(Sized, sampler.dataset))))
        else:
            out.extend(itertools.chain.from_iterable(shares))
    return out


def in_any_process(trainer: Trainer, happened: bool) -> bool:
    """Whether something happened in at least one process; all must ask."""
    device = trainer.strategy.root_device
    return bool(trainer.strategy.reduce(torch.tensor(float(happened), device=device), reduce_op="sum") > 0)


def calibration_of(pl_module: LightningModule, level: Literal["image", "pixel"]) -> Calibration | None:
    """The module's calibration if it is fitted at this level."""
    calibration = getattr(pl_module, "calibration", None)
    return calibration if isinstance(calibration, Calibration) and calibration.is_fitted(level) else None


def labels_of(batch: Batch) -> list[int] | None:
    """Labels of images or videos as plain numbers; None where the batch has none."""
    label = batch.get("label", batch.get("bag_label"))
    return None if label is None else [int(value) for value in label.tolist()]
