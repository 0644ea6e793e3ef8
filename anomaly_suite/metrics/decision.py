"""Metrics of decisions at a threshold: Accuracy, Sensitivity, Specificity, FAR, IoU, Dice.

All take ``update(decided, target)``: ``pred_label`` and ``label`` of images, or ``pred_mask`` and ``mask`` of pixels.
The best value over all thresholds has another name: ``IoUMax`` and ``DiceMax``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from anomaly_suite.errors import MetricUndefinedError
from anomaly_suite.metrics.base import SuiteMetric
from anomaly_suite.metrics.checks import as_bool, check_shapes

TP, FP, FN, TN = range(4)
KINDS = {"anomalous ": [TP, FN], "normal ": [FP, TN], "": [TP, FP, FN, TN]}


def confusion(decided: Tensor, target: Tensor) -> Tensor:
    """Count the four outcomes.

    Args:
        decided: 1 or True where the method says anomalous. Any shape.
        target: 1 or True where it is. Shape of ``decided``.

    Returns:
        True positives, false positives, false negatives, true negatives; int64. Shape ``(4,)``.

    Raises:
        ShapeError: the shapes differ.
        ValueError: something else than 0 and 1; scores must go through a threshold first.

    Example:
        >>> confusion(torch.tensor([1, 1, 0, 0, 0]), torch.tensor([1, 0, 1, 0, 0]))
        tensor([1, 1, 1, 2])
    """
    check_shapes(decided, target)
    predicted = as_bool(decided, "a decision", "Apply the threshold first: score >= threshold.")
    truth = as_bool(target, "target", "Leave void pixels out of both tensors.")
    tp, predicted_sum, truth_sum = (part.sum() for part in (predicted & truth, predicted, truth))
    return torch.stack([tp, predicted_sum - tp, truth_sum - tp, truth.numel() - predicted_sum - truth_sum + tp])


class DecisionMetric(SuiteMetric):
    """Shared state of all metrics of decisions: the four counts. Subclasses are quotients of weighted counts.

    ``update`` raises as :func:`confusion` does; ``compute`` returns a float64 scalar in [0, 1] and raises
    MetricUndefinedError if the samples the metric is about are missing.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    top: ClassVar[tuple[int, int, int, int]]  # weights of TP, FP, FN, TN in the numerator
    bottom: ClassVar[tuple[int, int, int, int]]  # and in the denominator
    about: ClassVar[str] = "anomalous "  # the kind of samples there must be, a key of KINDS

    counts: Tensor

    def __init__(
        self,
        *,
        compute_on_cpu: bool = False,
        dist_sync_on_step: bool = False,
        process_group: Any = None,
        dist_sync_fn: Callable[..., Any] | None = None,
        distributed_available_fn: Callable[[], bool] | None = None,
        sync_on_compute: bool = True,
        compute_with_cache: bool = True,
    ) -> None:
        super().__init__(
            compute_on_cpu=compute_on_cpu,
            dist_sync_on_step=dist_sync_on_step,
            process_group=process_group,
            dist_sync_fn=dist_sync_fn,
            distributed_available_fn=distributed_available_fn,
            sync_on_compute=sync_on_compute,
            compute_with_cache=compute_with_cache,
        )
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, decided: Tensor, target: Tensor) -> None:
        """Add decisions and their truth."""
        self.counts = self.counts + confusion(decided, target)

    def compute(self) -> Tensor:
        """Return the value as a float64 scalar.

        Raises:
            MetricUndefinedError: the samples or components that it is about are missing.
        """
        if not int(self.counts[KINDS[self.about]].sum()):
            tp, fp, fn, tn = self.counts.tolist()
            raise MetricUndefinedError(
                f"{type(self).__name__} needs {self.about}samples; got {fp + tn} normal and {tp + fn} anomalous. "
                "Evaluate on data that has them or leave this metric out."
            )
        counts = self.counts.double()
        return (counts * counts.new_tensor(self.top)).sum() / (counts * counts.new_tensor(self.bottom)).sum()


class Accuracy(DecisionMetric):
    """Share of right decisions."""

    top, bottom, about = (1, 0, 0, 1), (1, 1, 1, 1), ""


class Sensitivity(DecisionMetric):
    """Share of the anomalous samples that are found: TP / (TP + FN)."""

    top, bottom = (1, 0, 0, 0), (1, 0, 1, 0)


class Specificity(DecisionMetric):
    """Share of the normal samples that are left alone: TN / (TN + FP)."""

    top, bottom, about = (0, 0, 0, 1), (0, 1, 0, 1), "normal "


class FAR(DecisionMetric):
    """False-alarm rate, the share of the normal samples that are called anomalous: FP / (FP + TN)."""

    higher_is_better = False
    top, bottom, about = (0, 1, 0, 0), (0, 1, 0, 1), "normal "


class IoU(DecisionMetric):
    """Intersection over union of anomalous pixels at the calibrated threshold: TP / (TP + FP + FN)."""

    top, bottom = (1, 0, 0, 0), (1, 1, 1, 0)


class Dice(DecisionMetric):
    """Dice coefficient of anomalous pixels at the calibrated threshold: 2 TP / (2 TP + FP + FN)."""

    top, bottom = (2, 0, 0, 0), (2, 1, 1, 0)
