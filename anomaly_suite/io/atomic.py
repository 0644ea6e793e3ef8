"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
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
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        ours = error.filename in (None, str(temporary), str(path), *map(str, path.parents))
        if isinstance(error, AnomalySuiteError) or error.errno not in _REFUSED or not ours:
            raise
        raise FileWriteError(
            f"'{path}' could not be written ({os.strerror(error.errno or 0)}); an older file of that name is as it was. "
            "Make room on the disk, or choose a folder that can be written to."
        ) from error


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
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    save_text(path, text.getvalue())


def save_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write a CSV table given by columns, whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        columns: Values by name, equally many each.
    """
    save_csv(path, tuple(columns), zip(*columns.values(), strict=True))
