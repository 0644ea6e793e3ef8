"""Metrics of the order of the scores: AUROC, AP, PRAUC, F1Max, FPR95, EER, IoUMax, DiceMax.

Scores are compared and never transformed, so any strictly increasing function of them gives the same value. Each
metric is a function of exact scores and a torchmetrics class; the class keeps all scores (``exact=True``) or a sketch of
bounded size (``exact=False``, for pixels; see ``sketch.py``) and then certifies its error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics.checks import check_pairs, check_share
from anomaly_suite.metrics.curve import Curve, arrange, both_labels, make_curve, partial_area
from anomaly_suite.metrics.sketch import Rows
from anomaly_suite.metrics.state import RankMetric

# Values of a curve -----------------------------------------------------------------------------------------------


def curve_of(score: Tensor, target: Tensor, name: str) -> Curve:
    """Check the input of metric ``name`` and build its exact curve; errors are those of :func:`auroc`.

    Args:
        score: Shape (N, ...), higher is more anomalous.
        target: Shape of ``score``; 1 or True is anomalous.
        name: For the message of MetricUndefinedError.
    """
    score, truth = check_pairs(score, target)
    truth = truth.flatten().long()
    return both_labels(make_curve(score.flatten(), truth, 1 - truth, torch.zeros_like(truth)), name)


def _auroc(curve: Curve) -> Tensor:
    normal = float(curve.false[-1])
    return partial_area(curve.false, curve.true, normal) / (normal * curve.true[-1])


def _average_precision(curve: Curve) -> Tensor:
    gained = torch.diff(curve.true, prepend=curve.true.new_zeros(1))
    return (gained * curve.true / (curve.true + curve.false)).sum() / curve.true[-1]


def _precision_recall_area(curve: Curve) -> Tensor:
    precision = curve.true / (curve.true + curve.false)
    before = torch.cat([precision.new_ones(1), precision[:-1]])
    gained = torch.diff(curve.true, prepend=curve.true.new_zeros(1))
    return (gained * (precision + before)).sum() / (2 * curve.true[-1])


def _f1(curve: Curve) -> Tensor:
    return 2 * curve.true / (curve.true + curve.false + curve.true[-1])


def _iou(curve: Curve) -> Tensor:
    return curve.true / (curve.false + curve.true[-1])


def _fpr_at_tpr(curve: Curve, tpr: float) -> Tensor:
    return curve.false[(curve.true / curve.true[-1] >= tpr).nonzero()[0, 0]] / curve.false[-1]


def _equal_error_rate(curve: Curve) -> Tensor:
    fpr = torch.nn.functional.pad(curve.false / curve.false[-1], (1, 0))
    surplus = 1 - torch.nn.functional.pad(curve.true / curve.true[-1], (1, 0)) - fpr  # FNR - FPR falls from 1 to -1
    right = int((surplus <= 0).nonzero()[0, 0])
    step = surplus[right - 1] / (surplus[right - 1] - surplus[right])
    return fpr[right - 1] + step * (fpr[right] - fpr[right - 1])


# Functions -------------------------------------------------------------------------------------------------------


def auroc(score: Tensor, target: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that an anomalous sample outscores a normal one; ties count one half.

    Args:
        score: Higher is more anomalous; any scale, finite. Any shape.
        target: 1 or True is anomalous. Shape of ``score``.

    Returns:
        Scalar in [0, 1], float64.

    Raises:
        ShapeError: the shapes differ.
        ValueError: ``target`` holds something else than 0 and 1.
        NotFiniteError: a score is NaN or infinite.
        MetricUndefinedError: one label is missing.

    Source:
        Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27, 2006.

    Example:
        >>> auroc(torch.tensor([20.0, 21.0, 22.0, 23.0]), torch.tensor([0, 1, 0, 1]))
        tensor(0.7500, dtype=torch.float64)
    """
    return _auroc(curve_of(score, target, "AUROC"))


def average_precision(score: Tensor, target: Tensor) -> Tensor:
    """Average precision: the mean over anomalous samples of the precision at their score (a sum of steps).

    Args:
        score: Shape (N, ...), higher is more anomalous.
        target: Shape of ``score``; 1 or True is anomalous.

    Returns:
        Scalar in [0, 1], float64, that of scikit-learn's ``average_precision_score``. Errors are those of :func:`auroc`.

    Example:
        >>> average_precision(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 0, 1]))
        tensor(0.8333, dtype=torch.float64)
    """
    return _average_precision(curve_of(score, target, "AP"))


