"""AUROC as more and more of the training set is anomalous: one JSON line a run, then a Markdown table.

    python benchmarks/contamination.py sample_configs/one_class/deep_svdd_digits_cpu.yaml \
        sample_configs/one_class/deep_svdd_rec_digits_cpu.yaml --results runs/contamination_digits.jsonl

Every configuration is trained on every class, at every level and seed, one run after another in this process, on one thread.
A level is the data module's ``contamination``: the share of the training set that is anomalous images called normal. The seed
decides weights, splits and which images contaminate. A finished run is appended to the file of results; a run that is in it
already, with the same settings, is not repeated, so an interrupted benchmark goes on where it stopped.

Nothing is chosen by validation: all normal images train, the last epoch is scored, and the ``checkpoint`` section of a
configuration is not read. With ``--epochs``, options of the model that are named ``...epochs`` and stated in the configuration
(such as ``ae_epochs``) shrink in proportion.

A cell of the table is the mean AUROC over classes, then over seeds, with the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Subset

import anomaly_suite.data
import anomaly_suite.methods  # noqa: F401 - the parser then knows the classes of both by their short names
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, as_batch
from anomaly_suite.data.memory import ImageSet, OneVsRest
from anomaly_suite.errors import AnomalySuiteError, ConfigError
from anomaly_suite.metrics import auroc

LEVELS = (0.0, 0.01, 0.05, 0.1)
SEEDS = (0, 1, 2)

Record = dict[str, Any]


class Setting(NamedTuple):
    """What does not change between the runs of one configuration: its name, and its sections after the overrides."""

    name: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    test_per_class: int | None

    @property
    def digest(self) -> str:
        """Short fingerprint of everything but the name."""
        return hashlib.sha256(json.dumps(self[1:], sort_keys=True).encode()).hexdigest()[:12]


class Run(NamedTuple):
    """One training."""

    setting: Setting
    contamination: float
    seed: int
    normal_class: int

    @property
    def key(self) -> Record:
        """What tells this run from others in the file of results."""
        return {
            "config": self.setting.name,
            "settings": self.setting.digest,
            "contamination": self.contamination,
            "seed": self.seed,
            "normal_class": self.normal_class,
        }


def read_setting(
    file: Path, *, epochs: int | None, train_fraction: float | None, test_per_class: int | None
) -> Setting:
    """A configuration with its overrides; None leaves what the file says."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    model = {"class_path": content["model"]["class_path"], "init_args": dict(content["model"].get("init_args", {}))}
    data = {"class_path": content["data"]["class_path"], "init_args": dict(content["data"].get("init_args", {}))}
    trainer = {key: value for key, value in content["trainer"].items() if key != "default_root_dir"}
    data["init_args"]["validation"] = "none"
    if epochs is not None:
        for key, value in model["init_args"].items():
            if key.endswith("epochs") and value is not None:
                model["init_args"][key] = round(value * epochs / trainer["max_epochs"])
        trainer["max_epochs"] = epochs
    if train_fraction is not None:
        data["init_args"]["train_fraction"] = train_fraction
    return Setting(file.stem, model, data, trainer, test_per_class)


def build(run: Run) -> tuple[AnomalyModule, OneVsRest]:
    """Seeded model and data of a run, through the same parser as the command line's.

    Raises:
        ConfigError: a data module without classes, or an option that model or data do not take.
    """
    varied = {"contamination": run.contamination, "seed": run.seed, "normal_class": run.normal_class}
    data = {**run.setting.data, "init_args": {**run.setting.data["init_args"], **varied}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalyModule, "model")
    parser.add_subclass_arguments(AnomalyDataModule, "data")
    seed_everything(run.seed, verbose=False)
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    try:
        built = instantiate(parser.parse_object({"model": run.setting.model, "data": data}))
    except argparse.ArgumentError as error:
        raise ConfigError(
            f"{run.setting.name}: model and data must take the options given, and the data module be one class against the "
            f"others (Digits, MNIST, FashionMNIST, CIFAR10): {' '.join(str(error).split())}"
        ) from error
    return built.model, built.data


