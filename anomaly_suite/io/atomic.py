"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import AnomalySuiteError, FileWriteError

_REFUSED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),  # the disk
    *(
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
    ),  # the place
)
_PROBE = 4096  # bytes that a disk with room takes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, through a temporary one in the same folder, which a rename cannot tear.

    Args:
        path: Final name; missing folders are made and an older file is replaced.

    Yields:
        A temporary name in the same folder with the same suffix. When the block ends the file is on the disk and becomes ``path``;
        when the block raises it is removed.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    with replacing_together(path) as (temporary,):
        yield temporary


@contextmanager
def replacing_together(first: Path, *others: Path) -> Iterator[tuple[Path, ...]]:
    """Write files that belong together: whatever cuts this, the first is never beside others that are not its own.

    All are on the disk before the first gets its name, and older ones of ``others`` are gone by then: a cut between two renames
    leaves the first alone.

    Args:
        first: Final name of the file that is of use alone; missing folders are made and an older file is replaced.
        others: Final names of the files that say something of it, in the same folder.

    Yields:
        Temporary names, see :func:`replacing`.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    paths = (first, *others)
    temporary = tuple(path.with_name(f".{uuid.uuid4().hex}{path.suffix}") for path in paths)
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            for file in temporary:
                _flush(file)
            for path in others:
                path.unlink(missing_ok=True)
            for file, path in zip(temporary, paths, strict=True):
                os.replace(file, path)
        finally:
            for file in temporary:
                file.unlink(missing_ok=True)
    except OSError as error:
        ours = error.filename in (None, *map(str, (*temporary, *paths, *first.parents)))
        if isinstance(error, AnomalySuiteError) or error.errno not in _REFUSED or not ours:
            raise
        raise FileWriteError(
            f"'{first}' could not be written ({os.strerror(error.errno or 0)}); an older file of that name is as it was. "
            "Make room on the disk, or choose a folder that can be written to."
        ) from error


def try_folder(folder: Path) -> int:
    """Try whether files can be written in a folder, before there is something to lose. Nothing is left there.

    Args:
        folder: It, or the folders above it, may be missing.

    Returns:
        The time of the file system, in nanoseconds, as modification times of files have it.

    Raises:
        FileWriteError: the disk is full, the folder cannot be written to, or a file is in its place.
    """
    try:
        there = folder
        while not _exists(there):
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError as error:
        raise FileWriteError(
            f"results are to be written to '{folder}', which cannot be written to ({os.strerror(error.errno or 0)}). "
            "Make room on the disk, or choose a folder that can be written to."
        ) from error


def try_file(path: Path) -> int:
    """Try whether a file can be written, see :func:`try_folder`.

    Args:
        path: Final name.

    Returns:
        The time of the file system, in nanoseconds.

    Raises:
        FileWriteError: the disk is full, its folder cannot be written to, or a folder is in its place.
    """
    now = try_folder(path.parent)
    if path.is_dir():
        raise FileWriteError(
            f"results are to be written to the file '{path}', which is a folder. Rename one of the two."
        )
    return now


def _exists(path: Path) -> bool:
    """Also of a link that leads nowhere; other errors than that there is nothing are raised."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _flush(file: Path) -> None:
    """Wait until a file is on the disk: some disks say only then that they are full."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def check_size(file: Path, size: int) -> None:
    """Check that a file has as many bytes as were written to it.

    Args:
        file: The file.
        size: Bytes written.

    Raises:
        OSError: it has another number, as after a full disk that nobody noticed.
    """
    there = file.stat().st_size
    if there != size:
        raise OSError(errno.ENOSPC, f"{there} of {size} bytes were written")


def save_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes, whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        content: What the file will hold.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    with replacing(path) as file:
        fill(file, content)


def fill(file: Path, content: bytes | memoryview) -> None:
    """Write bytes into a temporary file of :func:`replacing`.

    Args:
        file: The temporary name.
        content: What the file will hold.

    Raises:
        OSError: the disk did not take them all.
    """
    with file.open("wb") as opened:
        opened.write(content)
    check_size(file, len(content))


def save_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        text: What the file will hold.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    save_bytes(path, text.encode())


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a NumPy array, whole or not at all; ``numpy.save`` to a file does not notice a last flush that fails.

    Args:
        path: Final name, ending in ``.npy``; missing folders are made and an older file is replaced.
        array: Any shape and type but Python objects.

    Raises:
        FileWriteError: the disk is full or the folder cannot be written to.
    """
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    save_bytes(path, content.getbuffer())


def save_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file, whole or not at all; the last line ends.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        content: Mappings, lists and plain values; any other object, such as a path, is written as its text.
        indent: Spaces per level; None writes one line.
    """
    save_text(path, json.dumps(content, indent=indent, default=str) + "\n")


def save_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV table, whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        header: Names of the columns.
        rows: One value per column; None leaves the field empty.
    """
    save_text(path, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV table as a text; for odd bytes in the names of files, see :func:`printable`.

    Args:
        header: Names of the columns.
        rows: One value per column; None leaves the field empty.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return printable(text.getvalue())


def printable(text: str) -> str:
    r"""The text in Unicode; of a file name that is none, the odd bytes as escapes.

    Example:
        >>> printable(os.fsdecode(b"caf\xe9.png"))
        'caf\\udce9.png'
    """
    return text.encode(errors="backslashreplace").decode()


def save_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a CSV table given by columns, whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        columns: Values by name, equally many each.
    """
    save_csv(path, tuple(columns), zip(*columns.values(), strict=True))
