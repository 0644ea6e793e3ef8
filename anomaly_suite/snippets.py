"""Snippets of video: pooling a video to a fixed number of segments, and spreading snippet scores over frames.

Source: Sultani, Chen and Shah, "Real-world Anomaly Detection in Surveillance Videos", CVPR 2018 (segments, frame protocol).
Axes: B videos, C crops, T snippets, L segments, D feature width, F frames of all videos, one video after another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.errors import ShapeError

SNIPPET_FRAMES = 16
"""Consecutive frames that one snippet feature describes."""

SEGMENTS = 32
"""Segments of a video in training."""


def snippet_count(frames: int) -> int:
    """Snippets of a video: the last one may be short, its last frame is then repeated.

    Example:
        >>> snippet_count(16), snippet_count(17)
        (1, 2)
    """
    return -(-frames // SNIPPET_FRAMES)


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
    bounds = torch.arange(segments + 1, device=device) * length.unsqueeze(1) // segments  # B L+1
    first, last = bounds[:, :-1], torch.maximum(bounds[:, 1:], bounds[:, :-1] + 1)
    position = torch.arange(snippets, device=device)
    member = (position >= first.unsqueeze(2)) & (position < last.unsqueeze(2))  # B L T
    weight = member.to(snippet_features.dtype) / (last - first).unsqueeze(2)
    # Padding may hold anything, and 0 times infinity is no number.
    valid = (position < length.unsqueeze(1)).view(batch, 1, snippets, 1)
    return weight.unsqueeze(1) @ snippet_features.where(valid, snippet_features.new_zeros(()))  # B C L D


def frame_scores(snippet_score: Tensor, length: Tensor, frame_count: Tensor | None = None) -> Tensor:
    """Spread one score a snippet over its 16 frames.

    Args:
        snippet_score: Shape (B, T).
        length: Snippets of each video, shape (B,).
        frame_count: Frames wanted of each video, shape (B,); 16 a snippet if None. Frames after the last snippet keep its
            score.

    Returns:
        Shape (F,), the videos one after another; F is the sum of ``frame_count``.

    Example:
        >>> frame_scores(torch.tensor([[0.1, 0.9]]), torch.tensor([2]), torch.tensor([18]))[14:]
        tensor([0.1000, 0.1000, 0.9000, 0.9000])
    """
    count = SNIPPET_FRAMES * length if frame_count is None else frame_count
    if len(count) != len(snippet_score) or len(length) != len(snippet_score):
        raise ShapeError(
            f"length and frame_count need one entry a video; got {len(length)} and {len(count)} for "
            f"{len(snippet_score)} videos. Give them in the order of the videos."
        )
    video = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)  # F
    start = torch.cumsum(count, 0) - count
    frame = torch.arange(len(video), device=count.device) - start[video]
    return snippet_score[video, torch.minimum(frame // SNIPPET_FRAMES, length[video] - 1)]
