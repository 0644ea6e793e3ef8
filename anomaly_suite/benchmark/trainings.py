"""Trainings of a script of one's own, one after another in this process, with results in a file that is continued.

For what a grid cannot say: a script trains and measures as it likes, and has configurations, seeds, progress and a file of results
from here. A finished run is a JSON line; a run that is in the file already, with the same settings, is not repeated. The script imports the
classes that its configurations name by their short names (``anomaly_suite.methods``, ``anomaly_suite.data``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from anomaly_suite.contract import AnomalyDataModule, AnomalyModule
from anomaly_suite.errors import ConfigError

Record = dict[str, Any]


class Setting(NamedTuple):
    """What does not change between the runs of one configuration: its name, its sections, and what a script adds."""

    name: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    more: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Short fingerprint of everything but the name."""
        return hashlib.sha256(json.dumps(self[1:], sort_keys=True).encode()).hexdigest()[:12]


class Run(NamedTuple):
    """One training: its seed, and options of the data module that differ between runs."""

    setting: Setting
    seed: int
    options: Mapping[str, Any]

    @property
    def key(self) -> Record:
        """What tells this run from others in the file of results."""
        return {"config": self.setting.name, "settings": self.setting.digest, "seed": self.seed, **self.options}


def read_setting(name: str, content: Mapping[str, Any], **more: Any) -> Setting:
    """A configuration as a setting.

    Args:
        name: Of the configuration.
        content: Of the file, with those that it is stacked on.
        more: Becomes part of its fingerprint.
    """
    model, data = (
        {"class_path": content[part]["class_path"], "init_args": dict(content[part].get("init_args", {}))}
        for part in ("model", "data")
    )
    trainer = {key: value for key, value in content["trainer"].items() if key != "default_root_dir"}
    return Setting(name, model, data, trainer, more)


def build(run: Run) -> tuple[AnomalyModule, AnomalyDataModule]:
    """Seeded model and data of a run, through the same parser as the command line's.

    ``{seed}`` in an option of the model, such as the path of weights, becomes the run's seed.

    Raises:
        ConfigError: an option that model or data do not take.
    """
    data = {**run.setting.data, "init_args": {**run.setting.data["init_args"], **run.options, "seed": run.seed}}
    arguments = {
        key: value.replace("{seed}", str(run.seed)) if isinstance(value, str) else value
        for key, value in run.setting.model["init_args"].items()
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalyModule, "model")
    parser.add_subclass_arguments(AnomalyDataModule, "data")
    seed_everything(run.seed, verbose=False)
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    try:
        model = {**run.setting.model, "init_args": arguments}
        built = instantiate(parser.parse_object({"model": model, "data": data}))
    except argparse.ArgumentError as error:
        raise ConfigError(
            f"{run.setting.name}: model and data must take the options given: {' '.join(str(error).split())}"
        ) from error
    return built.model, built.data


def quiet_trainer(run: Run, *, accelerator: str, **options: Any) -> Trainer:
    """The trainer of a run, on one device, which writes and prints nothing.

    Args:
        run: Whose options of the trainer it has.
        accelerator: Of the device.
        options: Of the trainer, in place of the run's.
    """
    fixed = {
        "accelerator": accelerator,
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{**run.setting.trainer, **fixed, **options})


def run_all(runs: Sequence[Run], results: Path, work: Callable[[Run], Record]) -> list[Record]:
    """Do the runs that ``results`` does not hold yet, appending each to it.

    Args:
        runs: Wanted.
        results: File of JSON lines.
        work: Does one, and returns what goes into its line beside its key.

    Returns:
        All records of the file.

    Raises:
        ConfigError: a line of the file that is no JSON.
    """
    records = read_results(results)
    missing = [run for run in runs if find(records, run) is None]
    results.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(runs), completed=len(runs) - len(missing))
        for run in missing:
            what = " ".join(f"{name} {value:g}" for name, value in {"seed": run.seed, **run.options}.items())
            progress.update(task, description=f"{run.setting.name} {what}")
            records.append({**run.key, **work(run)})
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")
            progress.advance(task)
    return records


def read_results(file: Path) -> list[Record]:
    """Finished runs; none if there is no file yet.

    Raises:
        ConfigError: a line that is no JSON, as an interrupted write leaves it.
    """
    records = []
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}: line {number} is not JSON ({error}). Delete that line.") from error
    return records


def find(records: Sequence[Record], run: Run) -> Record | None:
    """The record of a run, if it is finished."""
    return next((record for record in records if run.key.items() <= record.items()), None)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Configurations, results, seeds, threads and device."""
    parser.add_argument("configs", nargs="+", type=Path, help="configurations, one a method")
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines, made or continued")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")


def prepare(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check that the configurations are there, set the threads and silence Lightning."""
    for file in options.configs:
        if not file.is_file():
            parser.error(f"configs must be YAML files; there is no {file}.")
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
