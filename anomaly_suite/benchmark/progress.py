"""What is told while a grid runs: a bar in a terminal, a line for each finished cell, and an estimate of the rest."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anomaly_suite.benchmark.cells import Cell, label, short, text
from anomaly_suite.benchmark.folder import GridFolder, Record


def rest_s(cells: Sequence[Cell], records: Sequence[Record], workers: int) -> float | None:
    """Seconds that the cells without a record will take, by those of their row, else by all; None before the first.

    Args:
        cells: Without a record.
        records: Of finished cells.
        workers: Cells at once.
    """
    by_row: dict[str, list[float]] = {}
    for record in records:
        if record.get("seconds"):
            took = record["seconds"].get("fit", 0.0) + record["seconds"].get("test", 0.0)
            by_row.setdefault(str(record["row"]), []).append(took)
    if not by_row:
        return None
    overall = statistics.fmean(took for each in by_row.values() for took in each)
    expected = [statistics.fmean(by_row.get(str(dict(cell.row)), [overall])) for cell in cells]
    return sum(expected) / min(workers, max(1, len(cells)))


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(42), duration(150), duration(7300)
        ('42 s', '2 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def describe(cell: Cell, *, data: bool = True) -> str:
    """A cell in words.

    Args:
        cell: Of a grid.
        data: Whether to name the data.
    """
    axes = {**cell.classes, **cell.subsets, "seed": cell.seed}
    return ", ".join([label(cell.row, data=data), *(f"{short(key)} {text(value)}" for key, value in axes.items())])


class Progress:
    """Tells each cell once that gets a record.

    Args:
        cells: That are run.
        folder: Of the grid.
        workers: Cells at once.
        metrics: The first that a cell has is told.
        show: Prints a line.
    """

    def __init__(
        self, cells: Sequence[Cell], folder: GridFolder, workers: int, metrics: Sequence[str], show: Any
    ) -> None:
        self.cells = cells
        self._folder, self._workers, self._metrics, self._show = folder, workers, metrics, show
        self._told = {cell.name for cell in cells if folder.is_done(cell)}
        self._finished: list[Record] = []
        self.status = ""

    @property
    def done(self) -> int:
        """How many cells have a record."""
        return len(self._told)

    def look(self) -> None:
        """Tell what is new."""
        for cell in self.cells:
            if cell.name not in self._told and self._folder.is_done(cell):
                self._told.add(cell.name)
                self._tell(cell)

    def _tell(self, cell: Cell) -> None:
        record = self._folder.record(cell) or {}
        if record.get("status") == "failed":
            found = f"failed: {record['error']}"
        else:
            self._finished.append(record)
            seconds = record.get("seconds") or {}
            found = f"{duration(seconds.get('fit', 0.0) + seconds.get('test', 0.0))}"
            values = record.get("metrics") or {}
            name = next((name for name in (*self._metrics, *values) if name in values), None)
            found = f"{name} {values[name]:.4f}, {found}" if name else found
        remaining = [each for each in self.cells if each.name not in self._told]
        rest = rest_s(remaining, self._finished, self._workers) if remaining else None
        self.status = f"about {duration(rest)} left" if rest is not None else ""
        after = f"; {self.status}" if self.status else ""
        self._show(f"[{self.done}/{len(self.cells)}] {describe(cell)}: {found}{after}")


@contextmanager
def showing(cells: Sequence[Cell], folder: GridFolder, workers: int, metrics: Sequence[str]) -> Iterator[Any]:
    """Show progress on what stderr is now; the cells may send their own output elsewhere.

    Args:
        cells: That are run.
        folder: Of the grid.
        workers: Cells at once.
        metrics: Of the tables.

    Yields:
        A function to call now and then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        console = Console(file=stream, markup=False, highlight=False, soft_wrap=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Bar(
            *columns, console=console, disable=not stream.isatty(), redirect_stdout=False, redirect_stderr=False
        ) as bar:
            progress = Progress(cells, folder, workers, metrics, lambda line: console.print(line))
            task = bar.add_task("", total=len(cells), completed=progress.done)

            def look() -> None:
                progress.look()
                bar.update(task, completed=progress.done, description=progress.status)

            yield look
