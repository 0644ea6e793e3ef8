"""The tables of a grid: Markdown, LaTeX, CSV and Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomaly_suite.benchmark.cells import Cell, short, text
from anomaly_suite.benchmark.folder import Record
from anomaly_suite.io.atomic import csv_text, replacing, save_text

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def number(value: float | None) -> str:
    """A value with four digits, nothing for None."""
    return "" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return "" if value is None else f"{value:+.4f}"


def with_spreads(row: Mapping[str, Any], plus_minus: str = "±") -> str:
    """Mean and deviations of an entry of a summary; a star where cells are missing.

    Example:
        >>> with_spreads({"mean": 0.9, "spread_seeds": 0.01, "spread_subsets": None, "cells": 2, "planned": 2})
        '0.9000 ± 0.0100'
    """
    if row["mean"] is None:
        return "-"
    said = number(row["mean"])
    named = row["spread_subsets"] is not None
    for key, over in (("spread_subsets", " (subsets)"), ("spread_seeds", " (seeds)")):
        if row[key] is not None:
            said += f" {plus_minus} {number(row[key])}{over if named else ''}"
    return said + ("*" if row["cells"] < row["planned"] else "")


def rows_of(summary: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Entries of a summary by label and metric."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in summary["rows"]:
        found.setdefault(row["label"], {})[row["metric"]] = row
    return found


def main_table(summary: Mapping[str, Any], plus_minus: str = "±") -> list[list[str]]:
    """Header and rows: each metric, and where there is one the published figure and the difference."""
    rows = rows_of(summary)
    beside = {metric for each in rows.values() for metric, row in each.items() if row["published"] is not None}
    header = [""]
    for metric in summary["metrics"]:
        header += [metric, *(["published", "difference"] if metric in beside else [])]
    table = [header]
    for name, entries in rows.items():
        line = [name]
        for metric in summary["metrics"]:
            entry = entries[metric]
            line.append(with_spreads(entry, plus_minus))
            line += [number(entry["published"]), signed(entry["difference"])] if metric in beside else []
        table.append(line)
    return table


def class_tables(summary: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """A table for each metric and kind of class: rows by class, and their mean."""
    tables: dict[str, list[list[str]]] = {}
    for metric in summary["metrics"]:
        kinds: dict[str, list[Mapping[str, Any]]] = {}
        for row in summary["rows"]:
            if row["metric"] == metric and row["by_class"]:
                kinds.setdefault(" and ".join(map(short, row["by_class"][0]["classes"])), []).append(row)
        for kind, rows in kinds.items():
            names = list(dict.fromkeys(_class_name(each["classes"]) for row in rows for each in row["by_class"]))
            lines = [["", *names, "mean"]]
            for row in rows:
                values = {_class_name(each["classes"]): number(each["mean"]) for each in row["by_class"]}
                lines.append([row["label"], *(values.get(name, "-") for name in names), number(row["mean"])])
            tables[f"{metric} by {kind}"] = lines
    return tables


def _class_name(classes: Mapping[str, Any]) -> str:
    return " ".join(map(text, classes.values()))


def markdown(summary: Mapping[str, Any]) -> str:
    """The content of ``results.md``."""
    parts = [f"# {summary['name']}", count_line(summary), markdown_table(main_table(summary))]
    parts += [line for line in (_explained(summary), _star(summary)) if line]
    if notes := notes_of(summary):
        parts.append("What the published figures are, and what differed from their settings:")
        parts.append("\n".join(f"* {note}" for note in notes))
    for title, table in class_tables(summary).items():
        parts += [f"## {title}", markdown_table(table)]
    if summary["failed"]:
        parts += ["## Failed", "\n".join(f"* `{each['name']}`: {each['error']}" for each in summary["failed"])]
    return "\n\n".join(parts) + "\n"


def count_line(summary: Mapping[str, Any]) -> str:
    """How many cells there are, and of which seeds."""
    counts = summary["cells"]
    said = [f"{counts['finished']} of {counts['planned']} cells finished"]
    said += [f"{counts[key]} {key}" for key in ("failed", "missing") if counts[key]]
    seeds = f"; seeds {', '.join(map(str, summary['seeds']))}" if summary["seeds"] else ""
    return f"{', '.join(said)}{seeds}."


def _explained(summary: Mapping[str, Any]) -> str:
    spread = any(row["spread_seeds"] is not None for row in summary["rows"])
    means = any(row["by_class"] for row in summary["rows"])
    said = (["Mean over classes, then over seeds"] if means else ["Mean over seeds"]) if spread or means else []
    if spread:
        said.append("± the standard deviation over seeds")
    return f"{', '.join(said)}." if said else ""


def _star(summary: Mapping[str, Any]) -> str:
    lacking = any(row["mean"] is not None and row["cells"] < row["planned"] for row in summary["rows"])
    return "\\* Some cells of the row have no value." if lacking else ""


def notes_of(summary: Mapping[str, Any]) -> list[str]:
    """For each row with a published figure, its source and what differed."""
    notes: dict[str, dict[str, list[str]]] = {}
    for row in summary["rows"]:
        if row["published"] is not None:
            differs = "; ".join(row["differs"]) or "no option differs"
            notes.setdefault(f"{row['label']}: {differs}", {}).setdefault(row["source"], []).append(row["metric"])
    return [
        f"{said}. Published: {'; '.join(f'{source} ({chr(44).join(metrics)})' for source, metrics in sources.items())}"
        for said, sources in notes.items()
    ]


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """Lines of a Markdown table.

    Args:
        table: Header and rows.
    """
    lines = [[cell.replace("|", "\\|") for cell in line] for line in table]
    rule = ["---"] * len(table[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def latex(summary: Mapping[str, Any]) -> str:
    """The content of ``results.tex``: tables with the rules of the package booktabs."""
    parts = [
        f"% {summary['name']}: {count_line(summary)} Needs \\usepackage{{booktabs}}.",
        latex_table(main_table(summary, "$\\pm$")),
    ]
    parts += [f"% {note}" for note in notes_of(summary)]
    for title, table in class_tables(summary).items():
        parts += [f"% {title}", latex_table(table)]
    return "\n".join(parts) + "\n"


def latex_table(table: Sequence[Sequence[str]]) -> str:
    """A tabular.

    Args:
        table: Header and rows; text in dollars is left as it is.
    """
    lines = [" & ".join(map(_latex_cell, line)) + r" \\" for line in table]
    columns = "l" + "r" * (len(table[0]) - 1)
    return "\n".join(
        [
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _latex_cell(cell: str) -> str:
    return r"$\pm$".join("".join(_LATEX.get(sign, sign) for sign in part) for part in cell.split("$\\pm$"))


SUMMARY_COLUMNS = (
    *("label", "metric", "mean", "spread_seeds", "spread_subsets", "cells", "planned", "published", "difference"),
    *("source", "differs"),
)


def summary_columns(summary: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The rows of a summary as columns, varied options in front."""
    rows = summary["rows"]
    keys = list(dict.fromkeys(key for row in rows for key in row["row"]))
    columns: dict[str, list[Any]] = {key: [_plain(row["row"].get(key)) for row in rows] for key in keys}
    for name in SUMMARY_COLUMNS:
        columns[name] = ["; ".join(row[name]) if name == "differs" else row[name] for row in rows]
    return columns


