"""Lists of the files that a program wrote into a folder, so that its next run can remove those that it does not replace."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from anomaly_suite.errors import FileWriteError
from anomaly_suite.io.atomic import save_text, try_folder


class WrittenFiles:
    """The files that one writer writes into a folder in one run, listed in ``<folder>/.<name>.jsonl``.

    A file is listed before it is written, so that what a run left that was cut is known, too. :meth:`finish` removes what earlier
    runs listed and this one did not; a run that does not get there removes nothing. Never removed are files in no list, files of
    another size than they were written with, and files that changed since this run began, as another process writes them.

    Args:
        folder: Output folder, which is made with the first file.
        name: Of the writer and what it writes, such as ``HeatmapExport_test``.
        rank: Number of this process; each has a list of its own until the end.

    Raises:
        FileWriteError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, name: str, *, rank: int = 0) -> None:
        self.folder = folder
        self.added: list[str] = []
        self._name = f".{name}"
        self._list = folder / f"{self._name}{f'-{rank}' if rank else ''}.jsonl"
        self._began = try_folder(folder)

    def add(self, *files: Path) -> None:
        """List files that are about to be written.

        Args:
            files: Paths below the folder.

        Raises:
            FileWriteError: the disk is full or the folder cannot be written to.
        """
        names = [file.relative_to(self.folder).as_posix() for file in files]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._list.open("a", encoding="ascii") as opened:
                opened.writelines("\n" + json.dumps([name, None]) for name in names)
        except OSError as error:
            raise FileWriteError(
                f"'{files[0]}' could not be written ({os.strerror(error.errno or 0)}, at the list '{self._list.name}'). "
                "Make room on the disk, or choose a folder that can be written to."
            ) from error
        self.added += names

    def drop(self, *files: Path) -> None:
        """Remove files of this run that are not wanted any more.

        Args:
            files: Paths below the folder that were added.
        """
        names = {file.relative_to(self.folder).as_posix() for file in files}
        self.added = [name for name in self.added if name not in names]
        for file in files:
            with suppress(OSError):
                file.unlink()

    def finish(self, added: Iterable[str]) -> None:
        """Remove what earlier runs listed and this one did not; for one process, once all have written.

        Args:
            added: What the processes of this run added.

        Raises:
            FileWriteError: the disk is full or the folder cannot be written to.
        """
        whole = self.folder / f"{self._name}.jsonl"
        lists = [*self.folder.glob(f"{self._name}-*.jsonl"), *([whole] if whole.is_file() else [])]
        kept = set(added)
        for name, size in {entry for file in lists for entry in _entries(file)}:
            if name not in kept and not self._remove(self.folder / name, size):
                kept.add(name)
        sizes = {name: _size(self.folder / name) for name in sorted(kept)}
        lines = [json.dumps([name, size]) for name, size in sizes.items() if size is not None]
        if lines:
            save_text(whole, "\n".join(lines) + "\n")
        for file in lists:
            if file != whole or not lines:
                file.unlink(missing_ok=True)

    def _remove(self, file: Path, size: int | None) -> bool:
        """Remove a file and the folders that are empty then; False where it is there and cannot be removed, or changed."""
        try:
            there = file.lstat()
            if there.st_mtime_ns >= self._began:
                return False
            if size in (None, there.st_size):
                file.unlink()
        except FileNotFoundError:
            pass
        except OSError:
            return False
        for folder in file.parents:
            if folder == self.folder or not _removed(folder):
                break
        return True


def remove_older(folder: Path, pattern: str, than: int) -> None:
    """Remove files whose names alone say who wrote them.

    Args:
        folder: Where they are; folders below are left alone.
        pattern: Regular expression for the whole name.
        than: Modification time in nanoseconds from which on a file stays, such as :func:`~anomaly_suite.io.atomic.try_folder` gives.
    """
    for file in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(pattern, file.name):
            with suppress(OSError):
                if file.lstat().st_mtime_ns < than:
                    file.unlink()


def _entries(file: Path) -> Iterator[tuple[str, int | None]]:
    """Names and sizes in a list, without lines that were cut and without names that lead out of the folder."""
    for line in file.read_text(encoding="ascii", errors="replace").splitlines():
        try:
            name, size = json.loads(line)
            path = PurePosixPath(name)
        except (ValueError, TypeError):
            continue
        if path.parts and not path.is_absolute() and os.pardir not in path.parts:
            yield name, size


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _removed(folder: Path) -> bool:
    """Whether a folder was empty and could be removed."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
