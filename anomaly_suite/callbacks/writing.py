"""What callbacks that write files share: a stage goes on where a file cannot be written, and leaves no files of an earlier one."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy.typing as npt
from lightning.pytorch import Callback, LightningModule, Trainer

from anomaly_suite.callbacks.base import Stage, output_folder
from anomaly_suite.callbacks.drawing import png_of
from anomaly_suite.callbacks.loggers import picture_writer
from anomaly_suite.callbacks.processes import gather_by_loader, in_any_process, shared_by_all
from anomaly_suite.errors import FileWriteError
from anomaly_suite.io.atomic import printable, save_bytes
from anomaly_suite.io.written import WrittenFiles

log = logging.getLogger(__name__)

T = TypeVar("T")

SAID = 3  # failures said at once; a full disk refuses every file

_failures: WeakKeyDictionary[Trainer, list[str]] = WeakKeyDictionary()  # of the stage under way
_endings: WeakKeyDictionary[Trainer, dict[str, Callable[[Trainer], None]]] = (
    WeakKeyDictionary()
)  # of the test under way


class WritesFiles(Callback):
    """A callback whose files may fail without losing the stage: what :func:`going_on` noted is raised when all else is done."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the failures of a stage that was cut."""
        _failures.pop(trainer, None)
        _endings.pop(trainer, None)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what waits for the last callback, see :func:`at_end`."""
        for action in _endings.pop(trainer, {}).values():
            action(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise what failed, in every process, after Lightning has printed the values.

        Raises:
            FileWriteError: files could not be written.
        """
        failures = shared_by_all(trainer, _failures.pop(trainer, []))
        if failures:
            more = f" So it was with {len(failures) - 1} other files." if len(failures) > 1 else ""
            raise FileWriteError(failures[0] + more)


def at_end(trainer: Trainer, name: str, action: Callable[[Trainer], None]) -> None:
    """Do something once, when all callbacks have finished a test.

    Args:
        trainer: In the test.
        name: Of what is done; a later action of the name takes the place of an earlier one.
        action: Called with the trainer, in the processes that asked.
    """
    _endings.setdefault(trainer, {})[name] = action


@contextmanager
def going_on(trainer: Trainer, instead: Callable[[], str] | None = None) -> Iterator[None]:
    """Let a stage go on where a file cannot be written, for the sake of its other results; see :class:`WritesFiles`.

    Args:
        trainer: In the stage.
        instead: Gives the values that the file would have held, to be printed.
    """
    try:
        yield
    except FileWriteError as error:
        failures = _failures.setdefault(trainer, [])
        failures.append(str(error))
        if len(failures) <= SAID:
            log.error("%s", error)
        if instead is not None:
            print(printable(instead()))


def image_writers(trainer: Trainer) -> list[Any]:
    """What gives a picture to each logger of a trainer that takes some, see :func:`~anomaly_suite.callbacks.loggers.picture_writer`."""
    return [writer for logger in trainer.loggers if (writer := picture_writer(logger)) is not None]


def write_png(path: Path, picture: npt.NDArray[Any]) -> None:
    """Write a picture, blue first as cv2 has it.

    Raises:
        FileWriteError: it cannot be written.
    """
    save_bytes(path, png_of(picture))


def number_of_loaders(trainer: Trainer, stage: Stage) -> int:
    """How many loaders a stage has.

    Args:
        trainer: In the stage.
        stage: Which.
    """
    return len(getattr(trainer, f"num_{stage}_batches"))


def gather_loaders(trainer: Trainer, stage: Stage, rows: Mapping[int, list[T]]) -> list[list[T]]:
    """See :func:`~anomaly_suite.callbacks.processes.gather_rows`; a list for each loader, those without rows, too.

    Args:
        trainer: The trainer of the stage.
        stage: Whose loaders the rows come from.
        rows: Per loader, this process's rows in the order seen, one per sample.
    """
    found = gather_by_loader(trainer, stage, rows)
    return [found.get(index, []) for index in range(number_of_loaders(trainer, stage))]


def all_written(trainer: Trainer) -> bool:
    """Whether no process of the stage met a file that could not be written; all must ask."""
    return not in_any_process(trainer, bool(_failures.get(trainer)))


def files_of(trainer: Trainer, folder: Path, name: str) -> WrittenFiles:
    """The list of what a stage of this run writes; a folder outside of the run may hold files of other runs, which stay.

    Args:
        trainer: At the start of the stage; all processes must ask.
        folder: Where files are written.
        name: Of the writer and the stage.

    Raises:
        FileWriteError: the folder cannot be written to.
    """
    run = os.path.relpath(output_folder(trainer, None), folder)
    if set(Path(run).parts) - {os.pardir}:
        name += f"_{zlib.crc32(os.fsencode(run)):08x}"
    return WrittenFiles(folder, name, rank=trainer.global_rank)


def remove_former(trainer: Trainer, files: WrittenFiles) -> None:
    """Remove what an earlier stage wrote and this one did not, unless a file could not be written; all processes must ask.

    Args:
        trainer: At the end of the stage.
        files: What this process wrote.
    """
    added = shared_by_all(trainer, files.added)
    if all_written(trainer) and trainer.is_global_zero:
        with going_on(trainer):
            files.finish(added)