def precision_recall_area(score: Tensor, target: Tensor) -> Tensor:
    """Area under the precision-recall curve, its points joined by straight lines from recall 0 and precision 1.

    Released code for weakly labelled video reports this number as AP: scikit-learn's ``auc(recall, precision)``. Straight
    lines promise points that no threshold reaches (Davis and Goadrich, ICML 2006), so where few scores are distinct it is
    larger than :func:`average_precision`: if all are equal, it is the mean of 1 and the share of anomalous samples.

    Args:
        score: Shape (N, ...), higher is more anomalous.
        target: Shape of ``score``; 1 or True is anomalous.

    Returns:
        Scalar in [0, 1], float64. Errors are those of :func:`auroc`.

    Example:
        >>> precision_recall_area(torch.ones(4), torch.tensor([0, 0, 0, 1]))
        tensor(0.6250, dtype=torch.float64)
    """
    return _precision_recall_area(curve_of(score, target, "PRAUC"))


def f1_max(score: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Best F1 over all thresholds, and the highest threshold that reaches it.

    Args:
        score: Shape (N, ...), higher is more anomalous.
        target: Shape of ``score``; 1 or True is anomalous.

    Returns:
        F1 in [0, 1], float64, and the threshold in the dtype of ``score``: ``score >= threshold`` is anomalous. Errors are those
        of :func:`auroc`.

    Example:
        >>> f1_max(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1]))
        (tensor(1., dtype=torch.float64), tensor(2.))
    """
    curve = curve_of(score, target, "F1Max")
    value, best = _f1(curve).max(dim=0)
    return value, curve.threshold[best]


def fpr_at_tpr(score: Tensor, target: Tensor, *, tpr: float = 0.95) -> Tensor:
    """Smallest false-positive rate of a threshold that finds a share of at least ``tpr`` of the anomalous samples.

    Args:
        score: Shape (N, ...), higher is more anomalous.
        target: Shape of ``score``; 1 or True is anomalous.
        tpr: Wanted true-positive rate, in (0, 1].

    Returns:
        Scalar in [0, 1], float64. Errors are those of :func:`auroc`.

    Example:
        >>> fpr_at_tpr(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0, 1, 0, 1]))
        tensor(0.5000, dtype=torch.float64)
    """
    return _fpr_at_tpr(curve_of(score, target, "FPR at TPR"), check_share(tpr, "tpr"))


def equal_error_rate(score: Tensor, target: Tensor) -> Tensor:
    """Error at the point of the ROC curve, joined by straight lines, where FPR equals 1 - TPR.

    Args:
        score: Shape (N, ...), higher is more anomalous.
        target: Shape of ``score``; 1 or True is anomalous.

    Returns:
        Scalar in [0, 1], float64. Errors are those of :func:`auroc`.

    Example:
        >>> equal_error_rate(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0, 1, 0, 1]))
        tensor(0.5000, dtype=torch.float64)
    """
    return _equal_error_rate(curve_of(score, target, "EER"))


# Classes ---------------------------------------------------------------------------------------------------------


class AUROC(RankMetric):
    """Area under the ROC curve; ties count one half. See :func:`auroc`."""

    higher_is_better = True

    def _value(self, curve: Curve) -> Tensor:
        return _auroc(curve)


class AP(RankMetric):
    """Average precision, the step-wise sum. See :func:`average_precision`."""

    higher_is_better = True

    def _value(self, curve: Curve) -> Tensor:
        return _average_precision(curve)

    def _bracket(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Bracket the precision at each anomalous sample.

        One in a row from key a to key b has a threshold t in [a, b]. At most the anomalous samples that may reach a
        and at least the normal ones that surely reach b are at or above t. The i-th highest of the row has at least i
        anomalous samples of the row and all that surely lie above b, and at most the normal ones that may reach a. The
        lower precision is concave in i, so its mean over the row is at least the mean of its two ends.
        """
        pessimistic, optimistic = arrange(rows, pessimistic=True), arrange(rows, pessimistic=False)
        rows = Rows(*(column[rows.positive > 0] for column in rows))
        low, high, single = 4 * rows.low.long(), 4 * rows.high.long(), rows.low == rows.high

        def reached(curve: Curve, count: Tensor, position: Tensor) -> Tensor:
            """Count at or above each position, shape (rows,)."""
            points = torch.searchsorted(-curve.threshold, -position, right=True)
            return torch.nn.functional.pad(count, (1, 0))[points]

        most, least = reached(optimistic, optimistic.true, low), reached(optimistic, optimistic.false, high)
        above = reached(pessimistic, pessimistic.true, high + 2)
        tied = reached(pessimistic, pessimistic.true, low - 1)  # a single score: everything at it is reached
        false = reached(pessimistic, pessimistic.false, low)
        first, last = torch.where(single, tied, above + 1), torch.where(single, tied, above + rows.positive)
        lower = (first / (first + false) + last / (last + false)) / 2
        share = rows.positive.double() / rows.positive.sum()
        return (share * lower).sum(), (share * most / (most + least)).sum()


