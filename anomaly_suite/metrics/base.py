"""What every metric has in common: the options of torchmetrics, and states that are never mixed up, cast or lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.exceptions import TorchMetricsUserError
from typing_extensions import Self

from anomaly_suite.errors import ConfigError, MetricUndefinedError
from anomaly_suite.options import ChecksOptions


class SuiteMetric(ChecksOptions, Metric):
    """A ``torchmetrics.Metric`` whose options are spelled out.

    Calling the metric, ``metric(score, target)``, adds a batch and returns the value of that batch alone: NaN where it has
    none, such as an AUROC of one label. ``compute`` raises MetricUndefinedError instead. A batch that is refused leaves no trace.

    A ``MetricCollection`` unites metrics whose states look alike after the first batch. Options that shape the state are
    therefore a part of it (``kept``), so that two metrics of unequal options never become one.

    The states keep their types when a module is cast, as in ``module.half()``: rounded scores would have another order.

    Args:
        compute_on_cpu: Move states that are lists to the CPU after every update.
        dist_sync_on_step: Synchronise the processes in every ``forward``.
        process_group: Processes that synchronise; all if None.
        dist_sync_fn: How states are gathered; ``torch.distributed`` if None.
        distributed_available_fn: Tells whether there are several processes; asks ``torch.distributed`` if None.
        sync_on_compute: Synchronise the processes in ``compute``.
        compute_with_cache: Keep the value of ``compute`` until the next update.
    """

    kept: Tensor  # if there are options that shape the state

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

    def __getnewargs__(self) -> tuple[()]:
        """Copies are made without arguments: torchmetrics would give text that is no option."""
        return ()

    def _keep(self, **options: object) -> None:
        """Declare the options that shape the state, as a state."""
        text = ", ".join(f"{name}={value}" for name, value in options.items())
        # The bytes of a text: numbers would be compared with a tolerance.
        self.add_state("kept", torch.tensor(list(text.encode()), dtype=torch.uint8), dist_reduce_fx="max")

    def _check_kept(self) -> None:
        """Refuse to compute from the state of a metric with other options.

        Raises:
            ConfigError: the options that shape the state are not those it was kept with.
        """
        if not self._reads(held := self._held()):
            raise ConfigError(
                f"{type(self).__name__} needs a state kept with {self._wanted()}; got one kept with {held}. Give it a compute group "
                "of its own, or the same options."
            )

    def _held(self) -> str:
        return _text(self.kept)

    def _wanted(self) -> str:
        return _text(self._defaults["kept"])

    def _reads(self, held: str) -> bool:
        """Whether the value can be computed from a state that was kept with these options."""
        return held == self._wanted()

    def _alone(self) -> Self:
        """The same metric without data, for a single batch."""
        single = copy.copy(self)
        for name, default in self._defaults.items():
            setattr(single, name, default.clone() if isinstance(default, Tensor) else [])
        single._update_count = 0
        single._computed = single._forward_cache = single._cache = None
        single.compute_on_cpu = False
        single.sync_on_compute = single._to_sync = self.dist_sync_on_step
        return single

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Add a batch and return its own value; NaN if it has none."""
        if self._is_synced:
            raise TorchMetricsUserError(
                "forward needs the state of one process; got a synchronised one. Call metric.unsync() first."
            )
        single = self._alone()
        single.update(*args, **kwargs)
        try:
            value: Tensor = single.compute()
        except MetricUndefinedError:
            value = torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        self._add_states(single.metric_state)
        self._update_count += 1
        self._computed = None
        self._forward_cache = value  # type: ignore[assignment] # torchmetrics types it by its first value
        if self.compute_on_cpu:
            self._move_list_states_to_cpu()
        return value

    def _add_states(self, incoming: dict[str, Any]) -> None:
        """Add another state of the same options to this one."""
        lists = {name: [incoming[name]] for name in incoming if isinstance(getattr(self, name), list)}
        parts = {name: part for name, part in lists.items() if isinstance(part[0], Tensor)}
        with torch.no_grad():
            self._reduce_states({**incoming, **parts, **({"kept": self.kept} if "kept" in incoming else {})})

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the state of another metric of the class, or its ``metric_state``; the other stays as it is.

        Raises:
            ConfigError: it was kept with other options, or is of another kind of metric.
        """
        if not isinstance(incoming_state, (dict, type(self))):
            raise ConfigError(
                f"{type(self).__name__} merges the state of another {type(self).__name__}; got {type(incoming_state).__name__}. "
                "Merge metrics of one class."
            )
        incoming = copy.deepcopy(incoming_state if isinstance(incoming_state, dict) else incoming_state.metric_state)
        if incoming.keys() != self._defaults.keys():
            raise ConfigError(
                f"{type(self).__name__} merges states with {', '.join(self._defaults)}; got {', '.join(incoming)}. Merge metrics "
                "of one class and of the same options."
            )
        if "kept" in incoming and not self._merges(held := _text(incoming["kept"])):
            raise ConfigError(
                f"{type(self).__name__} merges states kept with {self._wanted()}; got {held}. Merge metrics of the same options."
            )
        self._add_states(incoming)
        self._update_count += 1 if isinstance(incoming_state, dict) else incoming_state._update_count
        self._computed = None  # of before

    def _merges(self, held: str) -> bool:
        """Whether a state that was kept with these options may be added."""
        return held == self._wanted()

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any) -> Self:
        def moved(state: Tensor) -> Tensor:
            result = fn(state)
            return result if result.dtype == state.dtype else state.to(result.device)

        super()._apply(moved, *args)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._computed = None  # of before


def _text(kept: Any) -> str:
    return bytes(kept.tolist()).decode()
