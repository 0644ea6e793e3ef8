"""The state shared by all rank metrics, every score or a sketch of them, and the curve that both end in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from anomaly_suite.errors import ConfigError, MetricUndefinedError
from anomaly_suite.metrics.base import SuiteMetric
from anomaly_suite.metrics.checks import check_pairs
from anomaly_suite.metrics.regions import region_weights
from anomaly_suite.metrics.sketch import (
    CHUNK,
    PREFIXES,
    Rows,
    bin_of,
    file_pixels,
    file_rows,
    prefix_of,
    refine_depth,
    scores_of,
    sort_keys,
)


class Curve(NamedTuple):
    """What is scored at least ``threshold``, for each of K distinct thresholds from the highest down.

    ``true`` and ``false`` count anomalous and normal samples, ``overlap`` sums region weights; float64, shape ``(K,)``.
    """

    threshold: Tensor
    true: Tensor
    false: Tensor
    overlap: Tensor


def make_curve(position: Tensor, positive: Tensor, negative: Tensor, weight: Tensor) -> Curve:
    """Sort by position, highest first, and count; equal positions are tied and become one point.

    Args:
        position: Where each of N rows stands, shape (N,).
        positive: Its anomalous samples, shape (N,).
        negative: Its normal samples, shape (N,).
        weight: Its region weights, shape (N,).
    """
    if bool((position[1:] > position[:-1]).any()):
        position, order = position.sort(descending=True, stable=True)
        positive, negative, weight = (column.index_select(0, order) for column in (positive, negative, weight))
    last = torch.ones_like(position, dtype=torch.bool)
    last[:-1] = position[1:] != position[:-1]
    point = last.nonzero().squeeze(1)
    counts = (column.cumsum(0).index_select(0, point).double() for column in (positive, negative, weight))
    return Curve(position.index_select(0, point), *counts)


def both_labels(curve: Curve, name: str) -> Curve:
    """Return ``curve`` if it has normal and anomalous samples.

    Raises:
        MetricUndefinedError: one label is missing.
    """
    anomalous, normal = (int(count[-1]) if len(count) else 0 for count in (curve.true, curve.false))
    if not anomalous or not normal:
        raise MetricUndefinedError(
            f"{name} needs normal and anomalous samples; got {normal} normal and {anomalous} anomalous. "
            "Evaluate on data with both labels or leave this metric out."
        )
    return curve


def partial_area(x: Tensor, y: Tensor, limit: float) -> Tensor:
    """Integrate the line from (0, 0) through the points over x from 0 to ``limit``.

    Args:
        x: Shape (K,); must not fall.
        y: Shape (K,).
        limit: End of the integral.
    """
    x, y = torch.nn.functional.pad(x, (1, 0)), torch.nn.functional.pad(y, (1, 0))
    end = int((x <= limit).sum())
    if end < len(x):
        slope = (y[end] - y[end - 1]) / (x[end] - x[end - 1])
        y = torch.cat([y[:end], (y[end - 1] + slope * (limit - x[end - 1]))[None]])
        x = torch.cat([x[:end], x.new_tensor([limit])])
    return (x.diff() * (y[1:] + y[:-1])).sum() / 2


STATES = {  # what a process gathers from the others; a process without data gathers empty tensors of the same types
    True: {"score": torch.float64, "target": torch.uint8, "weight": torch.float64},
    False: dict(zip(Rows._fields, (column.dtype for column in Rows.empty(0)), strict=True)),
}


class RankMetric(SuiteMetric):
    """Shared state of all rank metrics: every score, or a sketch of them.

    All subclasses take the same ``update(score, target)`` and keep the same state, so a ``MetricCollection`` whose
    ``compute_groups`` names them in one group updates one state for all. The first metric of the group does the work:
    with an ``AUPRO`` in the group, put it first or pass ``regions=True`` to the first.

    ``update`` takes scores and targets of one shape, any shape unless ``regions`` is on: then ``(B, 1, H, W)`` or
    ``(B, H, W)``. It raises as :func:`auroc` does; ``compute`` raises MetricUndefinedError where there is no value.

    Args:
        exact: Keep every score, in its own dtype. False keeps a sketch of bounded size (32 bytes for each of at
            most ``2 * bins + 65536`` rows), reads scores as float32, and has a non-zero ``error_bound``.
        bins: Rows the sketch aims at; read only if ``exact`` is False.
        regions: Also keep what AUPRO needs.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: ``bins`` is not positive.
    """

    is_differentiable = False
    full_state_update = False  # rows of two states may simply be put together

    score: list[Tensor]
    target: list[Tensor]
    weight: list[Tensor]
    low: list[Tensor]
    depth: Tensor
    mass: Tensor

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
        super().__init__(
            compute_on_cpu=compute_on_cpu,
            dist_sync_on_step=dist_sync_on_step,
            process_group=process_group,
            dist_sync_fn=dist_sync_fn,
            distributed_available_fn=distributed_available_fn,
            sync_on_compute=sync_on_compute,
            compute_with_cache=compute_with_cache,
        )
        if bins < 1:
            raise ConfigError(f"bins must be positive; got {bins}. The default, {2**18}, keeps errors near 1e-5.")
        self.exact = exact
        self.bins = bins
        self.regions = regions
        for name in STATES[exact]:
            self.add_state(name, [], dist_reduce_fx="cat")
        if not exact:
            self.add_state("depth", torch.zeros(PREFIXES, dtype=torch.int32), dist_reduce_fx="max")
            self.add_state("mass", torch.zeros(2, PREFIXES, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, score: Tensor, target: Tensor) -> None:
        """Add scores and their truth (anomaly maps and masks for pixels)."""
        score = score.detach() if self.exact else score.detach().float()
        target = check_pairs(score, target)
        weight = region_weights(target) if self.regions else None
        score, target = score.flatten(), target.flatten()
        if self.exact:
            self.score.append(score)
            self.target.append(target)
            if weight is not None:
                self.weight.append(torch.zeros_like(score, dtype=torch.float64).masked_scatter_(target, weight))
            return
        for start in range(0, len(score), CHUNK):
            positive = target[start : start + CHUNK].nonzero().squeeze(1)
            part = None
            if weight is not None:
                part, weight = weight[: len(positive)], weight[len(positive) :]
            self._file(sort_keys(score[start : start + CHUNK]), positive, part)

    def _file(self, key: Tensor, positive: Tensor, weight: Tensor | None) -> None:
        prefix = prefix_of(key)
        anomalous = prefix.index_select(0, positive).bincount(minlength=PREFIXES)
        self.mass = self.mass + torch.stack([prefix.bincount(minlength=PREFIXES) - anomalous, anomalous])
        depth = refine_depth(self.depth, self.mass, bins=self.bins)
        if depth is not self.depth or len(self.low) != 1:  # to be refined, fresh, or merged from several metrics
            for name, column in file_rows(self._rows(), depth)._asdict().items():
                setattr(self, name, [column])
            self.depth = depth
        file_pixels(self._rows(), bin_of(key, prefix, depth), key, positive, weight)

    def _column(self, name: str) -> Tensor:
        """One state as a single tensor; synchronised states are tensors, others lists."""
        state: Tensor | list[Tensor] = getattr(self, name)
        if isinstance(state, Tensor):
            return state
        if len(state) == 1:
            return state[0]
        return torch.cat(state) if state else torch.empty(0, dtype=STATES[self.exact][name], device=self.device)

    def _rows(self) -> Rows:
        return Rows(*(self._column(name) for name in Rows._fields))

    def _sync_dist(
        self, dist_sync_fn: Callable[..., list[Tensor]] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        for name, dtype in STATES[self.exact].items():
            setattr(self, name, [self._column(name).to(dtype)])
        super()._sync_dist(dist_sync_fn, process_group)

    def _curve(self) -> Curve:
        """Points of the exact curve, or of the sketch: a row is a tie at the middle of its scores."""
        if not self.exact:
            rows = Rows(*(column.flip(0) for column in self._rows().occupied()))
            return make_curve(rows.middle, rows.positive, rows.total - rows.positive, rows.weight)
        target, weight = self._column("target").long(), self._column("weight")
        return make_curve(
            self._column("score"), target, 1 - target, weight if len(weight) else torch.zeros_like(target)
        )

    def curve(self) -> Curve:
        """Return the counts at every distinct score, from the highest down; one label or no sample at all is fine.

        From a sketch, a row counts as a tie at its lowest score. On several processes all of them must call it.
        """
        with self.sync_context(self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync):
            if self.exact:
                return self._curve()
            rows = self._rows().occupied()
            curve = make_curve(rows.low, rows.positive, rows.total - rows.positive, rows.weight)
            return curve._replace(threshold=scores_of(curve.threshold))

    def compute(self) -> Tensor:
        """Return the value as a float64 scalar."""
        return self._value(both_labels(self._curve(), type(self).__name__))

    def error_bound(self) -> Tensor:
        """Return how far ``compute`` can at most be from the exact value of the same float32 scores.

        Certified (proof in ``sketch.py``) up to the rounding of float64; 0 if ``exact``. On several processes all of
        them must call it, as with ``compute``.
        """
        if self.exact:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        with self.sync_context(self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync):
            value = self._value(both_labels(self._curve(), type(self).__name__))
            bracket = self._bracket(self._rows().occupied())
        return (torch.stack(bracket) - value).abs().max()

    @abstractmethod
    def _value(self, curve: Curve) -> Tensor:
        """Value of a curve with both labels."""

    def _bracket(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Values of the pessimistic and of the optimistic arrangement."""
        return self._value(arrange(rows, pessimistic=True)), self._value(arrange(rows, pessimistic=False))


def arrange(rows: Rows, *, pessimistic: bool) -> Curve:
    """Move the anomalous samples of every row to its lowest score and the normal ones to its highest, or the reverse.

    Keys are spread by a factor 4: a row of one score stays at ``4 * key`` and keeps its true ties; the others go just
    above or below, at ``4 * high + 1`` and ``4 * low - 1``.
    """
    spread = (rows.low != rows.high).long()
    ends = (4 * rows.low.long() - spread, 4 * rows.high.long() + spread)
    none = torch.zeros_like(rows.total)
    position = torch.stack(ends if pessimistic else ends[::-1], dim=1)
    positive = torch.stack([rows.positive, none], dim=1)
    negative = torch.stack([none, rows.total - rows.positive], dim=1)
    weight = torch.stack([rows.weight, torch.zeros_like(rows.weight)], dim=1)
    return make_curve(*(column.flatten().flip(0) for column in (position, positive, negative, weight)))
