"""Lists of videos, which are matched by name, never by position in a list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import find_root, same_name
from anomaly_suite.io.rows import read_text

_FILE = re.compile(r"(?P<name>.+?)(?:_i3d|_c3d)?(?:__?(?P<crop>\d))?(?:\.(?:npy|mp4|avi|mat))?")


def split_name(path: str) -> tuple[str, str]:
    r"""Name of a video and number of a crop from a file or a line of a list, a path of any operating system.

    Example:
        >>> split_name(r"G:\UCF_Test_ten_crop_i3d\Abuse028_x264_i3d.npy"), split_name("features/a__#1_label_A__4.npy")
        (('Abuse028_x264', ''), ('a__#1_label_A', '4'))

    Raises:
        DatasetError: the path ends in a slash or is empty.
    """
    found = _FILE.fullmatch(re.split(r"[/\\]", path)[-1])
    if found is None:
        raise DatasetError(f"'{path}' names no video. Give one name or path per line.")
    return found["name"], found["crop"] or ""


def read_lines(file: Path, *, dataset: str, obtain: str) -> list[str]:
    """Lines of a text file that are not blank, stripped.

    Raises:
        DatasetNotFoundError: there is no such file; says how to obtain it.
        DatasetError: it has no lines, or is in an encoding that cannot be told.
    """
    if not file.is_file():
        raise DatasetNotFoundError(f"{dataset} expects '{file}', which does not exist. {obtain}")
    lines = [same_name(line.strip()) for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"'{file}' is empty. {obtain}")
    return lines


def read_list(file: Path, *, dataset: str, obtain: str) -> list[str]:
    """Names of the videos in a list, in its order; a video may have one line for each crop.

    Raises:
        DatasetNotFoundError: there is no such file; says how to obtain it.
        DatasetError: a line is repeated, or there is none.
    """
    entries = [split_name(line) for line in read_lines(file, dataset=dataset, obtain=obtain)]
    if len(set(entries)) < len(entries):
        twice = next(entry for row, entry in enumerate(entries) if entry in entries[:row])
        lines = enumerate(read_text(file).splitlines(), 1)
        numbers = [number for number, line in lines if line.strip() and split_name(same_name(line.strip())) == twice]
        raise DatasetError(
            f"'{file}' lists video {twice[0]!r} twice, in lines {numbers[0]} and {numbers[1]}. "
            "List every video once, or once for each crop."
        )
    return list(dict.fromkeys(name for name, _ in entries))


def choose_names(
    root: Path, listed: str | None, otherwise: list[str], *, source: str, dataset: str, obtain: str
) -> tuple[list[str], str]:
    """Names of the videos of a part.

    Args:
        root: Folder of the data set.
        listed: File of the list, relative to ``root``; None takes ``otherwise``.
        otherwise: Names where there is no list.
        source: Where those come from, for messages.
        dataset: Name for messages.
        obtain: How to get the list, for messages.

    Returns:
        The names, and where they come from.

    Raises:
        DatasetNotFoundError: there is no such list.
        DatasetError: a line of it is repeated.
    """
    if listed is None:
        return otherwise, source
    return read_list(root / listed, dataset=dataset, obtain=obtain), f"'{root / listed}'"


def find_folders(root: Path, folders: Sequence[str], *, dataset: str, obtain: str) -> None:
    """Check that a folder is the root of a data set: that it holds one of the folders of its parts.

    Args:
        root: What the user gave.
        folders: Folders of the parts, relative to ``root``.
        dataset: Name for messages.
        obtain: How to get the data, for messages.

    Raises:
        DatasetNotFoundError: see :func:`~anomaly_suite.io.folders.find_root`.
    """
    find_root(
        root,
        dataset=dataset,
        is_root=lambda folder: any((folder / name).is_dir() for name in folders),
        layout=f"the folders {', '.join(folders[:-1])} and {folders[-1]}",
        obtain=obtain,
    )
