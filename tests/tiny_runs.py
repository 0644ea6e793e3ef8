"""One tiny seeded run of every method, from ``tests/configs/<Name>.yaml``; the tests of a process share it.

A configuration has ``model`` and ``data`` (options, with ``class`` of the data module), ``epochs``, and where needed ``pretrain``,
the method whose checkpoint this one starts from, and ``resume_epochs``, enough of them to reach every phase.
"""

from __future__ import annotations

import copy
import json
import os
import random
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

import anomaly_suite.data
import anomaly_suite.methods
from anomaly_suite.callbacks import AnomalyMetrics, Calibrate, ComponentMetrics, SegmentationMetrics
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule

ONLY = os.environ.get("ANOMALY_SUITE_METHODS", "").split()  # tests over all methods are then over these alone
METHODS = [
    name
    for name in anomaly_suite.methods.__all__
    if issubclass(getattr(anomaly_suite.methods, name), AnomalyModule) and (not ONLY or name in ONLY)
]
SEED = 0
FIRST_PHASES = {
    "ae_epochs": 1,
    "classifier_epochs": 1,
    "cleaner_epochs": 1,
    "gan_epochs": 1,
    "generator_epochs": 1,
    "representation_epochs": 1,
    "teacher_epochs": 1,
}  # first phases that let a short run reach the second
FOLDER = tempfile.TemporaryDirectory()  # of run folders and checkpoints that several tests read
SECTIONS = ("segmentation", "components")  # of metrics.json
SHORT: dict[str, dict[str, Any]] = {
    "ADGAN": {"gan_epochs": 2},
    "DeepSVDD": {"ae_epochs": 1},
    "FAnoGAN": {"gan_epochs": 2},
    "FSADNet": {"representation_epochs": 1},
    "GCNAnomaly": {"classifier_epochs": 1, "cleaner_epochs": 1},
    "IGD": {"e_step_every": 2},
    "MIST": {"generator_epochs": 1},
    "StudentTeacher": {"teacher_epochs": 1},
}
"""Options that lead through all phases in three epochs; methods that are not here have one phase, and two epochs will do."""

SHORT_STEPS = 2  # of an epoch

CHANGING = (
    "command",
    "checkpoint",
    "versions",
    "run",
    "date",
    "data_sets",
)  # parts of metrics.json that say where and when it was written


class Run(NamedTuple):
    """What one run leaves behind."""

    model: AnomalyModule
    checkpoint: dict[str, Any]
    logged: dict[str, float]
    """By name; those of the last epoch of the fit and those of the test."""
    results: dict[str, Any]
    """``metrics.json``, flat: ``metrics/image_AUROC``, ``segmentation/mIoU``."""
    predictions: list[dict[str, Any]]


def config(name: str) -> dict[str, Any]:
    """The tiny configuration of a method."""
    file = Path(__file__).parent / "configs" / f"{name}.yaml"
    assert file.is_file(), f"a new method needs its tiny configuration: write {file.name} in tests/configs"
    return copy.deepcopy(_read(file))


@lru_cache
def _read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def group(name: str) -> str:
    """Methods that share a fit belong into one test process."""
    return config(name).get("pretrain", name)


def make_model(name: str, **changes: Any) -> AnomalyModule:
    """The model of a configuration, drawn from the seed."""
    options = {**config(name)["model"], **changes}
    if first := config(name).get("pretrain"):
        options["segmenter_weights"] = str(checkpoint_file(first))
    seed_everything(SEED, verbose=False)
    return getattr(anomaly_suite.methods, name)(**options)


def make_data(name: str, **changes: Any) -> AnomalyDataModule:
    """The data module of a configuration."""
    options = {**config(name)["data"], **changes}
    return getattr(anomaly_suite.data, options.pop("class"))(**options)


