"""Lists of videos, folders of feature files, and frame truth from masks or annotated events.

Videos are matched by name, never by position in a list. Axes: C crops, T snippets, D feature width.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anomaly_suite.data.files import is_junk
from anomaly_suite.data.videos.features import Video, open_array, snippet_slack
from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.snippets import SNIPPET_FRAMES, snippet_count

log = logging.getLogger(__name__)

_FILE = re.compile(r"(?P<name>.+?)(?:_i3d|_c3d)?(?:__?(?P<crop>\d))?(?:\.(?:npy|mp4|avi|mat))?")


def split_name(path: str) -> tuple[str, str]:
    r"""Name of a video and number of a crop from a file or a line of a list, a path of any operating system.

    Example:
        >>> split_name(r"G:\UCF_Test_ten_crop_i3d\Abuse028_x264_i3d.npy"), split_name("features/a__#1_label_A__4.npy")
        (('Abuse028_x264', ''), ('a__#1_label_A', '4'))
    """
    found = _FILE.fullmatch(re.split(r"[/\\]", path)[-1])
    if found is None:
        raise DatasetError(f"'{path}' names no video. Give one name or path a line.")
    return found["name"], found["crop"] or ""


def read_lines(file: Path, *, dataset: str, obtain: str) -> list[str]:
    """Lines of a text file that are not blank, stripped.

    Raises:
        DatasetNotFoundError: there is no such file; says how to obtain it.
        DatasetError: it has no lines.
    """
    if not file.is_file():
        raise DatasetNotFoundError(f"{dataset} expects '{file}', which does not exist. {obtain}")
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"'{file}' is empty. {obtain}")
    return lines


def read_list(file: Path, *, dataset: str, obtain: str) -> list[str]:
    """Names of the videos in a list, in its order; a video may have one line for each crop.

    Raises:
        DatasetNotFoundError: there is no such file; says how to obtain it.
        DatasetError: a line is repeated.
    """
    entries = [split_name(line) for line in read_lines(file, dataset=dataset, obtain=obtain)]
    if len(set(entries)) < len(entries):
        name = next(name for row, (name, crop) in enumerate(entries) if (name, crop) in entries[:row])
        raise DatasetError(f"'{file}' lists video {name!r} twice. List every video once, or once for each crop.")
    return list(dict.fromkeys(name for name, _ in entries))


def find_features(folder: Path, *, dataset: str, obtain: str) -> dict[str, tuple[Path, ...]]:
    """Feature files in a folder and below, by name of the video; several where each crop has its own.

    Names lose ``.npy``, a number of a crop (``_0`` or ``__0``) and ``_i3d`` or ``_c3d``.

    Raises:
        DatasetNotFoundError: the folder is missing or holds none; says how to obtain them.
        DatasetError: two files of the same video and crop, or videos with other crops than the first one.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.npy")):
        if any(map(is_junk, path.relative_to(folder).parts)):
            continue
        name, crop = split_name(path.name)
        twin = found.setdefault(name, {}).setdefault(crop, path)
        if twin != path:
            raise DatasetError(f"'{twin}' and '{path}' are features of one video. Move one of them out of '{folder}'.")
    if not found:
        state = "holds no .npy file" if folder.is_dir() else "does not exist"
        raise DatasetNotFoundError(f"{dataset} expects snippet features in '{folder}', which {state}. {obtain}")
    first = next(iter(found))
    expected = sorted(found[first])
    whole = expected == [""] or expected == [str(crop) for crop in range(len(expected))]
    for name, crops in found.items():
        if not whole or sorted(crops) != expected:
            raise DatasetError(
                f"'{folder}' has crops {', '.join(sorted(crops))} of video {name!r} and {', '.join(expected)} of {first!r}. "
                "Give every video the same files: one of all crops, or one for each crop, counted from 0."
            )
    return {name: tuple(crops[crop] for crop in expected) for name, crops in found.items()}


def require_features(names: Sequence[str], found: Iterable[str], *, folder: Path, source: str) -> None:
    """Check that all videos have features.

    Raises:
        DatasetNotFoundError: some have none; names the first three.
    """
    known = set(found)
    missing = [name for name in names if name not in known]
    if missing:
        raise DatasetNotFoundError(
            f"{len(missing)} of {len(names)} videos in {source} have no features in '{folder}': "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else '.'} Complete the features, or give a list of those "
            "that are there."
        )


def read_truth(file: Path) -> npt.NDArray[np.bool_]:
    """Frame truth from a ``.npy`` file of zeros and ones, one for each frame.

    Returns:
        Shape (frames,).

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it holds anything else.
    """
    values = open_array(file)
    truth = np.asarray(values).reshape(-1)
    numbers = truth.dtype.kind in "bfiu" and bool(np.isin(truth, (0, 1)).all())
    if not numbers or not len(truth) or len(truth) != max(values.shape, default=0):
        raise DatasetError(
            f"'{file}' must hold a 0 or 1 for each frame in one row; got {values.shape} {values.dtype}. Restore the published file."
        )
    return truth.astype(np.bool_)


def mark_events(events: Iterable[tuple[int, int]], frames: int, *, video: str) -> npt.NDArray[np.bool_]:
    """Frame truth from events; one that ends after the last frame is cut.

    Args:
        events: First frame of each, counted from 0, and the frame after its last.
        frames: Frames of the video.
        video: Its name, for messages.

    Returns:
        Shape (frames,).

    Raises:
        DatasetError: an event ends before it begins, begins before the video, or begins so long after it that the two cannot
            belong together.

    Example:
        >>> mark_events([(1, 2), (3, 9)], 5, video="v")
        array([False,  True, False,  True,  True])
    """
    truth = np.zeros(frames, np.bool_)
    limit = SNIPPET_FRAMES * (snippet_count(frames) + snippet_slack(snippet_count(frames)))
    for start, stop in events:
        if not (0 <= start <= stop and start < limit):
            raise DatasetError(
                f"an event of video {video!r} lasts from frame {start} to before {stop} (counted from 0), but the video has "
                f"{frames} frames. Take annotation and features from one source."
            )
        truth[start:stop] = True
    return truth


def log_counts(
    dataset: str, train: Sequence[Video], test: Sequence[Video], published: tuple[int, int, int, int]
) -> None:
    """Log normal and anomalous videos in training and test, and the published numbers where they are others."""
    counts = tuple(sum(video.label == label for video in part) for part in (train, test) for label in (0, 1))
    log.info("%s: %d normal and %d anomalous training, %d normal and %d anomalous test videos", dataset, *counts)
    if counts != published:
        log.info("%s has published %d, %d, %d and %d", dataset, *published)
