"""One driver: the cells of a grid one after another, each by whoever is first to take it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import LOG, GridFolder, Record
from anomaly_suite.errors import AnomalySuiteError

Work = Callable[[Cell, GridFolder], Record]
"""Runs a cell: ``metrics`` and what else goes into its record."""

WAIT_S = 0.5
"""Between two looks at cells that others are at."""


def drive(cells: Sequence[Cell], root: Path, work: Work, *, told: Callable[[], None] = lambda: None) -> None:
    """Run every cell that is not done; those that another driver is at are waited for, and taken over if it dies.

    Args:
        cells: Of a grid, or of a shard of it; those that hand over first.
        root: Folder of the grid.
        work: Runs one.
        told: Called after every look at the cells.
    """
    folder = GridFolder(root)
    while remaining := [cell for cell in cells if not folder.is_done(cell)]:
        moved = False
        for cell in remaining:
            moved = attempt(cell, folder, work, told) or moved
        if not moved:
            time.sleep(WAIT_S)
        told()


def attempt(cell: Cell, folder: GridFolder, work: Work, told: Callable[[], None] = lambda: None) -> bool:
    """Run a cell, unless it is done, waits for another, or somebody is at it.

    Args:
        cell: Of a grid.
        folder: Of the grid.
        work: Runs it.
        told: Called before and after.

    Returns:
        Whether it has a record now that it had not before.
    """
    if folder.is_done(cell):
        return False
    failed = [name for name in cell.before if folder.has_failed(name)]
    if not failed and not all(folder.has_finished(name) for name in cell.before):
        return False
    with folder.taking(cell) as held:
        if not held:
            return False
        told()
        if failed:
            folder.fail(
                cell, f"a stage before this one failed: {failed[0]}. Look at its record; --retry-failed runs both."
            )
        else:
            run_isolated(cell, folder, work)
    told()
    return True


def run_isolated(cell: Cell, folder: GridFolder, work: Work) -> None:
    """Run a cell that is held; an error is written into its record and goes no further, an interruption leaves none."""
    try:
        record = work(cell, folder)
    except Exception as error:
        with (folder.of(cell) / LOG).open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
        folder.fail(cell, sentence(error))
        return
    folder.finish(cell, {"status": "finished", "error": None, **record})


def sentence(error: BaseException) -> str:
    """An error in one line, with its class."""
    said = " ".join(str(error).split()) or "no message"
    if isinstance(error, AnomalySuiteError):
        return f"{type(error).__name__}: {said}"
    return f"{type(error).__name__}: {said[:500]} (log.txt of the cell has the traceback)"


def share(cells: Sequence[Cell], part: int, parts: int) -> list[Cell]:
    """One of equal shares of the cells, with all that they wait for.

    Args:
        cells: Of a grid.
        part: From 1 to ``parts``.
        parts: How many shares.
    """
    rows = [cell for cell in cells if cell.tested][part - 1 :: parts]
    wanted = {cell.name for cell in rows} | {name for cell in rows for name in cell.before}
    return [cell for cell in cells if cell.name in wanted]


def default_threads(workers: int) -> int:
    """Numeric threads of one of so many processes on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
