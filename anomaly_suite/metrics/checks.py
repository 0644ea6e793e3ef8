"""Checks of what a user passes to a metric; each raises one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError, LabelError, NotFiniteError, ShapeError

KEPT = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8}
LARGEST = 2**53  # up to here float64 holds every integer


def real_scores(score: Tensor) -> Tensor:
    """Return scores in a type that can be compared and holds the same values; most types are kept.

    Raises:
        ShapeError: complex numbers, which have no order.
    """
    if score.dtype in KEPT or score.dtype == torch.uint8:
        return score
    if score.is_complex():
        raise ShapeError(f"scores must be real numbers; got {score.dtype}. Pass their magnitude, score.abs().")
    if score.is_floating_point():  # of 8 bits
        return score.float()
    return score.byte() if score.dtype == torch.bool else score.long()


def check_integers(score: Tensor) -> Tensor:
    """Return ``score``, of any shape, if float64 holds all of its integers, so that they can be compared with scores of any type.

    Raises:
        LabelError: an integer above 2**53 or below -2**53.
    """
    if score.dtype == torch.int64 and score.numel():
        lowest, highest = (int(end) for end in score.aminmax())
        if not -LARGEST <= lowest <= highest <= LARGEST:
            raise LabelError(
                f"scores that are integers must be within 2**53 of 0; got {lowest} to {highest}. Subtract a constant first."
            )
    return score


def check_pairs(score: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Check scores and their truth; return the scores as :func:`real_scores` and the truth as bool.

    Raises:
        ShapeError: the shapes differ, or one is no tensor.
        ValueError: ``target`` holds something else than 0 and 1.
        NotFiniteError: a score is NaN or infinite.
    """
    check_shapes(score, target)
    score = real_scores(score)
    truth = as_bool(
        target, "target", "Leave void pixels out: metric.update(score[target != void], target[target != void])."
    )
    if score.is_floating_point() and score.numel() and not bool(torch.stack(score.aminmax()).isfinite().all()):
        raise NotFiniteError(
            f"scores must be finite; {int((~score.isfinite()).sum())} of {score.numel()} are NaN or infinite. "
            "Look for an overflow or a division by zero in the method that made them."
        )
    return score, truth


def check_shapes(score: Tensor, target: Tensor) -> None:
    """Check that the shapes are equal.

    Args:
        score: Shape (N, ...).
        target: The same shape.

    Raises:
        ShapeError: they differ.
    """
    for values in (score, target):
        if not isinstance(values, Tensor):
            raise ShapeError(
                f"scores and target must be tensors; got {type(values).__name__}. Convert it with torch.as_tensor."
            )
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
