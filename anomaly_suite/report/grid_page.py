"""The page of a benchmark grid: its tables with the papers' figures beside ours, a plot in them, and every cell."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.report.html import Html, element, facts, joined, page, section, table

GRID, SUMMARY, CELLS = "grid.json", "summary.json", "cells.csv"
LOWER_IS_BETTER = ("FPR95", "EER", "FAR", "ECE", "MCE")


def is_grid(folder: Path) -> bool:
    """Whether a folder is that of a benchmark grid."""
    return (folder / GRID).is_file()


def grid_page(folder: Path) -> str:
    """The report of a grid as one HTML file.

    Args:
        folder: Of the grid, as docs/benchmark.md describes it.

    Raises:
        DatasetNotFoundError: no driver has ended there, so there are no tables.
        DatasetError: its tables cannot be read.
    """
    file = folder / SUMMARY
    if not file.is_file():
        raise DatasetNotFoundError(
            f"expected '{file}', which a benchmark writes when it ends; it is not there. Run anomaly-suite benchmark on this folder again."
        )
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        rows = summary["rows"]
        metrics = list(dict.fromkeys(row["metric"] for row in rows))
        parts = [
            _head(summary, rows),
            *(_metric(folder, metric, [row for row in rows if row["metric"] == metric]) for metric in metrics),
            section("differs", "What the published figures are, and what differed", *_differences(rows)),
            section("failed", "Failed cells", *_failed(summary["failed"])),
            section("cells", "Cells", *_cells(folder)),
            section("origin", "Where this comes from", *_origin(folder, summary)),
        ]
        return page(f"{summary['name']}, benchmark", parts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"'{file}' must be what a benchmark writes; it cannot be read ({error!r}). Run anomaly-suite benchmark on this folder again."
        ) from error


def _head(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Html:
    cells, seeds = summary["cells"], summary["seeds"]
    words = f"{cells['finished']} of {cells['planned']} cells finished · seeds {', '.join(map(str, seeds))}"
    lacking = [f"{cells[name]} {name}" for name in ("failed", "missing") if cells.get(name)]
    sentence = f"{' and '.join(lacking)}: means are over the cells that are there." if lacking else ""
    return element(
        "header",
        joined(
            [
                element("h1", summary["name"]),
                element("p", words, class_="sub"),
                element("p", sentence, class_="warning") if sentence else "",
                element("p", "No cell is finished, so there is no figure yet.", class_="missing") if not rows else "",
            ]
        ),
    )


# Figures -----------------------------------------------------------------------------------------------------------------


def _metric(folder: Path, metric: str, rows: Sequence[Mapping[str, Any]]) -> Html:
    """Table and plot of one metric, in all and by class."""
    known = [value for row in rows for value in (row["mean"], row.get("published")) if value is not None]
    low, high = _span(known)
    theirs = any(row.get("published") is not None for row in rows)
    header = ["", f"{low:.3g} to {high:.3g}", "mean", *(["published", "difference"] if theirs else []), "cells"]
    body = []
    for row in rows:
        beside = [row.get("published"), _signed(row.get("difference"))] if theirs else []
        body.append(
            [row["label"], _track(row, low, high), _spread(row), *beside, f"{row['cells']} of {row['planned']}"]
        )
    note = "Mean over classes, then over seeds; ± standard deviation over seeds, or over subsets of labelled anomalies."
    note += " Circle: ours, with its spread; diamond: published." if theirs else " Circle: the mean, with its spread."
    note += " Lower is better." if metric.rpartition("_")[2] in LOWER_IS_BETTER else ""
    return section(
        f"metric-{metric}",
        metric,
        element("p", note, class_="small"),
        table(header, body, class_="results"),
        *_by_class(metric, rows),
        *_ranks(folder, metric),
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis of a plot, with room beside the outermost values."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.08 or 0.05
    return (max(0.0, low - room), min(1.0, high + room)) if low >= 0 and high <= 1 else (low - room, high + room)


def _track(row: Mapping[str, Any], low: float, high: float) -> Html:
    """Ours and the paper's figure on a line."""
    mean, theirs = row["mean"], row.get("published")
    spread = row.get("spread_seeds") or row.get("spread_subsets") or 0.0

    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    marks = []
    if mean is not None and spread:
        left, right = at(mean - spread), at(mean + spread)
        marks.append(element("i", class_="whisker", style=f"left:{left:.2f}%;width:{right - left:.2f}%"))
    if theirs is not None:
        marks.append(element("i", class_="theirs", style=f"left:{at(theirs):.2f}%"))
    if mean is not None:
        marks.append(element("i", class_="ours", style=f"left:{at(mean):.2f}%"))
    words = "no figure" if mean is None else f"{mean:.4f}"
    words += "" if theirs is None else f", published {theirs:.4f}"
    return element("div", joined(marks), class_="track", role="img", aria_label=words)


