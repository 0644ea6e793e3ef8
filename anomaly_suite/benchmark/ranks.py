"""Whether methods differ over data sets: mean ranks, Friedman's test and Nemenyi's critical difference (Demšar, JMLR 2006)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anomaly_suite.benchmark.cells import Cell, label
from anomaly_suite.benchmark.folder import Record

LOWER = ("FPR95", "EER", "FAR", "ECE")
"""Endings of metrics of which less is better."""
LEVEL = 0.05


class Ranks(NamedTuple):
    """Ranks of methods over blocks, such as classes of a data set.

    ``mean`` by label, best first; ``blocks`` how many; ``p_value`` of Friedman's test, NaN for two methods; ``critical`` difference of two
    mean ranks at :data:`LEVEL`.
    """

    mean: dict[str, float]
    blocks: int
    p_value: float
    critical: float


def is_lower_better(metric: str) -> bool:
    """Whether less of a metric is better."""
    return metric.endswith(LOWER)


def rank_methods(metric: str, cells: Sequence[Cell], records: Mapping[str, Record]) -> Ranks | None:
    """Rank the methods in each data set and class, the mean over seeds and subsets.

    Args:
        metric: Its name.
        cells: Of a grid.
        records: Of finished and failed cells, by name.

    Returns:
        None for fewer than two methods, or fewer than two blocks that all methods have finished.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        value = (records.get(cell.name) or {}).get("metrics", {}).get(metric)
        if cell.tested and value is not None:
            row = {key: each for key, each in cell.row.items() if key != "data"}
            block = str((cell.row.get("data"), sorted(cell.classes.items(), key=str)))
            values.setdefault(label(row, data=False), {}).setdefault(block, []).append(float(value))
    blocks = sorted(set.intersection(*(set(each) for each in values.values()))) if values else []
    if len(values) < 2 or len(blocks) < 2:
        return None
    sign = 1 if is_lower_better(metric) else -1
    table = np.array([[sign * np.mean(values[name][block]) for name in values] for block in blocks])
    return ranks_of(table, list(values))


def ranks_of(table: Any, names: Sequence[str]) -> Ranks:
    """Mean ranks of columns.

    Args:
        table: Lower is better, shape (blocks, methods).
        names: Of the methods.
    """
    from scipy import stats

    blocks, methods = table.shape
    mean = stats.rankdata(table, axis=1).mean(0)
    p_value = float(stats.friedmanchisquare(*table.T).pvalue) if methods > 2 else math.nan
    q = float(stats.studentized_range.ppf(1 - LEVEL, methods, np.inf)) / math.sqrt(2)
    order = np.argsort(mean, kind="stable")
    return Ranks(
        {names[i]: float(mean[i]) for i in order},
        blocks,
        p_value,
        q * math.sqrt(methods * (methods + 1) / (6 * blocks)),
    )


def groups(ranks: Ranks) -> list[tuple[int, int]]:
    """First and last method, in order of their ranks, of each group that does not differ and lies in no larger one."""
    mean = list(ranks.mean.values())
    spans: list[tuple[int, int]] = []
    for first, rank in enumerate(mean):
        last = max(i for i, other in enumerate(mean) if other - rank <= ranks.critical)
        if last > first and not (spans and spans[-1][1] >= last):
            spans.append((first, last))
    return spans
