"""Cells counted together: means over classes and seeds, their spreads, and the papers' figures beside them."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anomaly_suite.benchmark.cells import Cell, label, short, text
from anomaly_suite.benchmark.folder import Record

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: count for count, word in enumerate(_WORDS, 1)}
_MEAN_OF = re.compile(r"mean of (\w+) (?!seeds?\b)")


def summarise(
    name: str,
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    *,
    metrics: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        name: Of the grid.
        cells: All of it.
        records: Of finished and failed cells, by name.
        metrics: Columns; empty for those with a published figure and every AUROC.
        seeds: Of the grid.
    """
    tested = [cell for cell in cells if cell.tested]
    finished = {key: record for key, record in records.items() if record["status"] == "finished"}
    chosen = list(metrics) or default_metrics([finished[cell.name] for cell in tested if cell.name in finished])
    several = len({cell.row.get("data") for cell in tested}) > 1
    failed = [
        {"name": cell.name, "error": records[cell.name]["error"]} for cell in cells if _failed(records.get(cell.name))
    ]
    counts = {"planned": len(cells), "finished": sum(cell.name in finished for cell in cells), "failed": len(failed)}
    by_row: dict[str, list[Cell]] = {}
    for cell in tested:
        by_row.setdefault(json.dumps(cell.row, default=str), []).append(cell)
    return {
        "format": 1,
        "name": name,
        "metrics": chosen,
        "seeds": list(seeds),
        "cells": {**counts, "missing": counts["planned"] - counts["finished"] - counts["failed"]},
        "failed": failed,
        "rows": [
            {
                "row": dict(of_row[0].row),
                "label": label(of_row[0].row, data=several),
                "metric": metric,
                **entry(metric, of_row, finished),
            }
            for of_row in by_row.values()
            for metric in chosen
        ],
    }


def _failed(record: Record | None) -> bool:
    return record is not None and record["status"] == "failed"


def default_metrics(records: Iterable[Record]) -> list[str]:
    """Metrics with a published figure, and every AUROC, in the order of the tests.

    Args:
        records: Of finished cells.
    """
    names: dict[str, None] = {}
    for record in records:
        for name in record["metrics"]:
            if name in (record.get("published") or {}) or (name.endswith("AUROC") and "/" not in name):
                names[name] = None
    return list(names)


def entry(metric: str, cells: Sequence[Cell], finished: Mapping[str, Record]) -> dict[str, Any]:
    """One metric of one row.

    Args:
        metric: Its name.
        cells: Of the row.
        finished: Records by name.
    """
    there = [(cell, finished[cell.name]) for cell in cells if metric in finished.get(cell.name, {}).get("metrics", {})]
    values = [(cell, float(record["metrics"][metric])) for cell, record in there]
    mean, over_seeds, over_subsets = spreads(
        [(json.dumps(dict(cell.subsets), default=str), cell.seed, value) for cell, value in values]
    )
    figure = common_figure(metric, [record for _, record in there])
    published = None if figure is None else figure["value"]
    return {
        "mean": mean,
        "spread_seeds": over_seeds,
        "spread_subsets": over_subsets,
        "cells": len(values),
        "planned": len(cells),
        "by_class": _by_class(values),
        "published": published,
        "difference": None if published is None or mean is None else mean - published,
        "source": None if figure is None else figure["source"],
        "differs": [] if figure is None else differences(cells, [record for _, record in there], figure["source"]),
    }


def spreads(values: Sequence[tuple[str, int, float]]) -> tuple[float | None, float | None, float | None]:
    """Mean, deviation over seeds and deviation over subsets; None where there are too few values.

    Values of one subset and seed are those of its classes, and are averaged first. With several subsets, the deviation over seeds is
    that inside a subset, as the root of the mean of the variances; the other is that of the subsets' means, and has a share of the first
    in it, the less the more seeds there are.

    Args:
        values: Subset, seed and value of each cell.
    """
    if not values:
        return None, None, None
    runs: dict[str, dict[int, list[float]]] = {}
    for subset, seed, value in values:
        runs.setdefault(subset, {}).setdefault(seed, []).append(value)
    means = {subset: [statistics.fmean(each) for each in seeds.values()] for subset, seeds in runs.items()}
    of_subsets = [statistics.fmean(each) for each in means.values()]
    variances = [statistics.variance(each) for each in means.values() if len(each) > 1]
    return (
        statistics.fmean(value for each in means.values() for value in each),
        math.sqrt(statistics.fmean(variances)) if variances else None,
        statistics.stdev(of_subsets) if len(of_subsets) > 1 else None,
    )


def _by_class(values: Sequence[tuple[Cell, float]]) -> list[dict[str, Any]]:
    by_class: dict[str, list[tuple[Cell, float]]] = {}
    for cell, value in values:
        if cell.classes:
            by_class.setdefault(json.dumps(dict(cell.classes), default=str), []).append((cell, value))
    found = []
    for each in by_class.values():
        mean, over_seeds, _ = spreads(
            [(json.dumps(dict(cell.subsets), default=str), cell.seed, value) for cell, value in each]
        )
        found.append(
            {"classes": dict(each[0][0].classes), "mean": mean, "spread_seeds": over_seeds, "cells": len(each)}
        )
    return found


def common_figure(metric: str, records: Sequence[Record]) -> dict[str, Any] | None:
    """The published figure of a metric that all cells of a row have; None where there is none, or they have several.

    Args:
        metric: Its name.
        records: Of finished cells.
    """
    figures = [(record.get("published") or {}).get(metric) for record in records]
    first = figures[0] if figures else None
    return dict(first) if first is not None and all(figure == first for figure in figures) else None


def differences(cells: Sequence[Cell], records: Sequence[Record], source: str) -> list[str]:
    """What differed from the paper's setting, in words.

    Args:
        cells: Of a row.
        records: Of its finished cells.
        source: Of the figure; ``mean of ten digits`` says over how many classes it is.
    """
    found: dict[str, set[str]] = {}
    theirs: dict[str, str] = {}
    for record in records:
        for each in record.get("differs") or []:
            found.setdefault(each["option"], set()).add(text(each["here"]))
            theirs[each["option"]] = text(each["published"])
    said = [f"{option} {' or '.join(sorted(values))} instead of {theirs[option]}" for option, values in found.items()]
    classes = {json.dumps(dict(cell.classes), default=str) for cell in cells if cell.classes}
    names = " and ".join(short(option) for option in cells[0].classes)
    match = _MEAN_OF.search(source)
    expected = NUMBERS.get(match[1], int(match[1]) if match[1].isdigit() else None) if match else None
    if classes and expected != len(classes):
        of = f", the figure over {expected}" if expected else ""
        said.append(f"mean over {len(classes)} values of {names}{of}")
    elif expected and not classes and expected > 1:
        said.append(f"one class, the figure is a mean over {expected}")
    return said