def train_and_test(run: Run, *, accelerator: str) -> Record:
    """Train and score one model.

    Returns:
        The run's key; counts of images; ``auroc``; wall (``_s``) and processor (``_cpu_s``) seconds of training and of
        scoring the test images.
    """
    model, data = build(run)
    data.setup()
    assert data.splits is not None
    train, test = data.splits.train, data.splits.test
    assert isinstance(train, ImageSet)
    assert isinstance(test, ImageSet)
    rows = first_of_each_class(test.names, run.setting.test_per_class)
    loader = DataLoader(Subset(test, rows), batch_size=data.eval_batch_size, collate_fn=as_batch)
    label = test.label[rows]
    trainer = Trainer(
        **{
            **run.setting.trainer,
            "accelerator": accelerator,
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    )
    times = [(time.perf_counter(), time.process_time())]
    trainer.fit(model, train_dataloaders=data.train_dataloader())
    times.append((time.perf_counter(), time.process_time()))
    predictions: Any = trainer.predict(model, loader)
    score = torch.cat([prediction["anomaly_score"] for prediction in predictions])
    times.append((time.perf_counter(), time.process_time()))
    fit, predict = ([after - before for before, after in zip(*times[i : i + 2], strict=True)] for i in (0, 1))
    return {
        **run.key,
        "method": type(model).__name__,
        "data": type(data).__name__,
        "epochs": run.setting.trainer["max_epochs"],
        "train_images": len(train),
        "anomalous_train_images": sum(class_of(name) != run.normal_class for name in train.names),
        "normal_test_images": int((label == 0).sum()),
        "anomalous_test_images": int((label == 1).sum()),
        "auroc": float(auroc(score, label)),
        "fit_s": round(fit[0], 2),
        "fit_cpu_s": round(fit[1], 2),
        "test_s": round(predict[0], 2),
        "test_cpu_s": round(predict[1], 2),
    }


def class_of(name: str) -> int:
    """Class index of an image of a one-class-against-the-rest set; its name is ``<class>/<position>``."""
    return int(name.partition("/")[0])


def first_of_each_class(names: Sequence[str], count: int | None) -> list[int]:
    """Positions of the first ``count`` images of every class, in order; of all images for None."""
    seen: Counter[int] = Counter()
    rows = []
    for row, name in enumerate(names):
        seen[class_of(name)] += 1
        if count is None or seen[class_of(name)] <= count:
            rows.append(row)
    return rows


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


def table(runs: Sequence[Run], records: Sequence[Record]) -> str:
    """Markdown: configurations as rows, levels as columns, mean over classes and seeds with the deviation over seeds."""
    levels = list(dict.fromkeys(run.contamination for run in runs))
    names = list(dict.fromkeys(run.setting.name for run in runs))
    lines = ["| | " + " | ".join(f"{100 * level:g} %" for level in levels) + " |"]
    lines.append("|---|" + "---|" * len(levels))
    for name in names:
        cells = []
        for level in levels:
            by_seed: dict[int, list[float]] = {}
            for run in runs:
                if run.setting.name == name and run.contamination == level and (record := find(records, run)):
                    by_seed.setdefault(run.seed, []).append(record["auroc"])
            means = [statistics.fmean(values) for values in by_seed.values()]
            spread = f" ± {statistics.stdev(means):.4f}" if len(means) > 1 else ""
            cells.append(f"{statistics.fmean(means):.4f}{spread}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="AUROC at several levels of contamination, as a Markdown table.")
    parser.add_argument("configs", nargs="+", type=Path, help="configurations, one a method")
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines, made or continued")
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, help="shares of the training set")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--classes", nargs="+", type=int, default=range(10), help="normal classes, by index")
    parser.add_argument("--epochs", type=int, help="instead of the configurations' own")
    parser.add_argument("--train-fraction", type=float, help="share of the training normals")
    parser.add_argument("--test-per-class", type=int, help="test images of each class, the first ones; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    options = parser.parse_args(words)
    for file in options.configs:
        if not file.is_file():
            parser.error(f"configs must be YAML files; there is no {file}.")

    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        overrides = {name: getattr(options, name) for name in ("epochs", "train_fraction", "test_per_class")}
        settings = [read_setting(file, **overrides) for file in options.configs]
        runs = [Run(*one) for one in product(settings, options.levels, options.seeds, options.classes)]
        records = read_results(options.results)
        missing = [run for run in runs if find(records, run) is None]
        options.results.parent.mkdir(parents=True, exist_ok=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=len(runs), completed=len(runs) - len(missing))
            for run in missing:
                what = f"{run.setting.name} {run.contamination:g} seed {run.seed} class {run.normal_class}"
                progress.update(task, description=what)
                records.append(train_and_test(run, accelerator=options.accelerator))
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                progress.advance(task)
    except AnomalySuiteError as error:
        parser.error(str(error))
    seeds = f"seeds {', '.join(map(str, options.seeds))}"
    print(f"AUROC, mean over {len(options.classes)} classes; {seeds}: mean ± standard deviation\n")
    print(table(runs, records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
