"""New pictures as people give them: files, folders, patterns, videos and lists. No labels, no data set."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.folders import image_files, on_disk
from anomaly_suite.io.images import IMAGE_SUFFIXES
from anomaly_suite.io.rows import read_rows
from anomaly_suite.io.videos import VIDEO_SUFFIXES, count_frames, videos_in

Pixels = npt.NDArray[np.uint8]
OnError = Literal["raise", "skip"]
"""What happens at a picture that cannot be read: ``raise`` stops, ``skip`` leaves it out and says so."""

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl")


class Picture(NamedTuple):
    """A picture, or a frame of a video, numbered from 0."""

    path: Path
    frame: int | None = None

    @property
    def name(self) -> str:
        """What results call it: ``folder/a.png``, or ``folder/clip.mp4/000012``."""
        return str(self.path) if self.frame is None else f"{self.path}/{self.frame:06d}"


def check_on_error(given: str) -> None:
    """Refuse another word than those of :data:`OnError`.

    Raises:
        ConfigError: it is another one.
    """
    if given not in get_args(OnError):
        raise ConfigError(f"on_error must be raise or skip; got {given!r}. skip leaves out what cannot be read.")


def find_pictures(inputs: Sequence[str]) -> list[Picture]:
    """Every picture and every frame that some inputs stand for, once.

    Args:
        inputs: Each a picture; a video, for all its frames; a folder, for all pictures and videos in it and below, sorted; a pattern
            such as ``new/**/*.png``; or a list, a CSV file or JSON lines with a column ``path``, relative to where the list lies.

    Raises:
        DatasetNotFoundError: there is no such thing, or no picture in it.
        DatasetError: a file of another kind, or a list that cannot be read.
    """
    paths = dict.fromkeys(path for word in inputs for path in _paths(word))
    return [picture for path in paths for picture in _pictures(path)]


def require_there(word: str) -> None:
    """Refuse a path that does not exist; a pattern is left to those who look for its matches.

    Args:
        word: A path or a pattern.

    Raises:
        DatasetNotFoundError: there is no such path.
    """
    if not on_disk(Path(word).expanduser()).exists() and not glob.has_magic(word):
        raise DatasetNotFoundError(
            f"predict expects a picture, a folder, a pattern, a video or a list; '{word}' does not exist. Check the path."
        )


def common_folder(pictures: Sequence[Picture]) -> Path:
    """The innermost folder that all pictures lie in.

    Args:
        pictures: At least one.
    """
    return Path(os.path.commonpath([os.path.abspath(picture.path.parent) for picture in pictures]))


def with_channels(pixels: Pixels, channels: Literal[1, 3]) -> Pixels:
    """Grey pixels as RGB, or RGB as grey, weighted as in files that are read so.

    Args:
        pixels: Shape (H, W, 1) or (H, W, 3).
        channels: Wanted.
    """
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    grey: Pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    return grey


def _paths(word: str) -> Iterator[Path]:
    path = on_disk(Path(word).expanduser())
    if path.is_dir():
        found = sorted([*image_files(path), *videos_in(path)], key=lambda each: each.as_posix())
        if not found:
            raise DatasetNotFoundError(f"predict expects pictures or videos in '{path}'; it holds none. {_KNOWN}")
        yield from found
    elif path.exists():
        yield from _listed(path) if path.suffix.lower() in LIST_SUFFIXES else [_known(path)]
    elif glob.has_magic(word):
        matches = [Path(match) for match in sorted(glob.glob(os.path.expanduser(word), recursive=True))]
        files = [match for match in matches if match.is_file() and _is_known(match)]
        if not files:
            raise DatasetNotFoundError(
                f"predict expects pictures or videos that match '{word}'; there is none. {_KNOWN}"
            )
        yield from files
    else:
        require_there(word)


_KNOWN = f"Pictures end in {', '.join(sorted(IMAGE_SUFFIXES))}, videos in {', '.join(VIDEO_SUFFIXES)}."


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def _known(path: Path) -> Path:
    if not _is_known(path):
        raise DatasetError(
            f"'{path}' is of a kind that is not read. {_KNOWN} A list ends in {', '.join(LIST_SUFFIXES)} and has a column path."
        )
    return path


def _listed(file: Path) -> Iterator[Path]:
    for row in read_rows(file, ("path",)):
        yield _known(on_disk(file.parent / Path(row.values["path"]).expanduser()))


def _pictures(path: Path) -> Iterator[Picture]:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        yield Picture(path)
        return
    for frame in range(count_frames(path)):
        yield Picture(path, frame)
