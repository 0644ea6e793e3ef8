"""A local Ray cluster of two, one worker of which is killed; skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmark_parts import grid_of, record_of

from anomaly_suite.benchmark import ray_cluster
from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import GridFolder, Record
from anomaly_suite.benchmark.ray_cluster import run_ray
from anomaly_suite.benchmark.settings import RunSettings
from anomaly_suite.errors import ConfigError


def dying(cell: Cell, folder: GridFolder) -> Record:
    """Takes its worker with it: in the first row always, in the second once."""
    sign = folder.of(cell) / "was here"
    if cell.seed == 1 and not (cell.row["method"] == "second" and sign.exists()):
        sign.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return record_of(0.5, pid=os.getpid(), threads=os.environ["OMP_NUM_THREADS"])


@pytest.mark.slow
def test_a_worker_is_killed_and_the_grid_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for module in (dying, record_of):  # which workers do not find
        ray.cloudpickle.register_pickle_by_value(sys.modules[module.__module__])
    grid = grid_of(tmp_path, methods=["first.yaml", "second.yaml"], seeds=[0, 1, 2])
    looks: list[int] = []
    settings = RunSettings(executor="ray", workers=2)
    with monkeypatch.context() as patch:  # one cluster for both
        patch.setattr(ray, "shutdown", lambda: None)
        run_ray(grid.cells, grid.folder, dying, settings, told=lambda: looks.append(1))
    with pytest.raises(ConfigError, match="gpus=1000 on one machine; the cluster has 2 processors, 0 GPUs"):
        run_ray(grid.cells, grid.folder, dying, RunSettings(executor="ray", gpus=1000))
    ray.shutdown()
    folder = GridFolder(grid.folder)
    records = [folder.record(cell) or {} for cell in grid.cells]
    assert [record["status"] for record in records] == ["finished", "failed", *["finished"] * 4]
    assert "died 2 times without an error" in records[1]["error"]
    assert [record["attempts"] for record in records[2:]] == [1, 1, 2, 1]
    assert os.getpid() not in {record.get("pid") for record in records}
    assert {record.get("threads") for record in records[2:]} == {"1"}
    assert looks


@pytest.mark.parametrize(
    ("settings", "environment", "address"),
    [
        (RunSettings(executor="ray", workers=3, cpus=2), "", "local"),
        (RunSettings(executor="ray"), "ray:1", "ray:1"),
        (RunSettings(executor="ray", address="auto"), "ray:1", "auto"),
    ],
)
def test_which_cluster_is_used(
    settings: RunSettings, environment: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", environment)
    tries: list[dict[str, object]] = []

    def init(**options: object) -> None:
        tries.append(options)
        raise Exception("too\nslow")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init, shutdown=lambda: None)
    with pytest.raises(ConfigError, match=r"must be that of a Ray cluster; .* gave: too slow"):
        ray_cluster._connect(ray, settings)
    assert len(tries) == (ray_cluster.STARTS if address == "local" else 1)
    assert tries[0]["address"] == address
    assert tries[0].get("num_cpus") == (6 if address == "local" else None)


class TaskError(Exception):
    """What a task raises."""


def test_what_a_worker_raises_is_no_death(tmp_path: Path) -> None:
    grid, submitted = grid_of(tmp_path, methods=["first.yaml"]), []

    def get(reference: object) -> None:
        raise TaskError("ray::_task() (pid=1)\nModuleNotFoundError: No module named 'mine'\n")

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=Exception)
    ray = SimpleNamespace(wait=lambda references, timeout: (references, []), get=get, exceptions=exceptions)
    ray_cluster._submit_all(
        ray, grid.cells, grid.folder, lambda cell: submitted.append(cell) or cell.name, lambda: None
    )
    assert submitted == list(grid.cells)  # once
    record = GridFolder(grid.folder).record(grid.cells[0]) or {}
    assert record["status"] == "failed"
    assert record["error"].startswith(
        "a worker could not begin this cell: ModuleNotFoundError: No module named 'mine'. Give all"
    )


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'anomaly-suite\[ray\]'"):
        ray_cluster.run_ray([], tmp_path, dying, RunSettings(executor="ray"))
