"""Frame truth: read from masks, marked from annotated events, cut to the frames that are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from anomaly_suite.contract import SNIPPET_FRAMES, snippet_count
from anomaly_suite.data.videos.feature_files import Layout, Video, open_array, snippets_of
from anomaly_suite.errors import DatasetError

LengthRule = Literal["cut", "extend"]


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


def split_series(
    file: Path, videos: Sequence[Video], layout: Layout, *, instead: str
) -> dict[str, npt.NDArray[np.bool_]]:
    """Frame truth of each video from one file for all of them, which has 16 frames for every snippet of the features.

    Args:
        file: A ``.npy`` file of zeros and ones, as released code has it.
        videos: All test videos in the order of the file.
        layout: Axes of the feature files.
        instead: What else can be given, for messages.

    Returns:
        Truth of shape (frames,) by the name of the video.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it has another number of frames, or anomalous ones where a normal video is.
    """
    series = read_truth(file)
    frames = [SNIPPET_FRAMES * snippets_of(video, layout) for video in videos]
    if len(series) != sum(frames):
        raise DatasetError(
            f"'{file}' has {len(series)} frames, the features of {len(videos)} test videos {sum(frames)}. Complete the test "
            f"features, or {instead}."
        )
    parts = np.split(series, np.cumsum(frames)[:-1])
    for video, part in zip(videos, parts, strict=True):
        if part.any() and not video.label:
            raise DatasetError(
                f"'{file}' has anomalous frames in the normal test video '{video.files[0]}'. Its order is that of the published "
                f"file names: restore them, or {instead}."
            )
    return {video.name: part for video, part in zip(videos, parts, strict=True)}


def anomalous_first(videos: Sequence[Video]) -> list[Video]:
    """The order of RTFM's released lists and ground truths: anomalous videos, then normal ones, each sorted by name."""
    return sorted(videos, key=lambda video: (-video.label, video.name))


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


def snippet_slack(snippets: int) -> int:
    """By how many snippets the truth of a video may be longer or shorter than its features.

    Programs that decode a video disagree on its last frames, and some drop frames in between: one snippet in fifty, or one.
    """
    return max(1, snippets // 50)


def fit_length(video: Video, snippets: int, rule: LengthRule) -> npt.NDArray[np.bool_]:
    """Frame truth of as many frames as are scored.

    Args:
        video: Its ``frame_label`` has one entry per frame; None says that all frames are normal.
        snippets: Snippets of its features; each has 16 frames.
        rule: ``cut`` both to the shorter; ``extend`` the truth by its last value to the frames of all snippets, as the
            ground-truth files of RTFM do. Longer truth is cut in both.

    Returns:
        Shape (frames,).

    Raises:
        DatasetError: the lengths differ by more than one snippet in fifty (or one), so that they cannot belong together.

    Example:
        >>> truth = np.array([False] * 15 + [True])
        >>> fit_length(Video("v", 1, Path("v.npy"), truth), 2, "extend")[14:18]
        array([False,  True,  True,  True])
    """
    truth, frames = video.frame_label, SNIPPET_FRAMES * snippets
    if truth is None:
        return np.zeros(frames, np.bool_)
    expected = snippet_count(len(truth))
    if abs(expected - snippets) > snippet_slack(expected):
        raise DatasetError(
            f"video {video.name!r} has frame truth of {len(truth)} frames, which are {expected} snippets, but features of {snippets}. "
            "Take truth and features from one source."
        )
    if rule == "cut" or len(truth) >= frames:
        return truth[:frames]
    return np.pad(truth, (0, frames - len(truth)), mode="edge")