def make_trainer(**options: Any) -> Trainer:
    """A trainer on one CPU process that prints and writes nothing by itself."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**defaults, **options})


def run(name: str, changes: Mapping[str, Any] | None = None, **trainer_options: Any) -> Run:
    """Fit, validate after the last epoch, test and predict, with the callbacks that compute figures.

    Args:
        name: A method.
        changes: Options of the model other than those of the configuration.
        trainer_options: Options of the trainer, such as fewer epochs.
    """
    changes = changes or {}
    model = make_model(name, **changes)
    data = make_data(name, **{key: changes[key] for key in ("image_size",) if key in changes})
    epochs, folder = config(name)["epochs"], tempfile.mkdtemp(dir=FOLDER.name)
    trainer = make_trainer(
        default_root_dir=folder,
        callbacks=[
            *(Calibrate(), AnomalyMetrics(), SegmentationMetrics()),
            ComponentMetrics(threshold="best", min_object=1, min_predicted=1),
        ],
        **{"max_epochs": epochs, "check_val_every_n_epoch": epochs, **trainer_options},
    )
    trainer.fit(model, datamodule=data)
    checkpoint = copy.deepcopy(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    trainer.test(model, datamodule=data, verbose=False)
    logged.update({key: float(value) for key, value in trainer.callback_metrics.items()})
    predictions = trainer.predict(model, datamodule=data)
    model.trainer = None  # type: ignore[assignment] # of a run that is over
    return Run(model.eval(), checkpoint, logged, _results(Path(folder)), predictions)  # type: ignore[arg-type]


@lru_cache
def fitted(name: str) -> Run:
    """The run of a method, made once in a process."""
    return run(name)


class ShortRun(NamedTuple):
    """A seeded fit of a few steps through all phases, and a checkpoint from within it."""

    tensors: dict[str, Tensor]
    record: dict[str, Any]
    """Of the calibration."""
    global_step: int
    killed: Path
    """Checkpoint after one step: all that a killed process leaves behind."""
    place: tuple[int, int]
    """Epoch and batch of that step."""


@lru_cache
def short_run(name: str) -> ShortRun:
    """The short fit of a method, made once in a process; the step of its checkpoint is drawn by the name."""
    batches = min(SHORT_STEPS, len(short_data(name).train_dataloader()))
    epochs = 1 if make_model(name).single_pass else 2 + (name in SHORT)
    place = divmod(random.Random(name).randrange(epochs * batches), batches)
    save = SaveAt(Path(FOLDER.name) / f"killed-{name}.ckpt", place)
    model = short_fit(name, save, max_epochs=epochs)
    record = copy.deepcopy(model.calibration.record)
    return ShortRun(tensors(model), record, model.trainer.global_step, save.file, place)


def short_data(name: str) -> AnomalyDataModule:
    """The data of a configuration, smaller where they are large."""
    scenes = config(name)["data"]["class"] == "SyntheticStreets"
    return make_data(name, **{"image_size": (32, 64)} if scenes else {})


def short_fit(
    name: str, *callbacks: Callback, seed: int = SEED, resume: Path | None = None, **options: Any
) -> AnomalyModule:
    """Fit a method for a few steps.

    Args:
        name: A method.
        callbacks: Beside the one that calibrates.
        seed: Of the process; the initial weights are always the same.
        resume: Checkpoint to go on from.
        options: Of the trainer.
    """
    model = make_model(name, **SHORT.get(name, {}))
    seed_everything(seed, verbose=False)
    options = {"limit_train_batches": SHORT_STEPS, "limit_val_batches": 1, **options}
    trainer = make_trainer(callbacks=[Calibrate(), *callbacks], **options)
    trainer.fit(model, datamodule=short_data(name), ckpt_path=resume, weights_only=True)
    return model


class SaveAt(Callback):
    """Write a checkpoint in a hook of one batch (epoch, number)."""

    def __init__(self, file: Path, place: tuple[int, int], hook: str = "on_train_batch_end") -> None:
        self.file, self.place = file, place
        setattr(self, hook, self._save)

    def _save(self, trainer: Trainer, *args: Any) -> None:
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        if (trainer.current_epoch, batch) == self.place and not trainer.sanity_checking:
            trainer.save_checkpoint(self.file)


@lru_cache
def checkpoint_file(name: str) -> Path:
    """The checkpoint of that run."""
    file = Path(FOLDER.name) / f"{name}.ckpt"
    torch.save(fitted(name).checkpoint, file)
    return file


@lru_cache
def all_test_inputs(name: str) -> dict[str, Any]:
    """All test images, or whole videos padded to one length, in one batch."""
    data = make_data(name, eval_batch_size=10_000)
    data.setup("test")
    (batch,) = data.test_dataloader()
    kept = ("image", "mask", "label", "snippet_features", "length", "target", "ood_mask")
    return {key: batch[key] for key in kept if key in batch}


def flat(value: Any, name: str) -> dict[str, Any]:
    """Leaves of nested mappings, their keys joined by strokes; an empty mapping has none."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, item in value.items() for key, leaf in flat(item, f"{name}/{part}").items()}


def _results(folder: Path) -> dict[str, Any]:
    """The result file without what differs from one machine or moment to the next."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for section in SECTIONS:  # former versions wrote a file for each
        if (file := folder / f"{section}.json").is_file():
            content[section] = json.loads(file.read_text(encoding="utf-8"))
        part = content.get(section, {})
        content[section] = {**{key: item for key, item in part.items() if key != "metrics"}, **part.get("metrics", {})}
    return {
        key: leaf for part, item in content.items() if part not in CHANGING for key, leaf in flat(item, part).items()
    }


def tensors(model: AnomalyModule) -> dict[str, Tensor]:
    """Copies of the tensors in ``state_dict``."""
    return {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def hyper_parameters(model: AnomalyModule) -> dict[str, Any]:
    """What ``save_hyperparameters`` recorded, paths of this process's folder made alike."""
    return {name: _plain(value) for name, value in model.hparams.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, Tensor | bool | int | float | None):
        return value
    return str(value).replace(FOLDER.name, "FOLDER")
