"""Calibration errors ECE and MCE: how far confidence is from the share of correct answers, on average and at worst.

Both are of probabilities. Raw scores are refused and never squashed into [0, 1], because which function does that decides
the value. torchmetrics has the same metrics, but keeps every probability (20 GB for the pixels of 1,203 driving scenes),
counts in float32, which stops at 16.8 million, and squashes what is not in [0, 1]; so only its definition is used, in the
tests.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomaly_suite.codes import OUTLIER
from anomaly_suite.errors import ConfigError, LabelError, MetricUndefinedError, ShapeError
from anomaly_suite.metrics.base import SuiteMetric

CHUNK = 1 << 16  # pixels counted at a time, which stay in the cache
NEAR = (
    1e-12  # of the width of a bin: the edge between two is exact, the product of a value and the number of bins is not
)
ROUNDING = 0.02  # class probabilities in bfloat16 add up to 1 within this


class Reliability(NamedTuple):
    """Bins of equal width, ``((m - 1) / M, m / M]`` for the m-th of M; 0 is in the first.

    ``answers`` int64 in each, ``correct`` int64 of them correct, ``confidence`` the float64 sum of confidences; shape ``(M,)``.
    """

    answers: Tensor
    correct: Tensor
    confidence: Tensor

    @property
    def gap(self) -> Tensor:
        """Absolute difference of mean confidence and share of correct answers; 0 in an empty bin."""
        return (self.confidence - self.correct).abs() / self.answers.clamp(min=1)


def reliability(probability: Tensor, target: Tensor, *, bins: int = 15) -> Reliability:
    """Count answers and correct answers by confidence.

    Args:
        probability: Either of anomaly, in the shape of ``target``: the confidence is the probability and an anomalous pixel
            is a correct answer. Or of K classes, shape ``(B, K, ...)`` for a target ``(B, ...)``, such as a softmax: the
            confidence is the highest, and correct where it is that of the target.
        target: 1 or True is anomalous; or the class, 0 to K - 1. 254 and 255 are left out. Any shape.
        bins: Number of bins.

    Returns:
        :class:`Reliability`, on the device of ``probability``.

    Raises:
        ConfigError: no bin.
        ShapeError: the shapes fit neither form.
        LabelError: ``probability`` is outside [0, 1] or does not add up to 1 over the classes; an unknown target.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equations 2 to 5.
    """
    _check_bins(bins)
    of_classes = probability.ndim == target.ndim + 1
    if (probability.shape[:1] + probability.shape[2:] if of_classes else probability.shape) != target.shape:
        raise ShapeError(
            "probability must have the shape of target, or (B, K, ...) for a target (B, ...); got "
            f"{tuple(probability.shape)} and {tuple(target.shape)}. Resize the probabilities to the labels first."
        )
    confidence, known = probability.detach(), 2
    answer: Tensor | int = 1
    if confidence.numel() and not bool((confidence.min() >= 0) & (confidence.max() <= 1)):
        raise LabelError(
            f"probabilities must be in [0, 1]; got {float(confidence.min()):.4g} to {float(confidence.max()):.4g}. "
            "Raw scores are not squashed here: apply softmax or sigmoid first if the score is a logit."
        )
    if of_classes:
        known, total = probability.shape[1], confidence.sum(dim=1, dtype=torch.float32)
        if bool(((total - 1).abs() > ROUNDING).any()):
            raise LabelError(
                f"probabilities of the classes must add up to 1; got {float(total.min()):.4g} to {float(total.max()):.4g}. "
                "Pass a softmax over axis 1."
            )
        confidence, answer = confidence.max(dim=1)
    scored = target < OUTLIER
    classes = target.masked_fill(~scored, 0)
    lowest, highest = (int(end) for end in classes.aminmax()) if classes.numel() else (0, 0)
    if not 0 <= lowest <= highest < known:
        raise LabelError(
            f"target must be 0 to {known - 1}, or {OUTLIER} or above for void; got {lowest} to "
            f"{highest}. Translate the labels of the data set when it is read."
        )
    # Wrong answers, right ones and what is not scored are counted together: selecting them takes longer than counting.
    counts = torch.zeros(3 * bins, dtype=torch.int64, device=confidence.device)
    total = torch.zeros(3 * bins, dtype=torch.float64, device=confidence.device)
    columns = (torch.split(part.flatten(), CHUNK) for part in (confidence, target == answer, scored))
    for few, right, kept in zip(*columns, strict=True):
        values = few.double()
        index = _bin_of(values, bins).add_(right.int().masked_fill_(~kept, 2), alpha=bins)
        counts += index.bincount(minlength=3 * bins)
        total.index_add_(0, index, values)
    (wrong, right, _), (low, high, _) = counts.view(3, bins), total.view(3, bins)
    return Reliability(answers=wrong + right, correct=right.clone(), confidence=low + high)


def _bin_of(values: Tensor, bins: int) -> Tensor:
    """Number of the bin of every value in [0, 1], as int32: where a value is near an edge by search, elsewhere by a product."""
    scaled = values * bins
    index = scaled.ceil().sub_(1).clamp_(0, bins - 1).int()
    near = ((scaled - scaled.round()).abs_() < NEAR) & (values < 1)
    if bool(near.any()):
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=values.device)[1:-1]
        index[near] = torch.bucketize(values[near], edges, out_int32=True)
    return index


def expected_calibration_error(probability: Tensor, target: Tensor, *, bins: int = 15) -> Tensor:
    """Mean over answers of the gap between confidence and share of correct answers in their bin.

    Args:
        probability: Shape (N, ...) or (B, K, ...), as in :func:`reliability`, whose errors are these, too.
        target: Shape (N, ...) or (B, ...).
        bins: Of equal width.

    Returns:
        Scalar in [0, 1], float64.

    Raises:
        MetricUndefinedError: nothing is scored.

    Example:
        >>> expected_calibration_error(torch.tensor([0.7, 0.9, 0.9, 0.9]), torch.tensor([1, 1, 1, 0]), bins=2)
        tensor(0.1000, dtype=torch.float64)
    """
    return _expected(_filled(reliability(probability, target, bins=bins), "ECE"))


def maximum_calibration_error(probability: Tensor, target: Tensor, *, bins: int = 15) -> Tensor:
    """Largest gap between confidence and share of correct answers of a bin. See :func:`expected_calibration_error`.

    Args:
        probability: Shape (N, ...) or (B, K, ...).
        target: Shape (N, ...) or (B, ...).
        bins: Of equal width.

    Example:
        >>> maximum_calibration_error(torch.tensor([0.1, 0.9, 0.9]), torch.tensor([1, 1, 1]), bins=2)
        tensor(0.9000, dtype=torch.float64)
    """
    return _filled(reliability(probability, target, bins=bins), "MCE").gap.max()


def _check_bins(bins: int) -> int:
    if bins < 1:
        raise ConfigError(f"bins must be positive; got {bins}. 15 is usual.")
    return bins


def _expected(bins: Reliability) -> Tensor:
    return (bins.gap * bins.answers).sum() / bins.answers.sum()


def _filled(bins: Reliability, name: str) -> Reliability:
    if not int(bins.answers.sum()):
        raise MetricUndefinedError(
            f"{name} needs scored samples; got none. Evaluate on data with labels or leave this metric out."
        )
    return bins


class CalibrationMetric(SuiteMetric):
    """Shared state of ECE and MCE: the bins of :func:`reliability`, of all updates and processes together.

    Args:
        bins: Number of bins.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: no bin.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    answers: Tensor
    correct: Tensor
    confidence: Tensor

    def __init__(
        self,
        *,
        bins: int = 15,
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
        self.bins = _check_bins(bins)
        for name, dtype in (("answers", torch.int64), ("correct", torch.int64), ("confidence", torch.float64)):
            self.add_state(name, torch.zeros(bins, dtype=dtype), dist_reduce_fx="sum")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add probabilities and their truth."""
        bins = reliability(probability, target, bins=self.bins)
        for name, values in bins._asdict().items():
            setattr(self, name, getattr(self, name) + values)

    def curve(self) -> Reliability:
        """Return the bins, for a reliability diagram; on several processes this one's alone."""
        return Reliability(self.answers, self.correct, self.confidence)

    def compute(self) -> Tensor:
        """Return the value as a float64 scalar."""
        return self._value(_filled(self.curve(), type(self).__name__))

    @abstractmethod
    def _value(self, bins: Reliability) -> Tensor:
        """Value of bins that are not all empty."""


class ECE(CalibrationMetric):
    """Expected calibration error. See :func:`expected_calibration_error`."""

    def _value(self, bins: Reliability) -> Tensor:
        return _expected(bins)


class MCE(CalibrationMetric):
    """Maximum calibration error, of the worst bin. See :func:`maximum_calibration_error`."""

    def _value(self, bins: Reliability) -> Tensor:
        return bins.gap.max()
