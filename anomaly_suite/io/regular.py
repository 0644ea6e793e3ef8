"""Only regular files are read: opening a pipe waits for ever, a device may have no end."""

from __future__ import annotations

import stat
from pathlib import Path

from anomaly_suite.errors import AnomalySuiteError, ImageReadError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def fault_of(path: Path) -> str | None:
    """Why a path cannot be read as a file, as the end of a sentence; None for a regular file or a link to one."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    return None if stat.S_ISREG(mode) else f"is {_KINDS.get(stat.S_IFMT(mode), 'no regular file')}"


def require_regular(path: Path, error: type[AnomalySuiteError] = ImageReadError) -> None:
    """Check that a path is a regular file, or a link to one, without opening it.

    Args:
        path: The file.
        error: Class of the error.

    Raises:
        AnomalySuiteError: of that class; says what the path is.
    """
    if (fault := fault_of(path)) is not None:
        raise error(
            f"expected a regular file at '{path}', which {fault}. Put the file there, or take it out of the data set."
        )
