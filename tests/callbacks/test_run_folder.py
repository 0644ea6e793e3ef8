"""What RunFolder says of a run: its place, its checkpoints, and how its fit ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.trainer.states import TrainerFn

from anomaly_suite.callbacks.run_folder import RunFolder, data_set_of, folder_of, run_of
from anomaly_suite.callbacks.split_table import SplitTable
from anomaly_suite.contract.run_pair import IDENTITY
from anomaly_suite.errors import DatasetNotFoundError, FileWriteError
from anomaly_suite.io.runs import find_checkpoint, read_record, state_of, update_record


def fit(folder: Path, *callbacks: Any, **options: Any) -> tuple[Trainer, RunFolder]:
    told = RunFolder(folder=str(folder), linked=True)
    saving = ModelCheckpoint(filename="model", enable_version_counter=False)
    trainer = tiny_runs.make_trainer(
        callbacks=[told, saving, *callbacks], enable_checkpointing=True, limit_train_batches=1, max_epochs=1, **options
    )
    trainer.fit(tiny_runs.make_model("DAE"), datamodule=tiny_runs.make_data("DAE"))
    return trainer, told


def test_a_finished_fit_and_its_checkpoint_name_each_other(tmp_path: Path) -> None:
    trainer, told = fit(tmp_path / "1", limit_val_batches=0)
    record = read_record(tmp_path / "1")
    assert (record["state"], record["checkpoint"], record["method"]) == ("finished", "checkpoints/model.ckpt", "DAE")
    assert record["data"] == data_set_of(trainer)
    checkpoint = torch.load(find_checkpoint(tmp_path / "1"), weights_only=True)
    assert checkpoint[IDENTITY] == record["id"] == told.identity
    assert (tmp_path / "latest").resolve() == tmp_path / "1"


class Stops(Callback):
    """Raises in the first step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, *args: Any) -> None:
        """Raise."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "interrupted"), (ValueError("two\nlines"), "failed")], ids=str
)
def test_what_ends_a_fit_is_said(tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises((SystemExit, ValueError, KeyboardInterrupt)):
        fit(tmp_path / "1", Stops(error), limit_val_batches=0)
    record = read_record(tmp_path / "1")
    assert (record["state"], state_of(tmp_path / "1")) == (state, state)
    assert record["error"].startswith(type(error).__name__)
    assert "\n" not in record["error"]


def test_a_run_that_goes_on_keeps_its_name(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    names = []
    for checkpoint in (None, tmp_path / "model.ckpt", None):
        told = RunFolder(folder=str(tmp_path))
        trainer = trainer_in(callbacks=[told])
        trainer.ckpt_path = None if checkpoint is None else str(checkpoint)
        told.setup(trainer, LightningModule(), "fit")
        names.append(told.identity)
        assert read_record(tmp_path)["id"] == told.identity
    assert len(names[0]) == 12
    assert names[0] == names[1] != names[2]


class Central(DummyLogger):
    """A logger whose store is shared by runs, as that of Weights & Biases."""

    save_dir = name = version = None  # type: ignore[assignment]


def test_without_it_results_go_where_checkpoints_go(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    logger = Central()
    trainer = trainer_in(logger=logger)
    assert folder_of(trainer) == tmp_path
    logger.save_dir, logger.name, logger.version = str(tmp_path / "store"), "project", "q5sci1nb"
    assert folder_of(trainer) == run_of(trainer) == tmp_path / "store" / "project" / "q5sci1nb"
    logger.version = 3
    assert folder_of(trainer) == tmp_path / "store" / "project" / "version_3"
    told = trainer_in(
        logger=logger, callbacks=[RunFolder(folder=str(tmp_path / "run"), results=str(tmp_path / "results"))]
    )
    assert (folder_of(told), run_of(told)) == (tmp_path / "results", tmp_path / "run")


def test_the_record_is_plain_text(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    logger = Central()
    logger.save_dir, logger.name, logger.version = str(tmp_path), "project", "q5sci1nb"
    logger._tracking_uri = "file:store"  # type: ignore[attr-defined]
    told = RunFolder(folder=str(tmp_path), data_set="Own/part")
    told.setup(trainer_in(logger=logger, callbacks=[told]), LightningModule(), "fit")
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert record["data"] == "Own/part"
    assert record["loggers"] == {"Central": {"version": "q5sci1nb", "store": f"file:{Path('store').resolve()}"}}


def test_a_fit_that_does_not_begin_leaves_an_older_run_alone(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    for folder, state in ((tmp_path / "old", "finished"), (tmp_path / "new", "failed")):
        if state == "finished":
            update_record(folder, id="0f3c", state="finished")
        told = RunFolder(folder=str(folder))
        trainer = trainer_in(callbacks=[told])
        trainer.state.fn = TrainerFn.FITTING
        told.on_exception(trainer, LightningModule(), DatasetNotFoundError("no folder 'x'"))
        assert read_record(folder)["state"] == state
    assert read_record(folder)["error"] == "DatasetNotFoundError: no folder 'x'"


def test_a_file_that_cannot_be_written_at_the_end_makes_no_failed_fit(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    told = RunFolder(folder=str(tmp_path))
    trainer = trainer_in(callbacks=[told])
    trainer.state.fn = TrainerFn.FITTING
    told.setup(trainer, LightningModule(), "fit")
    told.on_fit_end(trainer, LightningModule())
    told.on_exception(trainer, LightningModule(), FileWriteError("splits.csv"))
    assert (read_record(tmp_path)["state"], read_record(tmp_path)["error"]) == (
        "finished",
        "FileWriteError: splits.csv",
    )


class AsInAnotherProcess(Callback):
    """Does what the command line does where the process is not the first: it knows no number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Point all others to the folder above."""
        if trainer.global_rank:
            told = next(each for each in trainer.callbacks if isinstance(each, RunFolder))  # type: ignore[attr-defined]
            told.folder = told.results = str(self.folder.parent)


@pytest.mark.slow
def test_two_processes_agree_on_the_folder_of_the_first(tmp_path: Path, two_processes: dict[str, Any]) -> None:
    folder = tmp_path / "1"
    saving = ModelCheckpoint(filename="model", enable_version_counter=False)
    trainer = tiny_runs.make_trainer(
        **two_processes,
        callbacks=[AsInAnotherProcess(folder), RunFolder(folder=str(folder)), SplitTable(), saving],
        **{"enable_checkpointing": True, "limit_train_batches": 1, "limit_val_batches": 0, "max_epochs": 1},
        use_distributed_sampler=False,
    )
    trainer.fit(tiny_runs.make_model("DAE"), datamodule=tiny_runs.make_data("DAE"))
    files = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {"1/run.json", "1/splits.csv", "1/checkpoints/model.ckpt"}
    checkpoint = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)
    assert (checkpoint[IDENTITY], read_record(folder)["state"]) == (read_record(folder)["id"], "finished")
