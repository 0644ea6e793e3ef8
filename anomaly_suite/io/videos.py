"""Videos on disk: files, or folders of frames in the order of the numbers in their names. Axes: H and W pixels."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import DatasetError, ImageReadError
from anomaly_suite.io.folders import is_junk, leads_back, same_name
from anomaly_suite.io.image_headers import is_deep
from anomaly_suite.io.images import IMAGE_SUFFIXES, read_image
from anomaly_suite.io.naming import natural_key
from anomaly_suite.io.regular import require_regular

Pixels = npt.NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".webm", ".flv", ".ts")
FOLDER_FPS = 25.0  # a folder of frames does not say how fast they follow each other


def is_frame(name: str) -> bool:
    """Whether a file's name is that of an image that may be a frame."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_junk(name)


def walk_videos(root: Path) -> Iterator[Path]:
    """Video files, and folders of frames, in a folder and below.

    Images beside video files are no frames: they are thumbnails or the like.

    Args:
        root: The folder; or one file, which is taken for a video with any suffix.

    Yields:
        Paths that begin with ``root``, in no particular order; ``root`` itself where it is a file or holds frames.
    """
    if root.is_file():
        yield root
    for where, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not is_junk(name) and not leads_back(os.path.join(where, name))]
        files = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES) and not is_junk(name)]
        if files:
            yield from (Path(where, name) for name in files)
        elif any(map(is_frame, names)):
            yield Path(where)


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder, in the order of the numbers in their names.

    Raises:
        DatasetError: two images have the same name or number but for the suffix, so that one of them is no frame.
    """
    files = sorted((folder / name for name in os.listdir(folder) if is_frame(name)), key=_by_number)
    for file, following in itertools.pairwise(files):
        if natural_key(same_name(file.stem)) == natural_key(same_name(following.stem)):
            raise DatasetError(
                f"'{folder}' holds '{file.name}' and '{following.name}', so frames cannot be told from other images. "
                "Keep one image per frame."
            )
    return files


def deep_frames(path: Path) -> list[Path]:
    """The frames of a folder whose first one has more than 8 bits; none otherwise, or where they cannot be read."""
    try:
        files = frame_files(path) if path.is_dir() else []
        return files if files and is_deep(files[0]) else []
    except (DatasetError, ImageReadError):
        return []  # whoever opens it is told


def open_video(path: Path, *, bit_depth: int = 16) -> tuple[int, Iterator[Pixels]]:
    """How many frames a video announces, and its frames one by one.

    Args:
        path: A video file or a folder of images.
        bit_depth: Bits that frames of more than 8 bits use; see :func:`~anomaly_suite.io.images.read_image`.

    Returns:
        The number, 0 or less if unknown, and RGB images of shape (H, W, 3).

    Raises:
        DatasetError: it cannot be read; also raised by the iterator.
    """
    if path.is_dir():
        files = frame_files(path)
        return len(files), map(partial(_read_frame, bit_depth=bit_depth), files)
    require_regular(path, DatasetError)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise DatasetError(f"'{path}' ({path.stat().st_size} bytes) cannot be opened as a video. Fetch the file again.")
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), _decode(capture)


class FrameReader:
    """Frames of one video at a time, in order; those between two that are asked for are decoded and dropped."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._next = 0
        self._frames: Iterator[Pixels] = iter(())

    def read(self, path: Path, number: int) -> Pixels:
        """One frame, RGB (H, W, 3).

        Raises:
            DatasetError: the video cannot be opened, or ends before.
        """
        if path != self._path or number < self._next:
            self._path, self._next = path, 0
            _, self._frames = open_video(path)
        for frame in self._frames:
            self._next += 1
            if self._next > number:
                return frame
        self._path = None
        raise DatasetError(
            f"'{path}' ends after {self._next} frames, and frame {number} was announced: the file is cut. Fetch it again."
        )


def videos_in(folder: Path) -> Iterator[Path]:
    """Video files in a folder and below, in no particular order; folders of frames are none here."""
    return (path for path in walk_videos(folder) if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())


def count_frames(path: Path) -> int:
    """Frames of a video file, at least 1: as many as it announces, or counted where it does not say.

    Raises:
        DatasetError: it cannot be opened, or holds no frame.
    """
    announced, frames = open_video(path)
    count = announced if announced > 0 else sum(1 for _ in frames)
    if not count:
        raise DatasetError(f"'{path}' ({path.stat().st_size} bytes) holds no frame. Fetch the file again.")
    return count


def frame_rate(path: Path) -> float:
    """Frames per second of a video file; 25 for a folder, or where the file does not say."""
    if path.is_dir():
        return FOLDER_FPS
    capture = cv2.VideoCapture(str(path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return float(rate) if 1 <= rate <= 1000 else FOLDER_FPS


def _by_number(file: Path) -> list[tuple[str, int]]:
    return natural_key(file.name)


def _decode(capture: cv2.VideoCapture) -> Iterator[Pixels]:
    try:
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _read_frame(file: Path, *, bit_depth: int) -> Pixels:
    try:
        return read_image(file, bit_depth=bit_depth)
    except OSError as error:  # ImageReadError among them
        raise DatasetError(str(error)) from error
