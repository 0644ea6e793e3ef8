"""Several processes, one of which dies; and who sees which GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from benchmark_parts import grid_of, record_of

from anomaly_suite.benchmark import processes
from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import GridFolder, Record
from anomaly_suite.benchmark.processes import gpu_places, run_processes, visible_gpus
from anomaly_suite.benchmark.settings import RunSettings
from anomaly_suite.errors import ConfigError

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh interpreter would import everything again."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(processes, "WAIT_S", 0.05)


def dying(cell: Cell, folder: GridFolder) -> Record:
    """Takes its process with it: in the first row always, in the second once."""
    sign = folder.of(cell) / "was here"
    if cell.seed == 1 and not (cell.row["method"] == "second" and sign.exists()):
        sign.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return record_of(0.5, pid=os.getpid())


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, methods=["first.yaml", "second.yaml"], seeds=[0, 1, 2])
    run_processes(grid.cells, grid.folder, dying, RunSettings(executor="processes", workers=2))
    folder = GridFolder(grid.folder)
    records = [folder.record(cell) or {} for cell in grid.cells]
    assert [record["status"] for record in records] == ["finished", "failed", *["finished"] * 4]
    assert "died 2 times without an error (exit status -9)" in records[1]["error"]
    assert [record["attempts"] for record in records[2:]] == [1, 1, 2, 1]
    assert os.getpid() not in {record.get("pid") for record in records}


def patient(cell: Cell, folder: GridFolder) -> Record:
    (folder.root / "pid").write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)
    return record_of(0.5)


def test_workers_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, methods=["first.yaml"])
    settings = RunSettings(executor="processes", workers=1)
    arguments = (grid.cells, grid.folder, patient, settings)
    driver = multiprocessing.get_context("fork").Process(target=run_processes, args=arguments)
    driver.start()
    file = grid.folder / "pid"
    while not (file.exists() and file.read_text(encoding="utf-8")):
        time.sleep(0.01)
    worker = int(file.read_text(encoding="utf-8"))
    assert driver.pid is not None
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    for _ in range(500):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{worker}/stat").is_file() and " Z " in Path(f"/proc/{worker}/stat").read_text(encoding="utf-8"):
            break  # ended; nobody has asked for its status
        time.sleep(0.01)
    else:
        pytest.fail("the worker is still there")


@pytest.mark.parametrize(
    ("workers", "gpus", "there", "places"),
    [
        (2, 0, ["0"], [None, None]),
        (3, 0.5, ["0", "1"], ["0", "0", "1"]),
        (3, 1 / 3, ["7"], ["7", "7", "7"]),
        (2, 1, ["0", "1"], ["0", "1"]),
        (1, 2, ["a", "b"], ["a,b"]),
    ],
)
def test_gpus_are_shared_out(workers: int, gpus: float, there: list[str], places: list[str | None]) -> None:
    assert gpu_places(RunSettings(workers=workers, gpus=gpus), there) == places


@pytest.mark.parametrize(("workers", "gpus", "there"), [(3, 0.5, ["0"]), (2, 1, ["0"]), (1, 2, ["0"]), (1, 1, [])])
def test_too_many_for_the_gpus(workers: int, gpus: float, there: list[str]) -> None:
    with pytest.raises(ConfigError, match="GPUs that are visible; they take"):
        gpu_places(RunSettings(workers=workers, gpus=gpus), there)


def test_gpus_that_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
