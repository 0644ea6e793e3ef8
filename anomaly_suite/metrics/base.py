"""The options of torchmetrics that every metric takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchmetrics import Metric

from anomaly_suite.options import ChecksOptions


class SuiteMetric(ChecksOptions, Metric):
    """A ``torchmetrics.Metric`` whose options are spelled out.

    Args:
        compute_on_cpu: Move states that are lists to the CPU after every update.
        dist_sync_on_step: Synchronise the processes in every ``forward``.
        process_group: Processes that synchronise; all if None.
        dist_sync_fn: How states are gathered; ``torch.distributed`` if None.
        distributed_available_fn: Tells whether there are several processes; asks ``torch.distributed`` if None.
        sync_on_compute: Synchronise the processes in ``compute``.
        compute_with_cache: Keep the value of ``compute`` until the next update.
    """

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
        given = {} if distributed_available_fn is None else {"distributed_available_fn": distributed_available_fn}
        super().__init__(
            compute_on_cpu=compute_on_cpu,
            dist_sync_on_step=dist_sync_on_step,
            process_group=process_group,
            dist_sync_fn=dist_sync_fn,
            sync_on_compute=sync_on_compute,
            compute_with_cache=compute_with_cache,
            **given,
        )
