"""Cells are run once each, whoever runs them and however a driver ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from benchmark_parts import grid_of, record_of

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.driver import attempt, drive, share
from anomaly_suite.benchmark.folder import LOG, GridFolder, Record, read_plan
from anomaly_suite.benchmark.grid import Grid
from anomaly_suite.benchmark.progress import Progress, duration, rest_s, showing
from anomaly_suite.errors import ConfigError, DatasetNotFoundError


def small(tmp_path: Path, **content: Any) -> Grid:
    return grid_of(tmp_path, **{"methods": ["first.yaml", "second.yaml"], "seeds": [0, 1, 2], **content})


class Counting:
    """Notes every cell that it is given."""

    def __init__(self, *, wait_s: float = 0.0) -> None:
        self.given: list[str] = []
        self._wait_s = wait_s

    def __call__(self, cell: Cell, folder: GridFolder) -> Record:
        self.given.append(cell.name)
        time.sleep(self._wait_s)
        return record_of(0.5 + cell.seed / 10)


def test_a_finished_cell_is_not_run_again(tmp_path: Path) -> None:
    grid, work = small(tmp_path), Counting()
    drive(grid.cells[:4], grid.folder, work)
    drive(grid.cells, grid.folder, work)
    assert work.given == [cell.name for cell in grid.cells]
    record = GridFolder(grid.folder).record(grid.cells[1])
    assert record is not None
    assert (record["status"], record["seed"], record["metrics"]) == ("finished", 1, {"image_AUROC": 0.6})
    assert (record["row"], record["attempts"]) == ({"method": "first"}, 1)


def test_two_drivers_share_a_folder(tmp_path: Path) -> None:
    grid, works = small(tmp_path), (Counting(wait_s=0.02), Counting(wait_s=0.02))
    drivers = [threading.Thread(target=drive, args=(grid.cells, grid.folder, work)) for work in works]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sorted(works[0].given + works[1].given) == sorted(cell.name for cell in grid.cells)
    assert all(work.given for work in works)


def test_a_failing_cell_fails_alone(tmp_path: Path) -> None:
    grid = small(tmp_path, methods=[{"name": "chain", "stages": ["encoder.yaml", "first.yaml"]}, "second.yaml"])
    folder = GridFolder(grid.folder)
    broken = True

    def work(cell: Cell, folder: GridFolder) -> Record:
        if broken and not cell.tested and cell.seed == 1:
            raise ConfigError("an option\nmust be other.")
        if broken and cell.row["method"] == "second" and cell.seed == 2:
            raise KeyError("x")
        return record_of(0.5)

    drive(grid.cells, grid.folder, work)
    errors = {cell.name: (folder.record(cell) or {})["error"] for cell in grid.cells}
    failed = [(cell.row["method"], cell.seed) for cell in grid.cells if errors[cell.name]]
    assert failed == [("encoder", 1), ("chain", 1), ("second", 2)]
    said = [error for error in errors.values() if error]
    assert said[0] == "ConfigError: an option must be other."
    assert said[1].startswith("a stage before this one failed: encoder_seed_1-")
    assert said[2] == "KeyError: 'x' (log.txt of the cell has the traceback)"
    assert "Traceback" in (folder.of(grid.cells[-1]) / LOG).read_text(encoding="utf-8")

    broken, again = False, Counting()
    drive(grid.cells, grid.folder, again)
    assert again.given == []  # only when it is asked for
    assert folder.retry_failed(grid.cells) == 3
    drive(grid.cells, grid.folder, work)
    assert not any(folder.has_failed(cell.name) for cell in grid.cells)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_no_record(tmp_path: Path, kind: type[BaseException]) -> None:
    grid = small(tmp_path)

    def stop(cell: Cell, folder: GridFolder) -> Record:
        raise kind

    with pytest.raises(kind):
        drive(grid.cells, grid.folder, stop)
    assert GridFolder(grid.folder).record(grid.cells[0]) is None
    work = Counting()
    drive(grid.cells, grid.folder, work)
    assert len(work.given) == 6


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_killed_driver_leaves_its_cell_to_the_next(tmp_path: Path) -> None:
    grid = small(tmp_path)
    sign = tmp_path / "begun"

    def hang(cell: Cell, folder: GridFolder) -> Record:
        if cell.seed == 1:
            sign.touch()
            time.sleep(60)
        return record_of(0.5)

    driver = multiprocessing.get_context("fork").Process(target=drive, args=(grid.cells, grid.folder, hang))
    driver.start()
    while not sign.exists():
        time.sleep(0.01)
    folder = GridFolder(grid.folder)
    with folder.taking(grid.cells[1]) as held:
        assert not held  # the other process is at it
    assert driver.pid is not None
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    work = Counting()
    drive(grid.cells, grid.folder, work)
    assert work.given == [cell.name for cell in grid.cells[1:]]
    assert [(folder.record(cell) or {})["attempts"] for cell in grid.cells[:3]] == [1, 2, 1]


def test_a_record_that_was_damaged_is_none(tmp_path: Path) -> None:
    grid = small(tmp_path)
    folder, cell = GridFolder(grid.folder), grid.cells[0]
    assert attempt(cell, folder, Counting())
    for content in ("{", "[]", '{"name": "another"}'):
        (folder.of(cell) / "record.json").write_text(content, encoding="utf-8")
        assert folder.record(cell) is None
    assert attempt(cell, folder, Counting())


def test_a_test_is_added_and_a_checkpoint_is_missed(tmp_path: Path) -> None:
    stage = small(tmp_path, methods=[{"name": "chain", "stages": ["encoder.yaml", "first.yaml"]}], seeds=[0])
    work, folder = Counting(), GridFolder(stage.folder)
    drive(stage.cells, stage.folder, work)
    alone = small(tmp_path, methods=["encoder.yaml"], seeds=[0])
    assert alone.cells[0].name == stage.cells[0].name
    drive(alone.cells, alone.folder, work)
    assert work.given.count(alone.cells[0].name) == 2  # now with its test
    assert folder.is_done(stage.cells[0])
    folder.finish(alone.cells[0], {"status": "finished", "error": None, "kept": False, **record_of(0.5)})
    assert folder.is_done(alone.cells[0])
    assert not folder.is_done(stage.cells[0])  # its run cannot be handed over


def test_shares_have_all_rows_once_and_their_stages(tmp_path: Path) -> None:
    grid = small(tmp_path, methods=[{"name": "chain", "stages": ["encoder.yaml", "first.yaml"]}, "second.yaml"])
    parts = [share(grid.cells, part, 4) for part in (1, 2, 3, 4)]
    rows = [cell.name for part in parts for cell in part if cell.tested]
    assert sorted(rows) == sorted(cell.name for cell in grid.cells if cell.tested)
    for part in parts:
        names = {cell.name for cell in part}
        assert all(set(cell.before) <= names for cell in part)


def test_the_plan_is_read_back(tmp_path: Path) -> None:
    grid = small(tmp_path)
    GridFolder(grid.folder).begin(grid)
    plan = read_plan(grid.folder)
    assert [cell["name"] for cell in plan["cells"]] == [cell.name for cell in grid.cells]
    with pytest.raises(DatasetNotFoundError, match="expected the folder of a grid"):
        read_plan(tmp_path)


def test_the_rest_is_estimated_by_row(tmp_path: Path) -> None:
    cells = small(tmp_path).cells
    slow = {"row": dict(cells[0].row), "seconds": {"fit": 9.0, "test": 1.0}}
    quick = {"row": dict(cells[3].row), "seconds": {"fit": 1.0, "test": 1.0}}
    assert rest_s(cells, [], 1) is None
    assert rest_s(cells[:3], [slow, quick], 1) == pytest.approx(30)
    assert rest_s(cells, [slow], 1) == pytest.approx(60)  # nothing is known of the second row
    assert rest_s(cells, [slow, quick], 2) == pytest.approx((30 + 6) / 2)
    assert duration(3599) == "1 h 0 min"


def test_each_cell_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grid, lines = small(tmp_path, seeds=[0]), list[str]()
    folder = GridFolder(grid.folder)
    progress = Progress(grid.cells, folder, 1, ("image_AUROC",), lines.append)
    attempt(grid.cells[0], folder, Counting(), progress.look)
    progress.look()
    folder.fail(grid.cells[1], "ConfigError: no.")
    progress.look()
    assert lines == [
        "[1/2] first, seed 0: image_AUROC 0.5000, 3 s; about 3 s left",
        "[2/2] second, seed 0: failed: ConfigError: no.",
    ]
    with showing(grid.cells, folder, 1, ()) as told:
        folder.retry_failed(grid.cells)
        told()
    assert capfd.readouterr().err == ""  # nothing is new
