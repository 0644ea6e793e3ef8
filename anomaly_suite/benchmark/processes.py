"""The cells of a grid in several processes of this machine, each a driver; one that dies is replaced."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.driver import WAIT_S, Work, default_threads, drive
from anomaly_suite.benchmark.folder import GridFolder
from anomaly_suite.benchmark.settings import RunSettings
from anomaly_suite.errors import ConfigError

DEATHS = 2
"""How many processes a cell may take with it before it counts as failed."""


def run_processes(
    cells: Sequence[Cell], root: Path, work: Work, settings: RunSettings, *, told: Callable[[], None] = lambda: None
) -> None:
    """Run every cell that is not done, several at once.

    Args:
        cells: Of a grid, or of a shard of it.
        root: Folder of the grid.
        work: Runs one; a function of a module, so that other processes find it.
        settings: How many, with which share of GPUs and processors.
        told: Called now and then.

    Raises:
        ConfigError: more workers than the GPUs can take.
    """
    places = gpu_places(settings, visible_gpus() if settings.gpus else [])
    threads = settings.threads or default_threads(settings.workers)
    folder = GridFolder(root)
    deaths: dict[str, int] = {}
    context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU

    def start(place: str | None) -> BaseProcess:
        """A new worker, on a GPU or none."""
        process = context.Process(target=_worker, args=(cells, root, work, place, threads))
        process.start()  # no daemon: loaders of data are its children
        return process

    running = {place: start(gpus) for place, gpus in enumerate(places)}
    try:
        while not all(folder.is_done(cell) for cell in cells):
            time.sleep(WAIT_S)
            for place, process in running.items():
                if process.is_alive() or process.exitcode == 0:
                    continue
                _bury(process, cells, folder, deaths)
                running[place] = start(places[place])
            told()
            if not any(process.is_alive() for process in running.values()):
                break  # all ended well: another driver has the rest
    finally:
        for process in running.values():
            process.join(timeout=WAIT_S)
            process.terminate()
            process.join()


def _bury(process: BaseProcess, cells: Sequence[Cell], folder: GridFolder, deaths: dict[str, int]) -> None:
    """Note of which cell a process died, and let the cell fail that takes one after another with it."""
    for cell in cells:
        if folder.is_done(cell) or folder.begun(cell).get("pid") != process.pid:
            continue
        deaths[cell.name] = deaths.get(cell.name, 0) + 1
        if deaths[cell.name] >= DEATHS:
            with folder.taking(cell) as held:
                if held:
                    folder.fail(cell, died(f"exit status {process.exitcode}"))


def died(how: str) -> str:
    """The sentence of a cell whose processes died.

    Args:
        how: In which way.
    """
    return (
        f"the process of this cell died {DEATHS} times without an error ({how}): out of memory, or killed. "
        "Give it smaller batches or fewer neighbours (run.workers), then --retry-failed."
    )


def _worker(cells: Sequence[Cell], root: Path, work: Work, gpus: str | None, threads: int) -> None:
    """Be one driver, as long as the process that started this one lives."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    use_threads(threads)
    with suppress(KeyboardInterrupt):
        drive(cells, root, work)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def use_threads(threads: int) -> None:
    """Let this process compute with so many threads.

    Args:
        threads: From 1 on.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def gpu_places(settings: RunSettings, gpus: Sequence[str]) -> list[str | None]:
    """Which GPUs each worker sees; None leaves them as they are.

    Args:
        settings: With the number of workers and the GPUs of a cell.
        gpus: Those of this machine.

    Raises:
        ConfigError: there are too few.

    Example:
        >>> gpu_places(RunSettings(workers=4, gpus=0.5), ["0", "1"])
        ['0', '0', '1', '1']
    """
    if not settings.gpus:
        return [None] * settings.workers
    if settings.gpus < 1:
        each = int(1 / settings.gpus + 1e-9)
        places = [gpu for gpu in gpus for _ in range(each)]
    else:
        many = int(settings.gpus)
        places = [",".join(gpus[first : first + many]) for first in range(0, len(gpus) - many + 1, many)]
    if len(places) < settings.workers:
        raise ConfigError(
            f"run.workers={settings.workers} with run.gpus={settings.gpus:g} need more than the {len(gpus)} GPUs that are visible; "
            f"they take {len(places)} workers. Lower one of the two."
        )
    return list(places[: settings.workers])


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
