"""Which videos are extracted, and what their features are called."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import on_disk
from anomaly_suite.io.naming import natural_key
from anomaly_suite.io.pictures import LIST_SUFFIXES, require_there
from anomaly_suite.io.rows import read_rows
from anomaly_suite.io.videos import VIDEO_SUFFIXES, is_frame, walk_videos

TAKEN = (*VIDEO_SUFFIXES, ".npy")


def find_videos(
    root: Path, *, include: Sequence[str] = ("*",), exclude: Sequence[str] = (), flat: bool = False
) -> dict[str, Path]:
    """Video files and folders of frames in a folder and below.

    Args:
        root: The folder, or one video.
        include: Shell patterns, one of which must match: a video's path below ``root`` without suffix, its last part, or
            the name of its file.
        exclude: The same, none of which may match.
        flat: Name a video by the last part alone.

    Returns:
        File or folder by name, in numeric order of the names.

    Raises:
        DatasetNotFoundError: there is none.
        ConfigError: two videos would have the same name.
        DatasetError: ``root`` is an image.
    """
    if root.is_file() and is_frame(root.name):
        raise DatasetError(
            f"input must be a video file or a folder; got the image '{root}'. Give the folder that holds its frames."
        )
    found = [(_name(path, root), path) for path in walk_videos(root)]
    videos: dict[str, Path] = {}
    for path_name, path in sorted(found, key=lambda item: natural_key(item[0])):
        last = path_name.rpartition("/")[2]
        included, excluded = (
            any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in (path_name, last, path.name))
            for patterns in (include, exclude)
        )
        if excluded or not included:
            continue
        name = last if flat else path_name
        if name in videos:
            raise ConfigError(
                f"'{videos[name]}' and '{path}' would both be written to {name}.npy. "
                f"{'Set flat to false' if flat else 'Rename one'}, or leave one out with exclude."
            )
        videos[name] = path
    if not videos:
        state = "does not exist" if not root.exists() else "holds none"
        if found:
            state = f"holds {len(found)}, all of which include={list(include)} and exclude={list(exclude)} leave out"
        raise DatasetNotFoundError(
            f"expected video files ({', '.join(sorted(VIDEO_SUFFIXES))}) or folders of frames in '{root}', which {state}. "
            "Correct the path or the patterns."
        )
    return videos


def new_videos(inputs: Sequence[str]) -> list[Path]:
    """Every video, or file of snippet features, that some inputs stand for, once.

    Args:
        inputs: Each a video; a file of features (``.npy``); a folder, for all videos in it and below, or where there are none, for all
            files of features; a folder of frames; a pattern; or a list with a column ``path``, relative to where the list lies.

    Raises:
        DatasetNotFoundError: there is no such thing, or nothing in it.
        DatasetError: a file of another kind, or a list that cannot be read.
    """
    return list(dict.fromkeys(path for word in inputs for path in _new_videos(word)))


def _new_videos(word: str) -> list[Path]:
    path = on_disk(Path(word).expanduser())
    if path.is_dir():
        found = sorted(walk_videos(path)) or sorted(path.rglob("*.npy"))
    elif path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        found = [
            _one_video(on_disk(path.parent / Path(row.values["path"]).expanduser()))
            for row in read_rows(path, ("path",))
        ]
    elif path.exists():
        return [_one_video(path)]
    elif glob.has_magic(word):
        matches = map(Path, sorted(glob.glob(os.path.expanduser(word), recursive=True)))
        found = [match for match in matches if match.suffix.lower() in TAKEN and match.is_file()]
    else:
        require_there(word)
        found = []
    if not found:
        raise DatasetNotFoundError(
            f"predict expects videos in '{word}', as the run's method takes them; there is none. Videos end in "
            f"{', '.join(VIDEO_SUFFIXES)}, snippet features in .npy; folders of frames are videos, too."
        )
    return found


def _one_video(path: Path) -> Path:
    """The path.

    Raises:
        DatasetError: the file is no video.
    """
    if path.is_file() and path.suffix.lower() not in TAKEN:
        raise DatasetError(
            f"'{path}' is no video, and the run's method takes snippet features of videos. Give a video ({', '.join(VIDEO_SUFFIXES)}), a "
            "folder of its frames, or features (.npy)."
        )
    return path


def read_shard(shard: str) -> tuple[int, int]:
    """Number and count of a shard such as ``2/4``.

    Raises:
        ConfigError: it is no such pair, or the number is not among the count.

    Example:
        >>> read_shard("2/4")
        (2, 4)
    """
    number, _, shards = shard.partition("/")
    if not (number.isdecimal() and shards.isdecimal() and 1 <= int(number) <= int(shards)):
        raise ConfigError(f"shard must be a number and a count such as 1/4, 2/4, 3/4 or 4/4; got {shard!r}.")
    return int(number), int(shards)


def _name(path: Path, root: Path) -> str:
    if path == root:
        return root.stem if root.is_file() else root.resolve().name
    below = path.relative_to(root)
    return (below if path.is_dir() else below.with_suffix("")).as_posix()
