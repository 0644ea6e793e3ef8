"""AUPRO: the area under the per-region overlap curve.

Paper: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021, section 5.2. Every anomalous region counts
the same, whatever its size: at a threshold, the overlap is the mean over regions of the share of the region found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics.checks import check_pairs, check_share
from anomaly_suite.metrics.curve import Curve, both_labels, make_curve, partial_area
from anomaly_suite.metrics.regions import region_weights
from anomaly_suite.metrics.state import RankMetric


def _aupro(curve: Curve, max_fpr: float) -> Tensor:
    area = partial_area(curve.false, curve.overlap, max_fpr * float(curve.false[-1]))
    return area / (max_fpr * curve.false[-1] * curve.overlap[-1])


def aupro(anomaly_map: Tensor, mask: Tensor, *, max_fpr: float = 0.3) -> Tensor:
    """Area under the mean region overlap over the false-positive rate from 0 to ``max_fpr``, divided by ``max_fpr``.

    Regions are 8-connected. The false-positive rate is over the normal pixels of all maps. The curve has one point per
    distinct score and straight lines between them; at ``max_fpr`` it is interpolated.

    Args:
        anomaly_map: Higher is more anomalous; any scale, finite. Shape ``(B, 1, H, W)`` or ``(B, H, W)``.
        mask: 1 or True is anomalous. Shape of ``anomaly_map``.
        max_fpr: Where the integration ends, in (0, 1].

    Returns:
        Scalar in [0, 1], float64.

    Raises:
        ShapeError: the shapes differ or are no maps.
        ValueError: ``mask`` holds something else than 0 and 1.
        NotFiniteError: a score is NaN or infinite.
        MetricUndefinedError: there is no anomalous or no normal pixel.

    Example:
        >>> aupro(torch.tensor([[[0.1, 0.2, 0.8, 0.9]]]), torch.tensor([[[0, 0, 1, 1]]]))
        tensor(1., dtype=torch.float64)
    """
    anomaly_map, truth = check_pairs(anomaly_map, mask)
    weight = torch.zeros_like(truth, dtype=torch.float64).masked_scatter_(truth, region_weights(truth))
    flat = truth.flatten().long()
    curve = both_labels(make_curve(anomaly_map.flatten(), flat, 1 - flat, weight.flatten()), "AUPRO")
    return _aupro(curve, check_share(max_fpr, "max_fpr"))


class AUPRO(RankMetric):
    """Area under the per-region overlap curve up to a false-positive rate. See :func:`aupro`.

    Args:
        max_fpr: Where the integration ends, in (0, 1].
        exact, bins: See :class:`RankMetric`.
        regions: Always on; taken so that all rank metrics have the same options.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: on ``compute``, if the first metric of the compute group kept no regions.
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        max_fpr: float = 0.3,
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
            exact=exact, bins=bins, regions=True, compute_on_cpu=compute_on_cpu, dist_sync_on_step=dist_sync_on_step,
            process_group=process_group, dist_sync_fn=dist_sync_fn, distributed_available_fn=distributed_available_fn,
            sync_on_compute=sync_on_compute, compute_with_cache=compute_with_cache,
        )  # fmt: skip
        self.max_fpr = check_share(max_fpr, "max_fpr")

    def _check_kept(self) -> None:
        if not self._reads(held := self._held()) and self._reads(held.replace("regions=False", "regions=True")):
            raise ConfigError(
                "AUPRO needs region weights; the first metric of its compute group kept none. Put AUPRO first in the "
                "group or pass regions=True to the first metric."
            )
        super()._check_kept()

    def _value(self, curve: Curve) -> Tensor:
        return _aupro(curve, self.max_fpr)
