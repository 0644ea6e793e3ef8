"""Scores of frames from scores of their patches or pixels, and the pixel-level criterion of crowded scenes.

A frame is as anomalous as the most anomalous thing in it. By the pixel-level criterion an anomalous frame is found only at thresholds at which
a share of its anomalous pixels is called anomalous, and a normal frame is a false alarm as soon as one of its pixels is. Both are
thresholds at which a frame is called anomalous, so AUROC and EER of these numbers are those of the criterion.

Source: Mahadevan et al., CVPR 2010; Li, Mahadevan and Vasconcelos, "Anomaly Detection and Localization in Crowded Scenes", TPAMI 36, 2014.
Axes: N patches, F frames, B frames of a batch, H and W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.errors import MetricUndefinedError, ShapeError
from anomaly_suite.metrics.checks import check_share

DETECTED_SHARE = 0.4  # of the anomalous pixels of a frame that must be found


def patch_frame_scores(score: Tensor, frame: Tensor, clip: Tensor) -> Tensor:
    """Highest score of the patches of each frame; a frame without any gets the smallest score of a patch of its clip.

    Args:
        score: Of patches, higher is more anomalous. Shape (N,).
        frame: Which frame each belongs to, in [0, F). Shape (N,).
        clip: Which clip each frame belongs to, from 0. Shape (F,).

    Returns:
        Shape (F,), type of ``score``; where a whole clip has no patch, the smallest score of all.

    Raises:
        ShapeError: scores and frames that do not fit.
        MetricUndefinedError: there is no score.

    Example:
        >>> patch_frame_scores(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0]))
        tensor([3., 2., 1.])
    """
    _check(score, frame, clip)
    highest = torch.full((len(clip),), -torch.inf, dtype=score.dtype).scatter_reduce(0, frame, score, "amax")
    return _fill(highest, score, frame, clip)


def localised_scores(
    score: Tensor, frame: Tensor, area: Tensor, clip: Tensor, frame_area: Tensor, *, share: float = DETECTED_SHARE
) -> Tensor:
    """Scores of frames by the pixel-level criterion, from patches.

    Args:
        score: Of patches. Shape (N,).
        frame: Which frame each belongs to. Shape (N,).
        area: Anomalous pixels of each patch. Shape (N,).
        clip: Which clip each frame belongs to. Shape (F,).
        frame_area: Anomalous pixels of each frame, also those outside its patches; 0 in normal ones. Shape (F,).
        share: Of them that must be found, in (0, 1].

    Returns:
        Shape (F,): of normal frames the highest score; of anomalous ones the highest threshold at which patches with enough of the
        anomalous pixels reach it, and the smallest score of the clip where all of them together do not have enough.

    Raises:
        ShapeError: tensors that do not fit.
        MetricUndefinedError: there is no score.
    """
    _check(score, frame, clip)
    if area.shape != score.shape or frame_area.shape != clip.shape:
        raise ShapeError(
            f"areas must be one for each patch and one for each frame, {tuple(score.shape)} and {tuple(clip.shape)}; got {tuple(area.shape)} and "
            f"{tuple(frame_area.shape)}. Count the anomalous pixels of all of them."
        )
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(frame[order], stable=True)]  # by frame, highest first
    score, frame, area = score[order], frame[order], area[order].double()
    found = area.cumsum(0)
    before = torch.zeros(len(clip) + 1, dtype=torch.double)
    before[1:].scatter_add_(0, frame, area)
    found = found - before.cumsum(0)[frame]  # inside the frame
    enough = found + 1e-9 >= check_share(share, "share") * frame_area.double()[frame]
    reached = torch.where(enough, score, -torch.inf)
    highest = torch.full((len(clip),), -torch.inf, dtype=score.dtype).scatter_reduce(0, frame, reached, "amax")
    return _fill(highest, score, frame, clip)


def detection_scores(anomaly_map: Tensor, mask: Tensor, *, share: float = DETECTED_SHARE) -> Tensor:
    """The same of frames with a map.

    Args:
        anomaly_map: Shape (B, 1, H, W).
        mask: True is anomalous. The same shape.
        share: Of the anomalous pixels that must be found, in (0, 1].

    Returns:
        Shape (B,), type of ``anomaly_map``.

    Raises:
        ShapeError: shapes that differ.

    Example:
        >>> anomaly_map = torch.tensor([[[[5.0, 4.0, 3.0, 2.0, 1.0]]]])
        >>> detection_scores(anomaly_map, torch.tensor([[[[False, True, True, True, True]]]]))
        tensor([3.])
    """
    if anomaly_map.shape != mask.shape:
        raise ShapeError(
            f"anomaly_map and mask must have one shape; got {tuple(anomaly_map.shape)} and {tuple(mask.shape)}. Resize the map to the mask."
        )
    check_share(share, "share")
    values, truth = anomaly_map.flatten(1), mask.flatten(1).bool()
    inside = torch.where(truth, values, -torch.inf).sort(1, descending=True).values
    needed = (truth.sum(1).double() * share - 1e-9).ceil().long().clamp_min(1)
    return torch.where(truth.any(1), inside.gather(1, needed.unsqueeze(1) - 1).squeeze(1), values.amax(1))


def _check(score: Tensor, frame: Tensor, clip: Tensor) -> None:
    if score.ndim != 1 or score.shape != frame.shape or clip.ndim != 1:
        raise ShapeError(
            f"score and frame must be one number a patch, clip one a frame; got {tuple(score.shape)}, {tuple(frame.shape)} and {tuple(clip.shape)}. "
            "Give a score for every patch."
        )
    if not len(score):
        raise MetricUndefinedError(
            "scores of frames need at least one patch; got none. Test on clips that show something."
        )


def _fill(highest: Tensor, score: Tensor, frame: Tensor, clip: Tensor) -> Tensor:
    """Put the smallest score of its clip in the place of what a frame does not have."""
    missing = highest == -torch.inf
    lowest = torch.full((int(clip.max()) + 1,), torch.inf, dtype=score.dtype)
    lowest = lowest.scatter_reduce(0, clip[frame], score, "amin")
    lowest = torch.where(lowest == torch.inf, score.min(), lowest)
    return torch.where(missing, lowest[clip], highest)
