"""Every method with every logger: a short fit and its test through the command line, and what each logger got of it.

    python benchmarks/loggers.py --results runs/loggers.jsonl           # goes on where it was stopped
    python benchmarks/loggers.py --results runs/loggers.jsonl --table   # the table, of what is there

A line of the results is a cell: ``method``, ``what`` (``csv``, ``tensorboard``, ``wandb``, ``mlflow``), ``ok`` and ``reason``, the sentence where it
is not. A method is fitted once with its tiny configuration of ``tests/configs`` and all four loggers together, W&B offline and MLflow on a
folder; where that fails, with each alone. Each must have got numbers of the fit, and all but the CSV file, which lies in the run's folder as everything does,
``metrics.json`` of the test, too. Needs the extra ``loggers`` and ``fork``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import tiny_runs
import yaml

from anomaly_suite.cli import main as command
from anomaly_suite.errors import AnomalySuiteError
from anomaly_suite.io.runs import find_run

LOGGERS: dict[str, dict[str, Any]] = {
    "csv": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}},
    "tensorboard": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs"}},
    "wandb": {"class_path": "WandbLogger", "init_args": {"offline": True}},
    "mlflow": {"class_path": "MLFlowLogger"},
}
TIMEOUT_S = 1800

Cell = dict[str, Any]


def configuration(name: str, loggers: Iterable[str]) -> dict[str, Any]:
    """A short fit of a method as a configuration of the command line."""
    tiny = tiny_runs.config(name)
    model = {**tiny["model"], **tiny_runs.SHORT.get(name, {})}
    if "pretrain" in tiny:
        model["segmenter_weights"] = "first"
    data = dict(tiny["data"])
    kind = data.pop("class")
    trainer = {
        "max_epochs": 2 + (name in tiny_runs.SHORT),
        "limit_train_batches": tiny_runs.SHORT_STEPS,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "logger": [LOGGERS[logger] for logger in loggers] or False,
    }
    options = {"class_path": name, "init_args": model}
    return {"model": options, "data": {"class_path": kind, "init_args": data}, "trainer": trainer}


def run(words: list[str]) -> None:
    """Run one command.

    Raises:
        RuntimeError: it ends with an error.
    """
    sys.argv = ["anomaly-suite", *words]
    os.environ["ANOMALY_SUITE_TRACEBACK"] = "1"
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        command(words)


def fit_and_test(name: str, loggers: list[str]) -> Path:
    """Fit and test a method in the current folder; gives the run's folder."""
    first = tiny_runs.config(name).get("pretrain")
    if first is not None:
        Path("first.yaml").write_text(yaml.safe_dump(configuration(first, [])), encoding="utf-8")
        run(["fit", "--config", "first.yaml", "--trainer.default_root_dir", "first"])
    place = Path("_".join(loggers))
    place.with_suffix(".yaml").write_text(yaml.safe_dump(configuration(name, loggers)), encoding="utf-8")
    own = any(logger in ("csv", "tensorboard") for logger in loggers)
    root = [] if own else ["--trainer.default_root_dir", "logs"]
    run(["fit", "--config", f"{place}.yaml", *root])
    folder = find_run("logs")
    run(["test", "--run", str(folder)])
    return folder


def lacks(logger: str, folder: Path) -> str:
    """What a logger should have got and has not; ``""`` for nothing."""
    if not (folder / "metrics.json").is_file():
        return "no metrics.json in the run's folder"
    if logger == "csv":
        with (folder / "metrics.csv").open(encoding="utf-8") as file:
            return "" if len(next(csv.reader(file))) > 2 else "metrics.csv has no numbers"
    if logger == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        tags: set[str] = set()
        for file in folder.glob("events.out.tfevents.*"):
            events = EventAccumulator(str(file))
            events.Reload()
            tags |= {*events.Tags()["scalars"], *events.Tags()["tensors"]}
        got = any(tag.startswith(("train/", "val/")) for tag in tags), "metrics/text_summary" in tags
    elif logger == "wandb":
        got = any(folder.glob("wandb/offline-run-*/run-*.wandb")), any(folder.glob("wandb/*/files/metrics.json"))
    else:
        numbers = [path for path in Path("mlruns").rglob("metrics/*") if path.name in ("train", "val")]
        got = bool(numbers), any(Path("mlruns").rglob("artifacts/metrics.json"))
    names = ("numbers of the fit", "metrics.json of the test")
    return ", ".join(f"no {what}" for what, is_there in zip(names, got, strict=True) if not is_there)


def cells_of(name: str) -> list[Cell]:
    """A cell for each logger."""
    try:
        folder = fit_and_test(name, list(LOGGERS))
        return [cell(name, logger, lacks(logger, folder)) for logger in LOGGERS]
    except Exception:  # which logger is it?
        return [alone(name, logger) for logger in LOGGERS]


def alone(name: str, logger: str) -> Cell:
    """The cell of one logger without others."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            return cell(name, logger, lacks(logger, fit_and_test(name, [logger])))
        except AnomalySuiteError as error:
            return cell(name, logger, str(error))
        except Exception:  # a table says what each does
            return cell(name, logger, traceback.format_exc(limit=-1).strip().splitlines()[-1])
        finally:
            os.chdir(before)


def cell(name: str, logger: str, reason: str) -> Cell:
    return {"method": name, "what": logger, "ok": not reason, "reason": reason}


def in_a_process(work: Callable[[str], list[Cell]], name: str) -> list[Cell]:
    """The cells of a method, from a process and a folder of their own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        os.environ.update(WANDB_SILENT="true", MLFLOW_ENABLE_ASYNC_LOGGING="false")
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            sender.send(work(name))
            os.chdir("/")

    process = context.Process(target=child)
    process.start()
    found = receiver.recv() if receiver.poll(TIMEOUT_S) else None
    process.terminate() if found is None else process.join(60)
    return found or [cell(name, logger, f"no answer in {TIMEOUT_S} s") for logger in LOGGERS]


def table(cells: Iterable[Cell]) -> str:
    """Methods by loggers, in Markdown."""
    by_method: dict[str, dict[str, Cell]] = {}
    for each in cells:
        by_method.setdefault(each["method"], {})[each["what"]] = each
    rows = [["method", *LOGGERS], ["---"] * (1 + len(LOGGERS))]
    for name, found in sorted(by_method.items()):
        shown = [
            "" if (one := found.get(logger)) is None else "yes" if one["ok"] else one["reason"] for logger in LOGGERS
        ]
        rows.append([name, *shown])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def read(results: Path) -> list[Cell]:
    """Cells that are there; the last of a name counts."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    found = {(each["method"], each["what"]): each for each in map(json.loads, lines)}
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Every method with every logger.")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, to which cells are added")
    parser.add_argument("--only", nargs="+", default=tiny_runs.METHODS, choices=tiny_runs.METHODS, metavar="METHOD")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and run nothing")
    options = parser.parse_args()
    if not options.table:
        done = {each["method"] for each in read(options.results)}
        options.results.parent.mkdir(parents=True, exist_ok=True)
        for name in options.only:
            if name in done:
                continue
            lines = [json.dumps(each) for each in in_a_process(cells_of, name)]
            with options.results.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
            print(name, *lines, sep="\n  ", file=sys.stderr)
    print(table(read(options.results)), end="")


if __name__ == "__main__":
    main()
