"""Checks of what a user passes to a metric; each raises one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError, LabelError, NotFiniteError, ShapeError


def check_pairs(score: Tensor, target: Tensor) -> Tensor:
    """Check scores and their truth; return the truth as bool.

    Raises:
        ShapeError: the shapes differ.
        ValueError: ``target`` holds something else than 0 and 1.
        NotFiniteError: a score is NaN or infinite.
    """
    check_shapes(score, target)
    truth = as_bool(
        target, "target", "Leave void pixels out: metric.update(score[target != void], target[target != void])."
    )
    if score.is_floating_point() and score.numel() and not bool(torch.stack(score.aminmax()).isfinite().all()):
        raise NotFiniteError(
            f"scores must be finite; {int((~score.isfinite()).sum())} of {score.numel()} are NaN or infinite. "
            "Look for an overflow or a division by zero in the method that made them."
        )
    return truth


def check_shapes(score: Tensor, target: Tensor) -> None:
    """Check that the shapes are equal.

    Args:
        score: Shape (N, ...).
        target: The same shape.

    Raises:
        ShapeError: they differ.
    """
    if score.shape == target.shape:
        return
    shapes = f"{tuple(score.shape)} and {tuple(target.shape)}"
    if score.ndim < 3:
        raise ShapeError(f"scores and target must share their shape; got {shapes}. Pass one label per score.")
    if score.shape[-2:] == target.shape[-2:]:
        raise ShapeError(
            f"anomaly_map and mask must share their shape; got {shapes}. Add or drop the channel axis of one."
        )
    raise ShapeError(
        f"anomaly_map and mask must share height and width; got {shapes}. Resize the map to the mask before updating "
        "the metric."
    )


def as_bool(values: Tensor, name: str, advice: str) -> Tensor:
    """Return a tensor of 0 and 1 as bool.

    Args:
        values: Any shape.
        name: What the values are, for the message.
        advice: End of the message.

    Raises:
        LabelError: another value than 0 and 1.
    """
    if values.dtype == torch.bool:
        return values
    known = (values == 0) | (values == 1)
    if not bool(known.all()):
        raise LabelError(
            f"{name} must hold only 0 (normal) and 1 (anomalous); {int((~known).sum())} values do not. {advice}"
        )
    return values == 1


def check_share(value: float, name: str) -> float:
    """Return ``value`` if it is a share above 0.

    Raises:
        ConfigError: it is not in (0, 1].
    """
    if not 0 < value <= 1:
        raise ConfigError(f"{name} must be above 0 and at most 1; got {value}. Give a share, such as 0.95 for 95 %.")
    return value
