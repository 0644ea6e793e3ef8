"""The cells of a grid on a Ray cluster, a task each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.driver import WAIT_S, Work, attempt, sentence
from anomaly_suite.benchmark.folder import GridFolder
from anomaly_suite.benchmark.processes import DEATHS, died, use_threads
from anomaly_suite.benchmark.settings import RunSettings
from anomaly_suite.errors import ConfigError

STARTS = 3
"""How often a cluster is started here; Ray gives it 30 seconds, which a busy machine may not keep."""


def run_ray(
    cells: Sequence[Cell], root: Path, work: Work, settings: RunSettings, *, told: Callable[[], None] = lambda: None
) -> None:
    """Run every cell that is not done as a task of Ray; one whose worker dies is given to another.

    The folder must be one that all machines of the cluster see under its name. Data sets, too.

    Args:
        cells: Of a grid, or of a shard of it.
        root: Folder of the grid.
        work: Runs one; a function of a module, so that other processes find it.
        settings: Address of the cluster, processors and GPUs of a cell.
        told: Called now and then.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or it can never take a cell.
    """
    ray = _ray()
    threads = settings.threads or max(1, int(settings.cpus))
    began = _connect(ray, settings)
    try:
        _require_room(ray, settings)
        task = ray.remote(num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=0)(_task)
        _submit_all(
            ray, cells, root.resolve(), lambda cell: task.remote(cell, root.resolve(), work, threads, os.getcwd()), told
        )
    finally:
        if began:
            ray.shutdown()


def _submit_all(
    ray: Any, cells: Sequence[Cell], root: Path, submit: Callable[[Cell], Any], told: Callable[[], None]
) -> None:
    folder = GridFolder(root)
    under_way: dict[Any, Cell] = {}
    deaths: dict[str, int] = {}
    while remaining := [cell for cell in cells if not folder.is_done(cell)]:
        busy = {cell.name for cell in under_way.values()}
        for cell in remaining:
            if cell.name not in busy and all(
                folder.has_finished(name) or folder.has_failed(name) for name in cell.before
            ):
                under_way[submit(cell)] = cell
        done, _ = ray.wait(list(under_way), timeout=WAIT_S) if under_way else ([], [])
        for reference in done:
            cell = under_way.pop(reference)
            try:
                if not ray.get(reference):
                    time.sleep(WAIT_S)  # another driver is at it
            except ray.exceptions.RayTaskError as error:  # the worker lives, and another one would raise it, too
                reason = str(error).strip().splitlines()[-1].strip().rstrip(".")[:300]
                advice = "Give all machines of the cluster the same packages and PYTHONPATH."
                _fail(folder, cell, f"a worker could not begin this cell: {reason}. {advice}")
            except ray.exceptions.RayError as error:
                deaths[cell.name] = deaths.get(cell.name, 0) + 1
                if deaths[cell.name] >= DEATHS:
                    _fail(folder, cell, died(sentence(error)[:200]))
        told()


def _fail(folder: GridFolder, cell: Cell, why: str) -> None:
    """Write that a cell failed, unless another driver is at it."""
    with folder.taking(cell) as held:
        if held:
            folder.fail(cell, why)


def _task(cell: Cell, root: Path, work: Work, threads: int, place: str) -> bool:
    """Run a cell in a worker of Ray, in the folder of the driver where there is one."""
    if os.path.isdir(place):
        os.chdir(place)
    use_threads(threads)
    return attempt(cell, GridFolder(root), work)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(
            "run.executor ray needs the package ray, which is not installed. Run: pip install 'anomaly-suite[ray]'"
        ) from error
    return ray


def _connect(ray: Any, settings: RunSettings) -> bool:
    """Connect to a cluster, or start one here.

    Returns:
        Whether it is ours to leave: the program had not connected before.
    """
    if ray.is_initialized():
        return False
    address = settings.address or os.environ.get("RAY_ADDRESS", "")  # the latter is set in jobs of a cluster
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if not address:  # "local": not one that was started here before
        processors = max(1, int(settings.workers * settings.cpus))
        options |= {"address": "local", "num_cpus": processors, "include_dashboard": False}
    for start in range(1 if address else STARTS):
        try:
            ray.init(**options)
            return True
        except Exception as error:  # Ray raises anything, also Exception itself
            ray.shutdown()
            if address or start + 1 == STARTS:
                raise ConfigError(
                    f"run.address must be that of a Ray cluster; {address or 'a cluster on this machine'} gave: "
                    f"{' '.join(str(error).split())[:200]}. Start one with ray start --head, set RAY_AUTH_MODE=token for one with tokens, or leave address out."
                ) from error
    return True


def _require_room(ray: Any, settings: RunSettings) -> None:
    """Refuse cells that no machine of the cluster can ever take; Ray would wait for one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= settings.cpus and node.get("GPU", 0) >= settings.gpus for node in nodes):
        told = "; ".join(f"{node.get('CPU', 0):g} processors, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise ConfigError(
            f"a cell needs cpus={settings.cpus:g} and gpus={settings.gpus:g} on one machine; the cluster has {told}. Lower run.cpus or run.gpus."
        )