class PRAUC(RankMetric):
    """Area under the precision-recall curve by trapezoids, which released video codes call AP. See :func:`precision_recall_area`.

    Only of exact scores: breaking a tie may raise or lower it, so the arrangements that bound the others do not bound it.

    Args:
        exact: Must be True.
        bins: Not read.
        regions: See :class:`RankMetric`.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: ``exact`` is False.
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        exact: bool = True,
        bins: int = 2**18,
        regions: bool = False,
        compute_on_cpu: bool = False,
        dist_sync_on_step: bool = False,
        process_group: Any = None,
        dist_sync_fn: Callable[..., Any] | None = None,
        distributed_available_fn: Callable[[], bool] | None = None,
        sync_on_compute: bool = True,
        compute_with_cache: bool = True,
    ) -> None:
        if not exact:
            raise ConfigError(
                "PRAUC needs every score; got exact=False. Use exact=True, or AP, whose error a sketch bounds."
            )
        super().__init__(
            exact=exact, bins=bins, regions=regions, compute_on_cpu=compute_on_cpu,
            dist_sync_on_step=dist_sync_on_step, process_group=process_group, dist_sync_fn=dist_sync_fn,
            distributed_available_fn=distributed_available_fn, sync_on_compute=sync_on_compute,
            compute_with_cache=compute_with_cache,
        )  # fmt: skip

    def _value(self, curve: Curve) -> Tensor:
        return _precision_recall_area(curve)


class FPR95(RankMetric):
    """False-positive rate at a true-positive rate of at least 0.95 (``tpr``). See :func:`fpr_at_tpr`.

    Args:
        tpr: Wanted true-positive rate, in (0, 1].
        exact, bins: See :class:`RankMetric`.
        regions: Also keep what AUPRO needs, for a group of metrics that share a state.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.
    """

    higher_is_better = False

    def __init__(
        self,
        *,
        tpr: float = 0.95,
        exact: bool = True,
        bins: int = 2**18,
        regions: bool = False,
        compute_on_cpu: bool = False,
        dist_sync_on_step: bool = False,
        process_group: Any = None,
        dist_sync_fn: Callable[..., Any] | None = None,
        distributed_available_fn: Callable[[], bool] | None = None,
        sync_on_compute: bool = True,
        compute_with_cache: bool = True,
    ) -> None:
        super().__init__(
            exact=exact, bins=bins, regions=regions, compute_on_cpu=compute_on_cpu,
            dist_sync_on_step=dist_sync_on_step, process_group=process_group, dist_sync_fn=dist_sync_fn,
            distributed_available_fn=distributed_available_fn, sync_on_compute=sync_on_compute,
            compute_with_cache=compute_with_cache,
        )  # fmt: skip
        self.tpr = check_share(tpr, "tpr")

    def _value(self, curve: Curve) -> Tensor:
        return _fpr_at_tpr(curve, self.tpr)


class EER(RankMetric):
    """Equal error rate, where the false-positive and false-negative rates meet. See :func:`equal_error_rate`."""

    higher_is_better = False

    def _value(self, curve: Curve) -> Tensor:
        return _equal_error_rate(curve)


class F1Max(RankMetric):
    """Best F1 over all thresholds. See :func:`f1_max`."""

    higher_is_better = True

    def _by_threshold(self, curve: Curve) -> Tensor:
        return _f1(curve)

    def _value(self, curve: Curve) -> Tensor:
        return self._by_threshold(curve).max()

    def threshold(self) -> Tensor:
        """Return the highest threshold that reaches the value; ``score >= threshold`` is anomalous.

        On several processes all of them must call it, as with ``compute``.
        """
        curve = both_labels(self.curve(), type(self).__name__)
        return curve.threshold[self._by_threshold(curve).argmax()]


class DiceMax(F1Max):
    """Best Dice coefficient of anomalous pixels over all thresholds; the same number as F1Max, by its pixel name."""


class IoUMax(F1Max):
    """Best intersection over union of anomalous pixels over all thresholds: TP / (TP + FP + FN)."""

    def _by_threshold(self, curve: Curve) -> Tensor:
        return _iou(curve)