def _spread(row: Mapping[str, Any]) -> str | None:
    if row["mean"] is None:
        return "none"
    words = f"{row['mean']:.4f}"
    for name, unit in (("spread_seeds", ""), ("spread_subsets", " over subsets")):
        if row.get(name) is not None:
            words += f" ± {row[name]:.4f}{unit}"
    return words


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.4f}"


def _by_class(metric: str, rows: Sequence[Mapping[str, Any]]) -> Iterable[Html]:
    columns = list(dict.fromkeys(_class_name(part["classes"]) for row in rows for part in row.get("by_class", ())))
    if len(columns) < 2:
        return
    body = []
    for row in rows:
        found = {_class_name(part["classes"]): part["mean"] for part in row.get("by_class", ())}
        body.append([row["label"], *(found.get(name) for name in columns)])
    names = {option.rpartition(".")[2] for row in rows for part in row["by_class"] for option in part["classes"]}
    yield table(["", *columns], body, f"{metric} by {', '.join(sorted(names))}")


def _class_name(classes: Mapping[str, Any]) -> str:
    return ", ".join(map(str, classes.values()))


def _ranks(folder: Path, metric: str) -> Iterable[Html]:
    """The picture of ranks, where the grid has one."""
    file = folder / "plots" / f"ranks_{metric}.png"
    if file.is_file():
        content = base64.b64encode(file.read_bytes()).decode()
        image = f'<img class="drawn" alt="ranks of the rows by {metric}" src="data:image/png;base64,{content}">'
        yield element("figure", joined([Html(image), element("figcaption", "Mean ranks over the classes.")]))


def _differences(rows: Sequence[Mapping[str, Any]]) -> Iterable[Html]:
    seen: dict[str, list[str]] = {}
    for row in rows:
        lines = seen.setdefault(row["label"], [])
        if row.get("source") and (line := f"published {row['metric']}: {row['source']}") not in lines:
            lines.append(line)
        lines += [line for line in row.get("differs") or () if line not in lines]
    for label, lines in seen.items():
        if lines:
            yield element("h3", label)
            yield element("ul", joined(element("li", line) for line in lines), class_="small")


# Cells -------------------------------------------------------------------------------------------------------------------


def _failed(failed: Sequence[Mapping[str, Any]]) -> Iterable[Html]:
    if failed:
        yield table(["cell", "why"], ([cell["name"], cell["error"]] for cell in failed))


def _cells(folder: Path) -> Iterable[Html]:
    """Every cell, folded."""
    file = folder / CELLS
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as opened:
        header, *rows = list(csv.reader(opened)) or [[]]
    if rows:
        summary = element(
            "summary", f"{len(rows)} cells; each has a run folder, cells/NAME/run, with a report of its own"
        )
        yield element("details", joined([summary, table(header, ([_number(cell) for cell in row] for row in rows))]))


def _number(text: str) -> str | float:
    """Numbers with a point are figures or seconds; others are counts and names."""
    try:
        return float(text) if "." in text else text
    except ValueError:
        return text


def _origin(folder: Path, summary: Mapping[str, Any]) -> Iterable[Html]:
    written = datetime.fromtimestamp((folder / SUMMARY).stat().st_mtime, timezone.utc)
    yield facts({"grid": summary["name"], "folder": folder, "tables written": f"{written:%Y-%m-%d %H:%M} UTC"})
    content = (folder / GRID).read_text(encoding="utf-8")
    yield element("details", joined([element("summary", GRID), element("pre", content, tabindex="0")]))