def cell_columns(cells: Sequence[Cell], records: Mapping[str, Record]) -> dict[str, list[Any]]:
    """The cells of a grid as columns: what they are, their status, seconds and metrics."""
    keys = list(dict.fromkeys(key for cell in cells for part in (cell.row, cell.classes, cell.subsets) for key in part))
    metrics = list(dict.fromkeys(name for cell in cells for name in (records.get(cell.name) or {}).get("metrics", {})))
    columns: dict[str, list[Any]] = {name: [] for name in ("name", *keys, "seed", "tested", "status", "error")}
    columns |= {f"{part}_s": [] for part in ("fit", "fit_cpu", "test", "test_cpu")} | {name: [] for name in metrics}
    for cell in cells:
        record: Mapping[str, Any] = records.get(cell.name) or {}
        named = {**cell.row, **cell.classes, **cell.subsets}
        facts = {"name": cell.name, "seed": cell.seed, "tested": cell.tested, "status": record.get("status", "missing")}
        facts |= {"error": record.get("error"), **{key: _plain(named.get(key)) for key in keys}}
        facts |= {f"{part}_s": value for part, value in (record.get("seconds") or {}).items()}
        facts |= record.get("metrics") or {}
        for name, column in columns.items():
            column.append(facts.get(name))
    return columns


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def save_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> list[Path]:
    """Write columns as CSV, and as Parquet where pyarrow is installed; columns of mixed kinds become text there.

    Args:
        path: Without suffix.
        columns: Values by name, equally many each.

    Returns:
        The files.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    csv = path.with_suffix(".csv")
    save_text(csv, csv_text(tuple(columns), zip(*columns.values(), strict=True)))
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return [csv]
    file = path.with_suffix(".parquet")
    with replacing(file) as temporary:
        parquet.write_table(pyarrow.table({name: _one_kind(values) for name, values in columns.items()}), temporary)
    return [csv, file]


def _one_kind(values: Sequence[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [float(value) if float in kinds and value is not None else value for value in values]
    return list(values) if len(kinds) <= 1 else [None if value is None else str(value) for value in values]
