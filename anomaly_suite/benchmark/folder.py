"""The folder of a grid: which cells are finished, which have failed, and who is at one of them now."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.grid import Grid
from anomaly_suite.errors import DatasetNotFoundError
from anomaly_suite.io.atomic import save_json, try_folder

Record = dict[str, Any]

PLAN, RECORD, BEGUN, FITTED, LOG, RUN = "grid.json", "record.json", "begun.json", "fitted.json", "log.txt", "run"


class GridFolder:
    """Cells and records of one grid.

    A record is written once, whole. A cell without one was not run or was cut, and is run again. Whoever runs a cell holds
    the lock of a file, which the system lets go of when its process ends, however it ends.

    Args:
        root: The folder, which is made when it is first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, cell: Cell | str) -> Path:
        """The folder of a cell."""
        return self.root / "cells" / (cell if isinstance(cell, str) else cell.name)

    def run_of(self, cell: Cell | str) -> Path:
        """The run folder of a cell."""
        return self.of(cell) / RUN

    def begin(self, grid: Grid) -> None:
        """Write what is to be run.

        Raises:
            FileWriteError: the folder cannot be written to.
        """
        try_folder(self.root)
        save_json(self.root / PLAN, grid.to_dict())

    def record(self, cell: Cell | str) -> Record | None:
        """What a finished or failed cell left; None for one that was not run, was cut, or left a damaged file."""
        name = cell if isinstance(cell, str) else cell.name
        try:
            record = json.loads((self.of(name) / RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("name") == name else None

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell has failed, or has finished with all that is asked of it."""
        record = self.record(cell)
        if record is None or record["status"] == "failed":
            return record is not None
        return bool((record["tested"] or not cell.tested) and (record["kept"] or not cell.hands_over))

    def has_finished(self, name: str) -> bool:
        """Whether a cell has finished, so that others can take over its run."""
        record = self.record(name)
        return record is not None and record["status"] == "finished"

    def has_failed(self, name: str) -> bool:
        """Whether a cell has failed."""
        record = self.record(name)
        return record is not None and record["status"] == "failed"

    def finish(self, cell: Cell, record: Record) -> None:
        """Write the record of a cell, by whoever holds it.

        Raises:
            FileWriteError: the folder cannot be written to.
        """
        begun = self.begun(cell)
        facts = {
            "format": 1,
            "name": cell.name,
            "row": dict(cell.row),
            "classes": dict(cell.classes),
            "subsets": dict(cell.subsets),
            "seed": cell.seed,
            "tested": cell.tested,
            "kept": True,
            "before": list(cell.before),
            "run": RUN,
            "attempts": begun.get("attempts", 1),
            "host": begun.get("host"),
            "started": begun.get("started"),
            "ended": now(),
        }
        save_json(self.of(cell) / RECORD, {**facts, **record})

    def fail(self, cell: Cell, error: str) -> None:
        """Write that a cell has failed, with its sentence."""
        self.finish(cell, {"status": "failed", "error": " ".join(error.split())})

    def begun(self, cell: Cell) -> Record:
        """Who began a cell last, and how often it was begun; nothing for one that was not."""
        try:
            found = json.loads((self.of(cell) / BEGUN).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextmanager
    def taking(self, cell: Cell) -> Iterator[bool]:
        """Hold a cell, if nobody else does and it is not done.

        Yields:
            Whether it is held.
        """
        folder = self.of(cell)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            if self.is_done(cell):  # since it was looked at
                yield False
                return
            attempts = self.begun(cell).get("attempts", 0) + 1
            who = {"attempts": attempts, "host": platform.node(), "pid": os.getpid(), "started": now()}
            save_json(folder / BEGUN, who)
            yield True
        finally:
            lock.release()

    def retry_failed(self, cells: Sequence[Cell]) -> int:
        """Forget that cells have failed.

        Returns:
            How many.
        """
        failed = [cell for cell in cells if self.has_failed(cell.name)]
        for cell in failed:
            for name in (RECORD, BEGUN):
                (self.of(cell) / name).unlink(missing_ok=True)
        return len(failed)

    def clear_run(self, cell: Cell) -> None:
        """Remove what a cut attempt left."""
        shutil.rmtree(self.run_of(cell), ignore_errors=True)


def read_plan(root: Path) -> dict[str, Any]:
    """What is to be run in a grid's folder.

    Raises:
        DatasetNotFoundError: it is no folder of a grid.
    """
    try:
        plan = json.loads((root / PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise DatasetNotFoundError(
            f"expected the folder of a grid, with {PLAN}; there is none in '{root}'. Give the folder that benchmark wrote."
        ) from error
    return dict(plan)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
