"""``benchmark``: every cell of a grid, and the tables of them."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.driver import drive, share
from anomaly_suite.benchmark.folder import GridFolder
from anomaly_suite.benchmark.grid import Grid, read_grid
from anomaly_suite.benchmark.outcome import write_outcome
from anomaly_suite.benchmark.processes import run_processes, use_threads
from anomaly_suite.benchmark.progress import describe, showing
from anomaly_suite.benchmark.ray_cluster import run_ray
from anomaly_suite.benchmark.settings import RunSettings
from anomaly_suite.benchmark.tables import count_line
from anomaly_suite.cli.options import VerbParser
from anomaly_suite.cli.samples import find_config, read_stack, require_yaml, sample_names, samples_folder, stack_of
from anomaly_suite.errors import AnomalySuiteError, ConfigError, did_you_mean

GRIDS = "grids"
RUN_OPTIONS = ("executor", "workers", "gpus", "cpus", "threads", "address", "keep")
KINDS = {"workers": int, "threads": int, "gpus": float, "cpus": float}


class CellsFailedError(AnomalySuiteError, RuntimeError):
    """Cells of a grid have failed; all others are finished."""


def benchmark(words: list[str]) -> None:
    """Run the verb ``benchmark``.

    Args:
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, a wrong file, or a cell that cannot be configured.
        CellsFailedError: cells have failed.
    """
    options = _parser().parse_args(words)
    grid = read_grid(find_grid(options.config), partial(_read_config, beside=find_grid(options.config).parent))
    root = Path(options.folder) if options.folder else grid.folder
    settings = grid.run.changed({name: getattr(options, name) for name in RUN_OPTIONS})
    cells = list(grid.cells) if options.shard is None else share(grid.cells, *part_of(options.shard))
    folder = GridFolder(root)
    if options.list:
        _list(cells, folder)
        return
    if not options.tables:
        _run(grid, cells, root, settings, options)
    summary = write_outcome(grid, root)
    _tell(summary, root)
    _require_metrics(grid, folder)
    if not options.tables and (failed := [cell for cell in cells if folder.has_failed(cell.name)]):
        raise CellsFailedError(
            f"{len(failed)} of {len(cells)} cells failed, such as {failed[0].name}: {(folder.record(failed[0]) or {}).get('error')} "
            "Then run the same command with --retry-failed."
        )


def _run(grid: Grid, cells: Sequence[Cell], root: Path, settings: RunSettings, options: Namespace) -> None:
    from anomaly_suite.cli.cells import RunCell

    folder = GridFolder(root)
    if options.retry_failed:
        folder.retry_failed(cells)
    todo = [cell for cell in cells if not folder.is_done(cell)]
    check(todo, folder)
    folder.begin(grid)
    work = RunCell(settings.keep)
    if not todo:
        return
    with showing(cells, folder, settings.workers, grid.metrics) as told:
        if settings.executor == "processes":
            run_processes(cells, root, work, settings, told=told)
        elif settings.executor == "ray":
            run_ray(cells, root, work, settings, told=told)
        else:
            if settings.threads:
                use_threads(settings.threads)
            drive(cells, root, work, told=told)
        told()


def check(cells: Sequence[Cell], folder: GridFolder) -> None:
    """Parse the configuration of the first cell of each row and of each value of an option, before anything is trained.

    Args:
        cells: To be run.
        folder: Of the grid.

    Raises:
        ConfigError: one cannot be, with its name.
    """
    from anomaly_suite.cli.cells import fit_words, logged

    seen: set[str] = set()
    for cell in cells:
        values = {**cell.row, **cell.classes, **cell.subsets}
        new = {json.dumps([cell.configs, key, value], default=str) for key, value in values.items()} - seen
        if not new:
            continue
        seen |= new
        try:
            with logged(Path(os.devnull)):
                fit_words(cell, folder)
        except AnomalySuiteError as error:
            raise type(error)(f"{describe(cell)}: {error}") from error


def _require_metrics(grid: Grid, folder: GridFolder) -> None:
    """Refuse metrics that no finished cell has; all else is written by then.

    Raises:
        ConfigError: with those that there are.
    """
    records = [record for cell in grid.cells if (record := folder.record(cell)) is not None]
    known = sorted({name for record in records for name in record.get("metrics") or {}})
    for metric in grid.metrics if known else ():
        if metric not in known:
            raise ConfigError(
                f"no cell has the metric {metric!r}; they have {', '.join(known)}.{did_you_mean(metric, known)} Change metrics of the grid, "
                "then --tables."
            )


def find_grid(name: str) -> Path:
    """The file meant by ``--config``: the path itself, or the sample grid of that name.

    Args:
        name: A path, or the name of a sample grid, such as ``grids/digits_cpu.yaml``.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        require_yaml(path)
        return path
    folder = samples_folder() / GRIDS
    known = sorted(file.name for file in folder.glob("*.yaml"))
    if path.name in known and path.parent.name in ("", GRIDS):
        return folder / path.name
    raise ConfigError(
        f"no grid {name!r}: there is neither such a file nor such a sample grid; those are {', '.join(known)}.{did_you_mean(path.name, known)}"
    )


