"""What callbacks share about videos: the frame scores of each one, and file names for them.

Axes: B videos, F frames of all videos, one video after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anomaly_suite.contract import Batch, Prediction
from anomaly_suite.errors import ShapeError
from anomaly_suite.io.naming import free_name, require_file_name, tree_parts
from anomaly_suite.io.videos import VIDEO_SUFFIXES
from anomaly_suite.metrics import auroc

Scores = npt.NDArray[np.float32]


class Frames(NamedTuple):
    """Scores (frames,) of one video, and its truth (frames,) where it is known."""

    score: Scores
    label: npt.NDArray[np.bool_] | None

    def auroc(self) -> float | None:
        """Area under the ROC curve of this video; None without truth, with one label, or with scores that are not finite."""
        if self.label is None or len(np.unique(self.label)) < 2 or not np.isfinite(self.score).all():
            return None
        return auroc(torch.from_numpy(self.score), torch.from_numpy(self.label)).item()

    def peak(self) -> int | None:
        """First frame, from 0, with the highest score; None where scores are not finite or there is no frame."""
        return int(self.score.argmax()) if len(self.score) and np.isfinite(self.score).all() else None

    def events(self) -> list[tuple[int, int]]:
        """Start and end of each run of anomalous frames, from 0, the end not included.

        Example:
            >>> Frames(np.zeros(5, np.float32), np.array([True, False, True, True, False])).events()
            [(0, 1), (2, 4)]
        """
        if self.label is None:
            return []
        change = np.diff(self.label.astype(np.int8), prepend=0, append=0)
        starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
        return [(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def frames_of(prediction: Prediction, batch: Batch) -> list[Frames]:
    """Frames of each video of a batch; an empty list where the prediction has no ``frame_score``.

    The lengths are ``frame_count`` of the batch, or else those that spread the frames evenly over the snippets.

    Raises:
        ShapeError: scores, truth and lengths do not belong together.
    """
    if "frame_score" not in prediction:
        return []
    score = prediction["frame_score"].detach().float().cpu()
    score = score.reshape(-1) if score.numel() == len(score) else score  # further axes of length one
    truth = batch.get("frame_label")
    if truth is not None and truth.shape != score.shape:
        raise ShapeError(
            f"frame_score and frame_label must have one value per frame; got shapes {tuple(score.shape)} and "
            f"{tuple(truth.shape)}. Check that features and annotation belong to the same video."
        )
    count = _frame_count(score, batch)
    ends = np.cumsum(count)[:-1]
    scores = np.split(score.numpy(), ends)
    labels = [None] * len(count) if truth is None else np.split(truth.cpu().bool().numpy(), ends)
    return [Frames(*video) for video in zip(scores, labels, strict=True)]


def _frame_count(score: Tensor, batch: Batch) -> list[int]:
    if "frame_count" in batch:
        count = batch["frame_count"]
    elif "length" in batch:
        count = batch["length"] * (len(score) // max(1, int(batch["length"].sum())))
    else:
        return [len(score)]
    if int(count.sum()) != len(score):
        raise ShapeError(
            f"frame_score must hold the frames of all videos, one after another; got {len(score)} for {len(count)} videos. "
            "Give frame_count, the frames of each, in the batch."
        )
    return [int(value) for value in count]


def bare_name(name: str) -> str:
    """The name of a video without the suffix of a video or feature file; other dots belong to titles."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and dot + suffix.lower() in (*VIDEO_SUFFIXES, ".npy") else name


def video_names(names: Sequence[str | None]) -> list[Path]:
    """A relative file name without suffix for each video; no two get the same one, whatever their case.

    Of a name with folders the last three components are kept. A video without a name is numbered.

    Example:
        >>> [str(name) for name in video_names(["a/v.1.mp4", "a/V.1", None])]
        ['a/v.1', 'a/V.1-2', 'video_000002']
    """
    used: set[str] = set()
    found = []
    for number, name in enumerate(names):
        if name:
            require_file_name(name)
        parts = tree_parts(bare_name(name)) if name else ()
        found.append(free_name(Path(*parts or (f"video_{number:06d}",)), used))
    return found
