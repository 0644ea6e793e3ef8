"""Pixel metrics of single scenes and their mean, as StreetHazards and BDD-Anomaly define them. Axes: B scenes, H and W pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError, MetricUndefinedError
from anomaly_suite.metrics.base import SuiteMetric
from anomaly_suite.metrics.ranking import auroc, average_precision, fpr_at_tpr
from anomaly_suite.metrics.scored import scored_pixels

OfImage = Literal["AUROC", "AP", "FPR95"]
FUNCTIONS: dict[OfImage, Callable[[Tensor, Tensor], Tensor]] = {
    "AUROC": auroc,
    "AP": average_precision,
    "FPR95": fpr_at_tpr,
}


class ImageMean(SuiteMetric):
    """Mean over scenes of the exact metric of each scene's scored pixels; scenes without both kinds of pixels are left out.

    A large anomaly counts as much as a small one, and scores need not be comparable between scenes: it is not the metric of all pixels
    in one ranking.

    Args:
        metric: ``AUROC``, ``AP`` or ``FPR95`` (at the highest threshold with a true-positive rate of at least 0.95).
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: another metric.

    Source:
        Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022.

    Example:
        >>> metric = ImageMean(metric="AUROC")
        >>> metric.update(torch.tensor([[[[0.0, 1.0]]], [[[1.0, 0.0]]], [[[9.0, 9.0]]]]), torch.tensor([[[0, 1]], [[0, 1]], [[0, 0]]]))
        >>> metric.compute()  # of 1 and 0; the third has no anomaly
        tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(
        self,
        *,
        metric: OfImage = "AUROC",
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
        if metric not in FUNCTIONS:
            raise ConfigError(f"metric of ImageMean must be one of {', '.join(get_args(OfImage))}; got {metric!r}.")
        self.metric: OfImage = metric
        self._keep(metric=metric)
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, anomaly_map: Tensor, ood_mask: Tensor) -> None:
        """Add scenes.

        Args:
            anomaly_map: Higher is more anomalous. Shape ``(B, 1, h, w)``; resized to the labels where the sizes differ.
            ood_mask: 0 normal, 1 anomalous, 255 not scored. Shape ``(B, H, W)``.

        Raises:
            ShapeError: the shapes are not as above.
            LabelError: ``ood_mask`` holds something else.
        """
        for index in range(len(ood_mask)):
            score, truth = scored_pixels(anomaly_map[index : index + 1], ood_mask[index : index + 1])
            if truth.any() and not truth.all():
                self.total += FUNCTIONS[self.metric](score, truth).to(self.total)
                self.count += 1

    def compute(self) -> Tensor:
        """The mean, in [0, 1], float64.

        Raises:
            MetricUndefinedError: no scene has both kinds of pixels.
        """
        self._check_kept()
        if not self.count:
            raise MetricUndefinedError(f"{self.metric} needs a scene with normal and anomalous pixels; there is none.")
        return self.total / self.count

    def error_bound(self) -> Tensor:
        """Every scene is ranked exactly: 0."""
        return torch.zeros((), dtype=torch.float64)
