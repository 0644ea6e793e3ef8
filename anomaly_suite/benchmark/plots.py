"""Plots of a grid: bars with the papers' figures, and mean ranks with the critical difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomaly_suite.benchmark.ranks import LEVEL, Ranks, groups
from anomaly_suite.io.atomic import replacing


def plot_bars(path: Path, metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A bar for each row, its deviation over seeds, and a mark where the published figure is.

    Args:
        path: Of the picture.
        metric: Its name.
        rows: Entries of a summary of this metric.
    """
    shown = [row for row in rows if row["mean"] is not None]
    figure, axes = _figure(height=1.2 + 0.34 * len(shown))
    places = list(range(len(shown)))
    axes.barh(places, [row["mean"] for row in shown], color="#4477aa", height=0.6, label="ours")
    spread = [row["spread_seeds"] or 0 for row in shown]
    if any(spread):
        axes.errorbar([row["mean"] for row in shown], places, xerr=spread, fmt="none", ecolor="black", capsize=3)
    published = [
        (row["published"], place) for place, row in zip(places, shown, strict=True) if row["published"] is not None
    ]
    if published:
        axes.plot(*zip(*published, strict=True), "D", color="#ee6677", markeredgecolor="black", label="published")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    for place, row in zip(places, shown, strict=True):
        axes.text(0.01, place, f"{row['mean']:.3f}", color="white", va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(places, [row["label"] for row in shown])
    axes.invert_yaxis()
    values = [row["mean"] - deviation for row, deviation in zip(shown, spread, strict=True)]
    values += [value for value, _ in published]
    axes.set_xlim(left=_left_end(values))
    axes.set_xlabel(metric)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _left_end(values: Sequence[float]) -> float:
    """Zero, but a half for values above it, as areas under curves have, with some room."""
    lowest = min(values, default=0.0)
    return 0.5 if lowest >= 0.52 and max(values) <= 1 else min(0.0, lowest)


def plot_ranks(path: Path, metric: str, ranks: Ranks) -> None:
    """Mean ranks on a line, and a bar over methods that do not differ (Demšar, JMLR 2006, figure 1).

    Args:
        path: Of the picture.
        metric: Its name.
        ranks: Of the methods.
    """
    names, mean = list(ranks.mean), list(ranks.mean.values())
    spans = groups(ranks)
    half = (len(names) + 1) // 2
    figure, axes = _figure(height=1.5 + 0.3 * half + 0.12 * len(spans))
    low, high = 1, max(2, len(names))
    axes.hlines(0, low, high, color="black")
    for rank in range(low, high + 1):
        axes.vlines(rank, 0, 0.2, color="black")
        axes.text(rank, 0.3, str(rank), ha="center")
    for position, (name, place) in enumerate(zip(names, mean, strict=True)):
        left = position < half
        level = -0.9 - 0.18 * len(spans) - 0.5 * (position if left else len(names) - 1 - position)
        end = low - 0.02 * (high - low) if left else high + 0.02 * (high - low)
        axes.plot([place, place, end], [0, level, level], color="gray", linewidth=0.8)
        axes.text(
            end,
            level,
            f"{name} ({place:.2f}) " if left else f" {name} ({place:.2f})",
            ha="right" if left else "left",
            va="center",
        )
    for number, (first, last) in enumerate(spans):
        axes.hlines(-0.25 - 0.18 * number, mean[first] - 0.02, mean[last] + 0.02, linewidth=4, color="#4477aa")
    axes.hlines(1.1, low, low + ranks.critical, color="black", linewidth=2)
    tested = "" if math.isnan(ranks.p_value) else f"; Friedman p = {ranks.p_value:.2g}"
    axes.text(low, 1.25, f"critical difference {ranks.critical:.2f} at {LEVEL}, {ranks.blocks} blocks{tested}")
    axes.set_title(f"mean rank by {metric}, 1 is best", loc="left", pad=14)
    axes.set_axis_off()
    _save(figure, path)


def _figure(*, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=120)
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight")
