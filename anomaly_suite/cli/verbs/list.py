"""``list``: what the package and its plugins offer, and its sample configurations."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_suite.cli.cards import card
from anomaly_suite.cli.catalog import KINDS, Kind, check_class_name
from anomaly_suite.cli.plugins import broken, offered
from anomaly_suite.cli.samples import Sample, condition, sample, sample_names, samples_folder
from anomaly_suite.errors import ConfigError

USAGE = f"""usage: anomaly-suite list {"|".join(KINDS)}
       anomaly-suite list configs [METHOD]
       anomaly-suite list runs [FOLDER]

What the package offers; its sample configurations: data, device and published figure; or the runs in a folder (runs if none is named):
method, data, seed, state, when they began, and the main metrics of their tests."""


WIDE = 130
"""Columns of a window in which methods are listed with what they are."""
PIPED = 300


def list_names(words: list[str]) -> None:
    """Run the verb ``list``.

    Args:
        words: A kind of class; ``configs`` and, if wanted, a method; ``runs`` and, if wanted, a folder; ``--help`` prints the usage.

    Raises:
        ConfigError: anything else, or an unknown method.
        DatasetNotFoundError: no such folder, or no run in it.
    """
    if {"-h", "--help"} & set(words):
        print(USAGE)
    elif words[:1] == ["configs"] and len(words) <= 2:
        _list_configs(*words[1:])
    elif words[:1] == ["runs"] and len(words) <= 2:
        from anomaly_suite.cli.run_table import list_runs

        list_runs(Path(*words[1:] or ["runs"]))
    elif len(words) == 1 and words[0] in KINDS:
        _list_classes(words[0])
    else:
        raise ConfigError(
            f"list needs one of {', '.join((*KINDS, 'configs', 'runs'))}; got {' '.join(words) or 'nothing'}."
        )


def _list_classes(kind: Kind) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    if kind == "methods":
        _list_methods()
    else:
        table = Table(Column("name", no_wrap=True), "file", "what it is", box=None, padding=(0, 2, 0, 0))
        for entry in offered(kind):
            table.add_row(entry.name, entry.family, entry.summary)
        Console().print(table)
    for sentence in broken():
        print(f"anomaly-suite: {sentence}", file=sys.stderr)


def _list_methods() -> None:
    """Methods with what stands on their cards; what they are is left out where it would make narrow columns."""
    from rich.console import Console
    from rich.table import Column, Table

    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(width=PIPED if piped else None)  # whole lines for grep and files
    wide = console.width >= WIDE
    columns: list[Column | str] = [
        "family",
        "task",
        Column("year", no_wrap=True),
        "paper",
        *(["what it is"] if wide else []),
    ]
    table = Table(Column("name", no_wrap=True), *columns, box=None, padding=(0, 2, 0, 0))
    for entry in offered("methods"):
        known = card(entry)
        table.add_row(entry.name, entry.family, known.task, known.year, known.paper, *([entry.summary] if wide else []))
    console.print(table)
    if not wide:
        print("A wider window also says what they are; anomaly-suite fit --model.help NAME says it of one.")


def _list_configs(method: str | None = None) -> None:
    if method is not None:
        check_class_name(method, "methods")
    shown = [entry for entry in map(sample, sample_names()) if method in (None, entry.method)]
    rows = [("configuration", "data", "device", "published")]
    rows += [(entry.name, entry.data, entry.device, _figures(entry)) for entry in shown]
    print_rows(rows)
    print(f"{len(shown)} files in {samples_folder()}")
    if stacked := next((entry for entry in shown if len(entry.stack) > 1), None):
        command = " ".join(f"--config {file}" for file in stacked.stack)
        print(f"The first line of a short file says how it is stacked: anomaly-suite fit {command}")


def _figures(entry: Sample) -> str:
    """The published figures that hold for the same as the first, as one cell."""
    if not entry.published:
        return ""
    holds = condition(entry.published[0])
    values = ", ".join(f"{row['metric']} {row['value']:.4f}" for row in entry.published if condition(row) == holds)
    return f"{values} {holds}".rstrip()


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print a table in whole lines at any width, so that names can be copied.

    Args:
        rows: Cells, as many in each row.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())
