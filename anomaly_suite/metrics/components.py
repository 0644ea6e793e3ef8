"""Component metrics of the SegmentMeIfYouCan protocol: SIoU, PPV, MeanF1.

Paper: Chan et al., "SegmentMeIfYouCan: A Benchmark for Anomaly Segmentation", NeurIPS Datasets and Benchmarks 2021,
arXiv:2104.14812, section 3.2. Pixel metrics are ruled by large objects; here every object counts the same, and so does
every false alarm.

The metrics are of decisions, so a map needs a threshold. The protocol takes the one with the best pixel F1 on the same
images; that is a second pass over the maps (the callback ``ComponentMetrics`` makes both), the first being::

    best = F1Max(exact=False)
    best.update(*scored_pixels(anomaly_map, ood_mask))  # for every batch
    threshold = best.threshold()

and the second ``SIoU().update(anomaly_map >= threshold, ood_mask)``. All three metrics keep the same state.

Differs: the paper's inequalities are strict and so are ours; the benchmark's released code counts a component whose sIoU or
PPV equals the limit as found, and calls pixels anomalous whose score is above the threshold, not at it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anomaly_suite.codes import VOID
from anomaly_suite.errors import ConfigError, MetricUndefinedError, ShapeError
from anomaly_suite.metrics.base import SuiteMetric
from anomaly_suite.metrics.checks import as_bool

LIMITS = tuple(round(0.25 + 0.05 * step, 2) for step in range(11))  # tau of the paper: 0.25, 0.30, ..., 0.75


class Components(NamedTuple):
    """Values of all components of some images.

    ``siou`` has one value for each anomalous object, shape ``(K,)``, and ``ppv`` one for each predicted component, shape
    ``(J,)``; both in [0, 1], float64.
    """

    siou: Tensor
    ppv: Tensor


def component_values(
    decided: Tensor, ood_mask: Tensor, *, min_object: int = 100, min_predicted: int = 500
) -> Components:
    """Score every object by the adjusted IoU and every predicted component by its precision.

    Components are 8-connected. ``sIoU(k) = |k & P(k)| / |(k | P(k)) without A(k)|``, where ``P(k)`` is the union of the
    predicted components that touch the object ``k`` and ``A(k)`` are the pixels of all other objects, so that one prediction
    over two neighbouring objects is not held against either. ``PPV(j)`` is the share of a predicted component that lies on
    objects.

    As in the benchmark, pixels that are not scored are cut out of a prediction before it is split into components; then
    predicted components that are too small are dropped; then the pixels of objects that are too small count as not scored.

    Args:
        decided: True where the method says anomalous. Shape ``(B, H, W)`` or ``(B, 1, H, W)``.
        ood_mask: 0 normal, 1 anomalous, 255 not scored. Shape ``(B, H, W)``.
        min_object: Pixels of the smallest object that counts: 100 on the benchmark's anomaly track, 10 on its obstacle
            track and on Lost and Found.
        min_predicted: Pixels of the smallest predicted component that counts: 500, or 50 on the obstacle track.

    Returns:
        :class:`Components`, on the device of ``decided``.

    Raises:
        ShapeError: the shapes differ or are no maps.
        ValueError: ``decided`` holds something else than 0 and 1, or ``ood_mask`` than 0, 1 and 255.

    Example:
        >>> ood_mask = torch.tensor([[[1, 1, 0, 0, 0, 1]]], dtype=torch.uint8)
        >>> component_values(torch.tensor([[[0, 1, 1, 0, 0, 0]]]), ood_mask, min_object=1, min_predicted=1)
        Components(siou=tensor([0.3333, 0.0000], dtype=torch.float64), ppv=tensor([0.5000], dtype=torch.float64))
    """
    decided = decided.squeeze(1) if decided.ndim == 4 and decided.shape[1] == 1 else decided
    if decided.ndim != 3 or decided.shape != ood_mask.shape:
        raise ShapeError(
            "decisions and ood_mask must be maps of shape (B, H, W); got "
            f"{tuple(decided.shape)} and {tuple(ood_mask.shape)}. Resize the anomaly map to the labels before the threshold."
        )
    predicted = as_bool(decided, "a decision", "Apply the threshold first: score >= threshold.")
    scored = ood_mask != VOID
    truth = as_bool(ood_mask.where(scored, 0), "ood_mask", f"Only {VOID} besides, for pixels that are not scored.")
    none = torch.empty(0, dtype=torch.float64)
    values = [(none, none)]
    for parts in zip((predicted & scored).cpu(), truth.cpu(), strict=True):
        values.append(_one_image(*parts, min_object, min_predicted))
    return Components(*(torch.cat(column).to(decided.device) for column in zip(*values, strict=True)))


def _one_image(predicted_mask: Tensor, truth: Tensor, min_object: int, min_predicted: int) -> tuple[Tensor, Tensor]:
    """The sIoU of objects and PPV of predicted components of one image, (H, W) bool each, in memory of the host."""
    objects, object_area = _label(truth)
    predicted, predicted_area = _label(predicted_mask)
    either = truth | predicted_mask
    of_object, of_predicted = objects[either], predicted[either]  # numbers from 1; 0 is none
    of_predicted *= predicted_area[of_predicted] >= min_predicted
    large = (of_object == 0) | (object_area[of_object] >= min_object)
    numbers = len(predicted_area)
    pair, area = torch.unique((of_object * numbers + of_predicted)[large], return_counts=True)
    of_object, of_predicted = pair // numbers, pair % numbers
    object_area, predicted_area = of_object.bincount(area), of_predicted.bincount(area)
    touch = (of_object > 0) & (of_predicted > 0)
    of_object, of_predicted, area = of_object[touch], of_predicted[touch], area[touch]
    found = of_object.bincount(area, minlength=len(object_area))
    covered = of_predicted.bincount(area, minlength=len(predicted_area))
    # The union with P(k) without A(k) is k and what of P(k) lies on no object.
    beside = of_object.bincount((predicted_area - covered)[of_predicted], minlength=len(object_area))
    siou, ppv = found / (object_area + beside), covered / predicted_area  # NaN for numbers that are gone
    return siou[1:][object_area[1:] > 0], ppv[1:][predicted_area[1:] > 0]


def _label(image: Tensor) -> tuple[Tensor, Tensor]:
    """Number of the 8-connected component of each pixel, 0 for none, and the area of each; that of 0 is the rest."""
    import cv2
    import numpy as np

    _, labels, stats, _ = cv2.connectedComponentsWithStats(image.numpy().view(np.uint8), connectivity=8)
    return torch.from_numpy(labels).long(), torch.from_numpy(stats[:, cv2.CC_STAT_AREA]).long()


class ComponentMetric(SuiteMetric):
    """Shared state of the component metrics: sums over components, whose size does not depend on the number of images.

    ``update(decided, ood_mask)`` takes what :func:`component_values` takes, and raises as it does; ``compute`` returns a float64
    scalar in [0, 1] and raises MetricUndefinedError if the components it is about are missing.

    Args:
        min_object: Pixels of the smallest object that counts.
        min_predicted: Pixels of the smallest predicted component that counts.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: a size below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    siou_sum: Tensor
    ppv_sum: Tensor
    objects: Tensor
    predicted: Tensor
    found: Tensor
    false_alarms: Tensor

    def __init__(
        self,
        *,
        min_object: int = 100,
        min_predicted: int = 500,
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
        for name, size in (("min_object", min_object), ("min_predicted", min_predicted)):
            if size < 1:
                raise ConfigError(f"{name} must be at least 1 pixel; got {size}. Use 1 to count every component.")
        self.min_object = min_object
        self.min_predicted = min_predicted
        self._keep(min_object=min_object, min_predicted=min_predicted)
        for name in ("siou_sum", "ppv_sum"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("objects", "predicted"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("found", "false_alarms"):  # at each of LIMITS
            self.add_state(name, torch.zeros(len(LIMITS), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, decided: Tensor, ood_mask: Tensor) -> None:
        """Add decisions and their truth."""
        siou, ppv = component_values(decided, ood_mask, min_object=self.min_object, min_predicted=self.min_predicted)
        limits = siou.new_tensor(LIMITS)
        self.siou_sum = self.siou_sum + siou.sum()
        self.ppv_sum = self.ppv_sum + ppv.sum()
        self.objects = self.objects + len(siou)
        self.predicted = self.predicted + len(ppv)
        self.found = self.found + (siou[:, None] > limits).sum(dim=0)
        self.false_alarms = self.false_alarms + (ppv[:, None] <= limits).sum(dim=0)

    def compute(self) -> Tensor:
        """Return the value as a float64 scalar.

        Raises:
            MetricUndefinedError: the samples or components that it is about are missing.
        """
        self._check_kept()
        top, bottom = self._quotient()
        if not bool((bottom > 0).all()):
            raise MetricUndefinedError(
                f"{type(self).__name__} needs components; got {int(self.objects)} objects of at least {self.min_object} pixels "
                f"and {int(self.predicted)} predicted components of at least {self.min_predicted}. Lower the threshold of the "
                "maps or the sizes, or leave this metric out."
            )
        return (top.double() / bottom).mean()

    @abstractmethod
    def _quotient(self) -> tuple[Tensor, Tensor]:
        """Numerators and denominators; the value is the mean of the quotients."""


class SIoU(ComponentMetric):
    """Mean adjusted intersection over union of the anomalous objects. See :func:`component_values`."""

    def _quotient(self) -> tuple[Tensor, Tensor]:
        return self.siou_sum, self.objects


class PPV(ComponentMetric):
    """Mean share of a predicted component that lies on anomalous objects. See :func:`component_values`."""

    def _quotient(self) -> tuple[Tensor, Tensor]:
        return self.ppv_sum, self.predicted


class MeanF1(ComponentMetric):
    """F1 of components, averaged over the limits 0.25, 0.30, ..., 0.75. See :func:`component_values`.

    An object with an sIoU above the limit is found, another one missed; a predicted component with a PPV of at most the limit
    is a false alarm. The counts are of all images together.
    """

    def _quotient(self) -> tuple[Tensor, Tensor]:
        return 2 * self.found, self.found + self.objects + self.false_alarms