def _read_config(name: str, *, beside: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The stack of a configuration named in a grid, and its content; a file may also lie beside the grid.

    Raises:
        ConfigError: there is none.
    """
    if not Path(name).is_file() and (beside / name).is_file():
        name = str(beside / name)
    file = Path(find_config(name))
    if not file.is_file():
        raise ConfigError(
            f"no configuration {name!r}: there is neither such a file nor such a sample configuration.{did_you_mean(name, sample_names())}"
        )
    stack = stack_of(file)
    own = (name,) if not stack or stack == (name,) else (*stack[:-1], name)
    return own, dict(read_stack(file))


def part_of(word: str) -> tuple[int, int]:
    """``2/4`` as numbers.

    Raises:
        ConfigError: it is no such share.

    Example:
        >>> part_of("2/4")
        (2, 4)
    """
    part, stroke, parts = word.partition("/")
    if not (stroke and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"--shard needs a part and the number of parts, such as 1/4 to 4/4; got {word!r}.")
    return int(part), int(parts)


def _list(cells: Sequence[Cell], folder: GridFolder) -> None:
    for cell in cells:
        record = folder.record(cell)
        status = "missing" if record is None else record["status"]
        print(f"{status:9} {cell.name}  {describe(cell)}")
        if record is not None and record["error"]:
            print(f"          {record['error']}")
    print(f"{len(cells)} cells in {folder.root}")


def _tell(summary: dict[str, Any], root: Path) -> None:
    from rich.console import Console

    from anomaly_suite.benchmark.tables import main_table

    print_table(main_table(summary))
    print(count_line(summary))
    console = Console(markup=False, highlight=False)
    for each in summary["failed"]:
        console.print(f"failed: {each['name']}: {each['error']}", soft_wrap=True)
    print(f"tables and plots: {root} (results.md, results.tex, summary.json, cells.csv, plots/)")


def print_table(table: Sequence[Sequence[str]]) -> None:
    """Print a table in columns.

    Args:
        table: Header and rows.
    """
    from rich.console import Console
    from rich.table import Table

    shown = Table(*table[0], box=None, padding=(0, 2, 0, 0))
    for line in table[1:]:
        shown.add_row(*line)
    Console(markup=False, highlight=False).print(shown)


def _parser() -> VerbParser:
    parser = VerbParser(
        prog="anomaly-suite benchmark",
        description="Fit and test every cell of a grid, and write tables with the papers' figures beside ours. A finished cell is never run "
        "again; several drivers may share a folder.",
    )
    parser.add_argument(
        "--config", required=True, help="file of the grid, yours or a sample grid such as grids/digits_cpu.yaml"
    )
    parser.add_argument("--folder", help="where cells and tables go, in place of the grid's folder")
    helps = {
        "executor": "sequence, processes or ray",
        "workers": "cells at once",
        "gpus": "GPUs of a cell; 0.5 lets two share one",
        "cpus": "processors of a cell on Ray",
        "threads": "numeric threads of a cell",
        "address": "of a Ray cluster, such as auto; without it one is started here",
        "keep": "what stays of a finished cell: results, checkpoints or all",
    }
    for name in [each.name for each in fields(RunSettings)]:
        parser.add_argument(f"--{name}", type=KINDS.get(name, str), help=helps[name])
    parser.add_argument("--shard", help="one of equal shares of the cells, such as 2/4, for arrays of jobs")
    parser.add_argument("--retry-failed", action="store_true", help="run cells again that have failed")
    parser.add_argument("--list", action="store_true", help="list the cells and their status, and stop")
    parser.add_argument("--tables", action="store_true", help="write the tables of what is there, and stop")
    return parser
