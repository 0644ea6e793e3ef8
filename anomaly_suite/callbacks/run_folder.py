"""RunFolder: one folder for all that a run writes, whatever its loggers, and what ``run.json`` says of it."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from anomaly_suite.contract.run_pair import IDENTITY
from anomaly_suite.errors import FileWriteError
from anomaly_suite.io.runs import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    data_name,
    link_latest,
    read_record,
    update_record,
)
from anomaly_suite.options import ChecksOptions


class RunFolder(ChecksOptions, Callback):
    """Say where a run lies: its results go there, its checkpoints into ``checkpoints`` there, and ``run.json`` says how its fit ended.

    Without it, results go where Lightning's own checkpoints go, which depends on the logger. Every checkpoint holds the ``id`` of ``run.json``.

    Args:
        folder: Of the run, which ``metrics.json`` is in.
        results: Where a test or prediction writes its tables and pictures; the folder of the run if None.
        data_set: What the data set is called in ``run.json`` and ``metrics.json``; its class with its category or class if None.
        linked: Whether the link ``latest`` beside the folder leads to the newest run whose fit was finished.
    """

    def __init__(
        self, *, folder: str, results: str | None = None, data_set: str | None = None, linked: bool = False
    ) -> None:
        self.folder = folder
        self.results = folder if results is None else results
        self.data_set = data_set
        self.linked = linked
        self.identity: str | None = None
        self._fits = self._is_finished = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder in all processes, let checkpoints lie in it, and begin the record of a fit."""
        self.folder, self.results = trainer.strategy.broadcast((self.folder, self.results))
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(Path(self.folder) / "checkpoints")
        if stage == "fit":
            self._begin(trainer, pl_module)
        else:
            self.identity = read_record(Path(self.folder)).get("id")

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder, former = Path(self.folder), {}
        resumed = trainer.ckpt_path
        if resumed is not None and Path(resumed).resolve().is_relative_to(folder.resolve()):
            former = read_record(folder)  # the run goes on
        self.identity = trainer.strategy.broadcast(former.get("id") or uuid.uuid4().hex[:12])
        self._fits, self._is_finished = True, False
        if not trainer.is_global_zero:
            return
        data = getattr(trainer, "datamodule", None)
        update_record(
            folder,
            **{"id": self.identity, "state": RUNNING, "error": None, "calibrated": None, "checkpoint": None},
            method=type(pl_module).__name__,
            data=self.data_set or name_of(data),
            seed=torch.initial_seed(),
            started=former.get("started") or now(),
            ended=None,
            host=socket.gethostname(),
            pid=os.getpid(),
            loggers={type(logger).__name__: names_of(logger) for logger in trainer.loggers},
        )
        if self.linked and not (folder.parent / "latest").exists():
            link_latest(folder)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say which run the checkpoint is of."""
        if self.identity is not None:
            checkpoint[IDENTITY] = self.identity

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the fit is finished, unless it lacks a phase or was told to stop."""
        whole = bool(getattr(pl_module, "is_fitted", True)) and not getattr(trainer, "received_sigterm", False)
        self._end(trainer, FINISHED if whole else INTERRUPTED, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say what ended the fit."""
        if trainer.state.fn != "fit":
            return
        if not self._fits and trainer.is_global_zero:  # what failed comes before this callback
            if read_record(Path(self.folder)):
                return  # of a run that was there before, and still is
            self._fits = True
            with suppress(FileWriteError):
                update_record(Path(self.folder), method=type(pl_module).__name__, data=self.data_set, started=now())
        stopped = isinstance(exception, KeyboardInterrupt) or getattr(trainer, "received_sigterm", False)
        said = " ".join([type(exception).__name__ + ":" * bool(str(exception)), *str(exception).split()])
        with suppress(FileWriteError):  # of a full disk, which may be what ended it
            self._end(trainer, INTERRUPTED if stopped else FAILED, said[:500])

    def _end(self, trainer: Trainer, state: str, error: str | None) -> None:
        if not self._fits or not trainer.is_global_zero:
            return
        if self._is_finished:  # and a file beside its checkpoint could not be written
            update_record(Path(self.folder), error=error)
            return
        self._is_finished = state == FINISHED
        folder, callback = Path(self.folder), trainer.checkpoint_callback
        best = Path(getattr(callback, "best_model_path", "") or getattr(callback, "last_model_path", ""))
        checkpoint = os.path.relpath(best, folder) if best.name else None
        update_record(folder, state=state, error=error, ended=now(), checkpoint=checkpoint)
        if self.linked and state == FINISHED:
            link_latest(folder)


def folder_of(trainer: Trainer) -> Path:
    """Where a stage writes: what :class:`RunFolder` says, else where Lightning's own checkpoints go; to be called in every process."""
    if (said := _said(trainer)) is not None:
        return Path(said.results)
    logger = trainer.loggers[0] if trainer.loggers else None
    if logger is None or isinstance(logger, TensorBoardLogger | CSVLogger):
        return Path(trainer.log_dir or trainer.default_root_dir)
    place: Path | None = None
    if trainer.is_global_zero:
        version = f"version_{logger.version}" if isinstance(logger.version, int) else logger.version
        if logger.save_dir is not None and logger.name is not None and version is not None:
            place = Path(logger.save_dir, logger.name, version)
    return Path(trainer.strategy.broadcast(place) or trainer.log_dir or trainer.default_root_dir)


def run_of(trainer: Trainer) -> Path:
    """The folder of the run, where ``metrics.json`` is; to be called in every process."""
    said = _said(trainer)
    return folder_of(trainer) if said is None else Path(said.folder)


def identity_in(trainer: Trainer) -> str | None:
    """Which run a trainer is of; None where it has no :class:`RunFolder`."""
    said = _said(trainer)
    return None if said is None else said.identity


def data_set_of(trainer: Trainer) -> str:
    """What the data set of a trainer is called."""
    said, data = _said(trainer), getattr(trainer, "datamodule", None)
    name = (said.data_set if said is not None else None) or name_of(data)
    version = getattr(data, "dataset_version", None)
    return f"{name} {version}" if isinstance(version, str) else name


def _said(trainer: Trainer) -> RunFolder | None:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((each for each in callbacks if isinstance(each, RunFolder)), None)


def name_of(data: Any) -> str:
    """What a data module is called, see :func:`~anomaly_suite.io.runs.data_name`; ``unknown`` for None."""
    return "unknown" if data is None else data_name(type(data).__name__, vars(data))


def names_of(logger: Logger) -> dict[str, str]:
    """What a logger calls its run, and where its store is, for a test that goes on there."""
    names = {"version": str(logger.version)}
    store = getattr(logger, "_tracking_uri", None)  # of MLflow, which has no public name for it
    if isinstance(store, str):
        local = store.removeprefix("file:")
        names["store"] = store if "://" in store or local == store else f"file:{Path(local).resolve()}"
    return names


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
