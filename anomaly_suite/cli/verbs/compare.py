"""``compare``: runs side by side, with the published figures and the options that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomaly_suite.benchmark.cells import Cell, text
from anomaly_suite.benchmark.summary import summarise
from anomaly_suite.benchmark.tables import (
    latex,
    latex_table,
    main_table,
    markdown_table,
    notes_of,
    save_table,
    summary_columns,
)
from anomaly_suite.cli.figures import compared, read_config
from anomaly_suite.cli.options import VerbParser
from anomaly_suite.cli.verbs.benchmark import print_table
from anomaly_suite.cli.verbs.report import sections_of, with_former_files
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, did_you_mean
from anomaly_suite.io.atomic import save_text
from anomaly_suite.io.runs import find_run

FORMATS = (".md", ".tex", ".csv", ".parquet")
PARTS = ("model", "data", "trainer", "calibrate", "checkpoint")
NO_OPTIONS = (
    "default_root_dir",
    "logger",
    "callbacks",
    "enable_progress_bar",
)  # of a trainer: where and how it is told


def compare(words: list[str]) -> None:
    """Run the verb ``compare``.

    Args:
        words: Run folders and options.

    Raises:
        ConfigError: wrong options, or an unknown metric.
        DatasetNotFoundError: a folder is no run, or has not been tested.
        DatasetError: results that cannot be read.
    """
    options = _parser().parse_args(words)
    output = Path(options.output) if options.output else None
    if output is not None and output.suffix not in FORMATS:
        raise ConfigError(f"--output needs a file that ends in {', '.join(FORMATS)}; got {options.output!r}.")
    folders = dict(zip(names_of(options.runs), map(find_run, options.runs), strict=True))
    summary = summary_of_runs(folders, options.metrics or ())
    differing = options_that_differ({name: read_config(folder) for name, folder in folders.items()})
    if output is None:
        print_table(main_table(summary))
        for note in notes_of(summary):
            print(note)
        if len(differing) > 1:
            print()
            print_table(differing)
    elif output.suffix in (".md", ".tex"):
        save_text(output, _as_text(summary, differing, output.suffix))
    else:
        save_table(output, summary_columns(summary))
    if output is not None:
        print(f"written: {output}")


def names_of(runs: Sequence[str]) -> list[str]:
    """Names of runs as the user gave them, less what all begin with.

    Args:
        runs: Paths.

    Raises:
        ConfigError: one is given twice.

    Example:
        >>> names_of(["runs/a/version_0", "runs/b"])
        ['a/version_0', 'b']
    """
    parts = [Path(run).parts for run in runs]
    if len(set(parts)) < len(parts):
        raise ConfigError(f"runs to compare must differ; got {max(runs, key=list(runs).count)!r} twice. Leave one out.")
    common = 0
    while len(runs) > 1 and all(len(part) > common + 1 and part[common] == parts[0][common] for part in parts):
        common += 1
    return ["/".join(part[common:]) for part in parts]


def summary_of_runs(folders: Mapping[str, Path], metrics: Sequence[str]) -> dict[str, Any]:
    """Tested runs as the rows of a summary.

    Args:
        folders: Run folders by name.
        metrics: Columns; empty for those with a published figure and every AUROC.

    Raises:
        ConfigError: a metric that no run has.
    """
    cells, records = [], {}
    for name, folder in folders.items():
        result = _result(folder)
        seed = result.get("seed")
        cell = Cell({"method": name}, {}, {}, seed if isinstance(seed, int) else 0, (name,), {}, str(folder))
        values = {key: value for part in sections_of(result).values() for key, value in part["metrics"].items()}
        cells.append(cell)
        records[cell.name] = {"name": cell.name, "status": "finished", "metrics": values, **compared(folder)}
    known = sorted({name for record in records.values() for name in record["metrics"]})
    for metric in metrics:
        if metric not in known:
            raise ConfigError(f"no run has {metric!r}; they have {', '.join(known)}.{did_you_mean(metric, known)}")
    return summarise("runs", cells, records, metrics=metrics)


def _result(folder: Path) -> dict[str, Any]:
    file = folder / "metrics.json"
    if not file.is_file():
        raise DatasetNotFoundError(f"no metrics.json in {folder}. Run: anomaly-suite test --run {folder}")
    try:
        return with_former_files(json.loads(file.read_text(encoding="utf-8")), folder)
    except ValueError as error:
        raise DatasetError(f"'{file}' is cut or damaged ({error}). Run: anomaly-suite test --run {folder}") from error


def options_that_differ(configs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows of the options that not all runs have alike.

    Args:
        configs: Complete configurations by name of the run.
    """
    options = {name: _flat(config) for name, config in configs.items()}
    known = list(dict.fromkeys(key for each in options.values() for key in each))
    rows = [[key, *(text(each[key]) if key in each else "" for each in options.values())] for key in known]
    return [["option", *options], *(row for row in rows if len(set(row[1:])) > 1)]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"seed_everything": config.get("seed_everything")}
    for part in PARTS:
        section = config.get(part) or {}
        if "class_path" in section:
            found[part] = str(section["class_path"]).rpartition(".")[2]
            section = section.get("init_args") or {}
        found |= {f"{part}.{name}": value for name, value in section.items() if name not in NO_OPTIONS}
    return found


def _as_text(summary: Mapping[str, Any], differing: Sequence[Sequence[str]], suffix: str) -> str:
    if suffix == ".tex":
        return latex(summary) + (f"{latex_table(differing)}\n" if len(differing) > 1 else "")
    parts = [markdown_table(main_table(summary)), *(f"* {note}" for note in notes_of(summary))]
    return "\n\n".join([*parts, *([markdown_table(differing)] if len(differing) > 1 else [])]) + "\n"


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="anomaly-suite compare",
        description="Metrics of tested runs side by side, the published figures with what differed from their setting, and the options that "
        "tell the runs apart.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder that fit wrote")
    parser.add_argument(
        "--metrics", nargs="+", help="columns; by default those with a published figure and every AUROC"
    )
    parser.add_argument("--output", help="file to write instead, ending in .md, .tex, .csv or .parquet")
    return parser
