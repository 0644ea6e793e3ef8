"""Keys of a batch of weakly labelled videos, and snippets: pooling to segments, spreading scores over frames.

Source: Sultani, Chen and Shah, "Real-world Anomaly Detection in Surveillance Videos", CVPR 2018 (segments, frame protocol).
Axes: B videos, C crops, T snippets, L segments, D feature width, F frames of all videos, one video after another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anomaly_suite.contract.images import as_label
from anomaly_suite.contract.numbers import as_numbers
from anomaly_suite.errors import ShapeError
from anomaly_suite.tracing import untraced

SNIPPET_FRAMES = 16
"""Consecutive frames that one snippet feature describes."""

SEGMENTS = 32
"""Segments of a video in training."""


def complete(batch: dict[str, Any]) -> bool:
    """Check and complete the keys of weakly labelled videos in place.

    Args:
        batch: ``snippet_features`` (B, T, D) or (B, C, T, D) float; perhaps ``length`` and ``label`` or ``bag_label`` (B,), and
            ``frame_label`` (F,) with ``frame_count`` (B,).

    Returns:
        Whether the batch holds videos. It then has a crop axis, ``length``, and ``frame_count`` beside ``frame_label``.

    Raises:
        ShapeError: tensors that do not fit together.
    """
    if "image" in batch or "snippet_features" not in batch:
        return False
    features = batch["snippet_features"]
    if not isinstance(features, Tensor) or features.ndim not in (3, 4) or not features.is_floating_point():
        what = f"{tuple(features.shape)} {features.dtype}" if isinstance(features, Tensor) else type(features).__name__
        raise ShapeError(
            f"snippet_features must be a floating-point tensor of shape (B, T, D) or (B, C, T, D); got {what}. "
            "Pad and stack the videos in the loader."
        )
    batch["snippet_features"] = features = features.unsqueeze(1) if features.ndim == 3 else features
    for name in ("length", "frame_count", "bag_label", "frame_label"):
        if name in batch:
            batch[name] = as_numbers(batch[name], name, features.device).reshape(-1)
    _complete_length(batch, features)
    if "bag_label" in batch:
        batch["label"] = batch.pop("bag_label")
    if "label" in batch:
        label = as_numbers(batch["label"], "label", features.device)
        batch["label"] = as_label(label, len(features), unit="video")
    if "frame_label" in batch:
        _complete_frames(batch, len(features))
    return True


def _complete_length(batch: dict[str, Any], features: Tensor) -> None:
    count, _, snippets, _ = features.shape
    if "length" not in batch:
        batch["length"] = torch.full((count,), snippets, device=features.device)
    length = batch["length"]
    if len(length) != count or bool(((length < 1) | (length > snippets)).any()):
        raise ShapeError(
            f"length must hold 1 to {snippets} snippets for each of {count} videos; got {length.tolist()}. "
            "It says where the padding of each video begins."
        )


def _complete_frames(batch: dict[str, Any], count: int) -> None:
    frames = batch.setdefault("frame_count", SNIPPET_FRAMES * batch["length"])
    if len(frames) != count or len(batch["frame_label"]) != int(frames.sum()):
        raise ShapeError(
            f"frame_label must hold the frames of all videos, one after another; got {len(batch['frame_label'])} for "
            f"frame_count {frames.tolist()}. Cut truth and features to the same frames."
        )
    batch["frame_label"] = batch["frame_label"] > 0


def snippet_count(frames: int) -> int:
    """Snippets of a video: the last one may be short, its last frame is then repeated.

    Example:
        >>> snippet_count(16), snippet_count(17)
        (1, 2)
    """
    return -(-frames // SNIPPET_FRAMES)


def segment_bounds(length: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """First snippet of every segment, and the one after its last: lengths (B,) to two tensors (B, L). See :func:`pool_segments`."""
    bounds = torch.arange(segments + 1, device=length.device) * length.unsqueeze(1) // segments  # B L+1
    return bounds[:, :-1], torch.maximum(bounds[:, 1:], bounds[:, :-1] + 1)


def pool_segments(snippet_features: Tensor, segments: int = SEGMENTS, length: Tensor | None = None) -> Tensor:
    """Average the snippets of every video in ``segments`` parts of nearly equal length.

    Part i holds snippets ``floor(i T / L)`` to ``floor((i + 1) T / L) - 1``, or the first of these alone where that is none,
    so short videos repeat snippets. Parts differ by at most one snippet.

    Args:
        snippet_features: Shape (B, C, T, D).
        segments: L, at least 1.
        length: Snippets of each video, 1 to T, shape (B,); those after are padding. T for all if None.

    Returns:
        Shape (B, C, L, D).

    Example:
        >>> pool_segments(torch.tensor([0.0, 2.0, 4.0, 6.0]).view(1, 1, 4, 1), 2).flatten()
        tensor([1., 5.])
    """
    batch, _, snippets, _ = snippet_features.shape
    device = snippet_features.device
    if length is None:
        length = torch.full((batch,), snippets, device=device)
    elif segments == snippets and bool((length == snippets).all()):
        return snippet_features
    first, last = segment_bounds(length, segments)
    position = torch.arange(snippets, device=device)
    member = (position >= first.unsqueeze(2)) & (position < last.unsqueeze(2))  # B L T
    weight = member.to(snippet_features.dtype) / (last - first).unsqueeze(2)
    # Padding may hold anything, and 0 times infinity is no number.
    valid = (position < length.unsqueeze(1)).view(batch, 1, snippets, 1)
    return weight.unsqueeze(1) @ snippet_features.where(valid, snippet_features.new_zeros(()))  # B C L D


@untraced  # the number of frames depends on the values
def frame_scores(snippet_score: Tensor, length: Tensor, frame_count: Tensor | None = None) -> Tensor:
    """Spread one score per snippet over its 16 frames.

    Args:
        snippet_score: Shape (B, T).
        length: Snippets of each video, shape (B,).
        frame_count: Frames wanted of each video, shape (B,); 16 per snippet if None. Frames after the last snippet keep its
            score.

    Returns:
        Shape (F,), the videos one after another; F is the sum of ``frame_count``.

    Raises:
        ShapeError: another number of lengths or frame counts than videos.

    Example:
        >>> frame_scores(torch.tensor([[0.1, 0.9]]), torch.tensor([2]), torch.tensor([18]))[14:]
        tensor([0.1000, 0.1000, 0.9000, 0.9000])
    """
    count = SNIPPET_FRAMES * length if frame_count is None else frame_count
    if len(count) != len(snippet_score) or len(length) != len(snippet_score):
        raise ShapeError(
            f"length and frame_count need one entry per video; got {len(length)} and {len(count)} for "
            f"{len(snippet_score)} videos. Give them in the order of the videos."
        )
    video = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)  # F
    start = torch.cumsum(count, 0) - count
    frame = torch.arange(len(video), device=count.device) - start[video]
    return snippet_score[video, torch.minimum(frame // SNIPPET_FRAMES, length[video] - 1)]
