"""The command line: ``anomaly-suite fit|validate|test|predict|calibrate|extract-features|list|report``.

This file imports neither torch nor Lightning: help, ``list``, ``report`` and ``--version`` answer at once, and a misspelt
class is reported before anything slow is loaded. The verbs that need torch live in ``anomaly_suite.runner``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, cast

from anomaly_suite import __version__
from anomaly_suite.catalog import Kind, catalog
from anomaly_suite.errors import AnomalySuiteError, ConfigError, DatasetNotFoundError, did_you_mean
from anomaly_suite.run_folders import find_run

HELP = """usage: anomaly-suite VERB [options]

Visual anomaly detection on PyTorch Lightning.

verbs that need a configuration (anomaly-suite VERB --help lists every option):
  fit         train a method, validate and calibrate it
  validate    run the validation set through a checkpoint
  test        metrics, heatmaps, plots and score table on the test set
  predict     scores and heatmaps without labels
  calibrate   refit thresholds of a checkpoint by another rule, without training

verb that needs videos:
  extract-features INPUT OUTPUT          snippet features of video files or folders of frames (--help lists the options)

verbs that answer at once:
  list methods|data|metrics|callbacks    what the package offers
  report RUN                             metrics of a run folder as a table

common options:
  --config FILE             YAML file with model, data and trainer; repeatable, later files win
  --model NAME --data NAME  short class name (see list), or the dotted name of your own class in the current folder
  --print_config            print the complete configuration and stop
  --run RUN                 (all but fit) configuration and checkpoint of an earlier fit; results go into its folder
  --disable [NAME, ...]     leave out default callbacks: calibrate, metrics, heatmaps, plots, curves, table
  --version                 print the version

example:
  anomaly-suite fit --config sample_configs/quickstart.yaml
  anomaly-suite test --run runs/quickstart
"""
RUN_VERBS = ("fit", "validate", "test", "predict", "calibrate")
KINDS = ("methods", "data", "metrics", "callbacks")


def main(args: list[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Command-line words after the program's name; those of the process if None.

    Raises:
        SystemExit: status 2 for a wrong command line, 1 for an error of this package, told in one sentence. Set the
            environment variable ``ANOMALY_SUITE_TRACEBACK`` to see where it came from.
    """
    words = sys.argv[1:] if args is None else args
    verb, rest = (words[0], words[1:]) if words else ("--help", [])
    try:
        if verb in ("-h", "--help"):
            print(HELP, end="")
        elif verb == "--version":
            print(f"anomaly-suite {__version__}")
        elif verb == "list":
            _list(rest)
        elif verb == "report":
            _report(rest)
        elif verb in RUN_VERBS:
            check_class_names(rest)
            from anomaly_suite.runner import run

            run(verb, rest)
        elif verb == "extract-features":
            from anomaly_suite.runner import extract_features

            extract_features(rest)
        else:
            known = (*RUN_VERBS, "extract-features", "list", "report")
            raise ConfigError(f"unknown verb {verb!r}; known are {', '.join(known)}.{did_you_mean(verb, known)}")
    except ConfigError as error:
        _stop(error, 2)
    except AnomalySuiteError as error:
        _stop(error, 1)


def _stop(error: Exception, status: int) -> NoReturn:
    if os.environ.get("ANOMALY_SUITE_TRACEBACK"):
        raise error
    print(f"anomaly-suite: {type(error).__name__}: {error}", file=sys.stderr)
    raise SystemExit(status)


def check_class_names(words: list[str]) -> None:
    """Refuse a misspelt short class name on the command line, naming the nearest one.

    Args:
        words: Command-line words. ``--model NAME``, ``--data NAME`` and their ``=`` and ``.class_path`` forms are
            checked; dotted names are the user's own classes.

    Raises:
        ConfigError: no public class has this name.
    """
    for position, word in enumerate(words):
        option, equals, value = word.partition("=")
        kind: Kind | None = {
            "--model": "methods",
            "--model.class_path": "methods",
            "--data": "data",
            "--data.class_path": "data",
        }.get(option)  # type: ignore[assignment]
        if kind is None:
            continue
        name = value if equals else (words[position + 1] if position + 1 < len(words) else "")
        check_class_name(name, kind)


def check_class_name(name: str, kind: Kind) -> None:
    """Raise ConfigError for a short name that is no public class of its kind."""
    names = [entry.name for entry in catalog(kind)]
    if name and name.isidentifier() and name not in names:
        raise ConfigError(
            f"no {'method' if kind == 'methods' else 'data module'} {name!r}; known are {', '.join(names)}. "
            f"Your own class needs its dotted name (my_file.{name}).{did_you_mean(name, names)}"
        )


def _list(words: list[str]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    if len(words) != 1 or words[0] not in KINDS:
        raise ConfigError(f"list needs one of {', '.join(KINDS)}; got {' '.join(words) or 'nothing'}.")
    table = Table(
        Column("name", no_wrap=True),
        "family" if words[0] == "methods" else "file",
        "what it is",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for entry in catalog(cast(Kind, words[0])):
        table.add_row(entry.name, entry.family, entry.summary)
    Console().print(table)


def _report(words: list[str]) -> None:
    if len(words) != 1:
        raise ConfigError(f"report needs one run folder; got {' '.join(words) or 'nothing'}.")
    folder = find_run(words[0])
    file = folder / "metrics.json"
    if not file.is_file():
        raise DatasetNotFoundError(f"no metrics.json in {folder}. Run: anomaly-suite test --run {folder}")
    print_report(json.loads(file.read_text(encoding="utf-8")), folder)


def print_report(result: dict[str, Any], folder: Path) -> None:
    """Print the metrics of one test as a table, then where its files lie.

    Args:
        result: Content of ``metrics.json``.
        folder: The run folder.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)  # a command may say --disable [plots]
    table = Table("metric", "value", box=None, padding=(0, 2, 0, 0))
    for name, value in result["metrics"].items():
        table.add_row(name, f"{value:.4f}")
    for name, reason in result["undefined"].items():
        table.add_row(name, f"undefined: {reason}")
    data, seed = result["data"], result["seed"]
    title = f"{result['method']} on {result['dataset']}: {data['normal']} normal, {data['anomalous']} anomalous, seed {seed}"
    console.print(title, style="bold")
    console.print(table)
    if result["validation"] == "test":
        console.print("Validation was the test set: thresholds and the chosen epoch have seen it.", style="bold red")
    console.print(f"command: {result['command']}", soft_wrap=True)
    console.print(f"files:   {folder}", soft_wrap=True)
    results = ("heatmaps", "plots", "curves", "metrics.json", "config.yaml")
    for item in sorted(folder.iterdir()):
        if item.name in results or item.suffix in (".csv", ".parquet"):
            console.print(f"         {item.name}{'/' if item.is_dir() else ''}")
