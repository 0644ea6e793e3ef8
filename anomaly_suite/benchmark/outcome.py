"""What a grid leaves beside its cells: the summary, tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomaly_suite.benchmark.folder import GridFolder
from anomaly_suite.benchmark.grid import Grid
from anomaly_suite.benchmark.plots import plot_bars, plot_ranks
from anomaly_suite.benchmark.ranks import rank_methods
from anomaly_suite.benchmark.summary import summarise
from anomaly_suite.benchmark.tables import cell_columns, latex, markdown, save_table, summary_columns
from anomaly_suite.io.atomic import save_json, save_text


def write_outcome(grid: Grid, root: Path) -> dict[str, Any]:
    """Write all tables and plots of what is there.

    Args:
        grid: What was to be run.
        root: Its folder.

    Returns:
        The content of ``summary.json``.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    folder = GridFolder(root)
    records = {cell.name: record for cell in grid.cells if (record := folder.record(cell)) is not None}
    summary = summarise(grid.name, grid.cells, records, metrics=grid.metrics, seeds=grid.seeds)
    save_json(root / "summary.json", summary)
    save_text(root / "results.md", markdown(summary))
    save_text(root / "results.tex", latex(summary))
    save_table(root / "cells", cell_columns(grid.cells, records))
    save_table(root / "summary", summary_columns(summary))
    for metric in summary["metrics"]:
        rows = [row for row in summary["rows"] if row["metric"] == metric and row["mean"] is not None]
        name = metric.replace("/", "_")
        if rows:
            plot_bars(root / "plots" / f"bars_{name}.png", metric, rows)
        ranks = rank_methods(metric, grid.cells, records)
        if ranks is not None:
            plot_ranks(root / "plots" / f"ranks_{name}.png", metric, ranks)
    return summary
