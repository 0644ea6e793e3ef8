"""Mean intersection over union of classes, from one confusion matrix of a whole split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anomaly_suite.codes import OUTLIER
from anomaly_suite.errors import ConfigError, LabelError, MetricUndefinedError, ShapeError
from anomaly_suite.metrics.base import SuiteMetric

CODES = 256  # of a byte


def confusion_matrix(pred_target: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and by predicted class.

    Args:
        pred_target: Classes. Any shape.
        target: Classes; 254 and 255 are left out. Shape of ``pred_target``.
        num_classes: K.

    Returns:
        Shape (K, K), int64; rows are true classes, columns predicted ones.

    Raises:
        ShapeError: the shapes differ, or there are no classes but floating-point numbers.
        LabelError: a class outside 0 to K - 1.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 255]), 2)
        tensor([[1, 1],
                [0, 1]])
    """
    if pred_target.shape != target.shape:
        raise ShapeError(
            f"pred_target and target must share their shape; got {tuple(pred_target.shape)} and {tuple(target.shape)}. "
            "Predict at the size of the labels."
        )
    for name, values in (("target", target), ("pred_target", pred_target)):
        if values.is_floating_point() and not bool((values == values.round()).all()):
            raise ShapeError(
                f"{name} must hold whole numbers; got {values.dtype} with others. Take the argmax over the classes."
            )
    if (quick := _count_codes(pred_target, target, num_classes)) is not None:
        return quick
    known = target < OUTLIER  # and void above it: no class, and not counted
    truth, predicted = target[known].long(), pred_target[known].long()
    for name, values in (("target", truth), ("pred_target", predicted)):
        if len(values) and not 0 <= (odd := int(values.min())) <= (most := int(values.max())) < num_classes:
            raise LabelError(
                f"{name} must hold classes 0 to {num_classes - 1}; got {odd if odd < 0 else most}. Map the labels, with "
                f"{OUTLIER} or above for void, or set num_classes."
            )
    return (truth * num_classes + predicted).bincount(minlength=num_classes**2).view(num_classes, num_classes)


def _count_codes(pred_target: Tensor, target: Tensor, num_classes: int) -> Tensor | None:
    """:func:`confusion_matrix` of labels that fit in a byte, void with them; None where anything is out of the ordinary.

    Selecting the known pixels takes several times as long as counting all of them, in the smallest numbers that hold a pair.
    """
    if not target.numel() or pred_target.is_floating_point() or torch.bool in (pred_target.dtype, target.dtype):
        return None
    (least, most), (lowest, highest) = ([int(end) for end in part.aminmax()] for part in (pred_target, target))
    if not (0 <= least <= most < num_classes < OUTLIER and 0 <= lowest <= highest < CODES):
        return None
    dtype = torch.int16 if CODES * num_classes <= torch.iinfo(torch.int16).max else torch.int32
    pair = (target.to(dtype) * num_classes).add_(pred_target.to(dtype))
    count = pair.flatten().bincount(minlength=CODES * num_classes).view(CODES, num_classes)
    return None if bool(count[num_classes:OUTLIER].any()) else count[:num_classes].clone()


def intersection_over_union(matrix: Tensor) -> Tensor:
    """IoU of every class: (K, K) counts to (K,) float64, NaN for a class that is neither true nor predicted anywhere."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())


class MeanIoU(SuiteMetric):
    """Mean over classes of intersection over union, TP / (TP + FP + FN), of all pixels together whose class is known.

    A class that is neither true nor predicted anywhere is left out. ``update`` raises as :func:`confusion_matrix` does.

    Args:
        num_classes: K.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: ``num_classes`` is not positive.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    matrix: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
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
        if num_classes < 1:
            raise ConfigError(f"num_classes must be positive; got {num_classes}.")
        self.num_classes = num_classes
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("matrix", empty, dist_reduce_fx="sum")

    def update(self, pred_target: Tensor, target: Tensor) -> None:
        """Add predicted and true classes."""
        self.matrix = self.matrix + confusion_matrix(pred_target, target, self.num_classes)

    def compute(self) -> Tensor:
        """Return the mean as a float64 scalar.

        Raises:
            MetricUndefinedError: no pixel has a known class.
        """
        if not bool(self.matrix.any()):
            raise MetricUndefinedError(
                "MeanIoU needs pixels with a known class; got none. Evaluate on data with a target or leave this metric out."
            )
        return intersection_over_union(self.matrix).nanmean()

    def counts(self) -> Tensor:
        """Confusion matrix (K, K) of all processes, which all must call it; see :func:`confusion_matrix`."""
        with self.sync_context(self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync):
            return self.matrix
