"""The state shared by all rank metrics: every score, or a sketch of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics.base import SuiteMetric
from anomaly_suite.metrics.checks import check_integers, check_pairs
from anomaly_suite.metrics.curve import Curve as Curve
from anomaly_suite.metrics.curve import arrange, both_labels, ranked
from anomaly_suite.metrics.curve import make_curve as make_curve
from anomaly_suite.metrics.regions import region_weights
from anomaly_suite.metrics.sketch import Rows, Sketch, keys_of, scores_of

CHUNK = 1 << 19  # samples that wait until they are filed together: each filing has a cost of its own
FEW = 1 << 16  # samples of the tensors that are united, so that many small updates are no list of many small tensors
SAMPLES = {"score": torch.float64, "target": torch.uint8, "weight": torch.float64}
ROWS = {
    f"row_{name}": column.dtype
    for name, column in Rows.empty(0, dtype=torch.int64, count=torch.int64)._asdict().items()
}


class Tables(list[Tensor]):
    """A state of rows, and the sketch they are from: whoever shares this list may add to it, in place.

    A copy of the list has no sketch, so that a table in two lists is not changed.
    """

    sketch: Sketch | None = None


class RankMetric(SuiteMetric):
    """Shared state of all rank metrics: every score, or a sketch of them.

    All subclasses take the same ``update(score, target)`` and keep the same state, so a ``MetricCollection`` whose
    ``compute_groups`` names them in one group updates one state for all. The first metric of the group does the work:
    with an ``AUPRO`` in the group, put it first or pass ``regions=True`` to the first. Without ``compute_groups``, those
    with the same ``exact``, ``bins`` and ``regions`` share a state.

    ``update`` takes scores and targets of one shape, any shape unless ``regions`` is on: then ``(B, 1, H, W)`` or
    ``(B, H, W)``. Scores may be of any real type, another one in every update; they are compared as they are and never rounded.
    It raises as :func:`auroc` does, and ValueError for integers above 2**53, beyond which float64 has gaps; ``compute``
    raises MetricUndefinedError where there is no value.

    Args:
        exact: Keep a copy of every score, in its own dtype. False keeps up to ``bins`` scores (at most half a million) and turns to a
            sketch of bounded size when there are more: 24 bytes for each of at most ``2 * bins + 65536`` rows, 32 where float32
            does not hold the scores, and up to half a million samples that wait to be filed. It has a non-zero ``error_bound`` then.
        bins: Rows the sketch aims at; read only if ``exact`` is False.
        regions: Also keep what AUPRO needs.
        compute_on_cpu ... compute_with_cache: Options of torchmetrics, see :class:`~anomaly_suite.metrics.base.SuiteMetric`.

    Raises:
        ConfigError: ``bins`` is not positive.
    """

    is_differentiable = False
    full_state_update = False  # samples and rows of two states may simply be put together

    score: list[Tensor]
    target: list[Tensor]
    weight: list[Tensor]
    row_total: list[Tensor]

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
        # The first state: older torchmetrics compares no other when it looks for metrics that can share theirs.
        self._keep(exact=exact, regions=regions, **({} if exact else {"bins": bins}))
        for name in self._types():
            self.add_state(name, [], dist_reduce_fx="cat")

    def _types(self) -> dict[str, torch.dtype]:
        """What a process gathers from the others; one without data gathers empty tensors of the same types."""
        return SAMPLES if self.exact else SAMPLES | ROWS

    def _reads(self, held: str) -> bool:
        same = held.startswith(f"exact={self.exact}, ")
        return same and (not self.regions or "regions=True" in held)

    def _merges(self, held: str) -> bool:
        return held.partition(", bins")[0] == self._wanted().partition(", bins")[0]

    # Update ------------------------------------------------------------------------------------------------------

    def update(self, score: Tensor, target: Tensor) -> None:
        """Add scores and their truth (anomaly maps and masks for pixels)."""
        if self._is_synced:
            raise TorchMetricsUserError(
                "update needs the state of one process; got a synchronised one. Call metric.unsync() first."
            )
        score, target = check_pairs(score, target)
        score = check_integers(score.detach())
        weight = region_weights(target) if self.regions else None
        score, target = score.flatten(), target.flatten().to(score.device)
        with torch.inference_mode(False):  # what is made in inference mode could not be changed outside
            if not self.exact and not isinstance(self.row_total, Tables):
                self._detach()
            while len(score):
                room = len(score) if self.exact else CHUNK - self._waiting()
                waits = self.exact or room > len(score)
                self._store("score", score[:room], copy=waits)
                self._store("target", target[:room], copy=waits)
                if weight is not None:
                    positives = int(target[:room].sum())
                    self._store("weight", weight[:positives], copy=waits)
                    weight = weight[positives:]
                score, target = score[room:], target[room:]
                if not waits:
                    self._file()

    def _list(self, name: str) -> list[Tensor]:
        """A state to be changed in place, so that all metrics that share it see the change."""
        state: Tensor | list[Tensor] = getattr(self, name)
        if isinstance(state, Tensor):  # loaded as it was synchronised
            state = [state]
            setattr(self, name, state)
        return state

    def _waiting(self) -> int:
        return sum(len(part) for part in self._list("score"))

    def _store(self, name: str, part: Tensor, *, copy: bool) -> None:
        """Keep a part; as a copy if it stays, since it may be a view of something large or of a buffer that is used again."""
        parts = self._list(name)
        parts.append(part.clone() if copy else part)
        while len(parts) > 1 and len(parts[-2]) <= len(parts[-1]) and len(parts[-2]) + len(parts[-1]) <= FEW:
            if parts[-2].dtype != parts[-1].dtype or parts[-2].device != parts[-1].device:
                return
            parts[-2:] = [torch.cat(parts[-2:])]

    def _file(self) -> None:
        """Move the samples that wait into the sketch."""
        score, target, weight = (self._column(name) for name in SAMPLES)
        rows = self.row_total if isinstance(self.row_total, Tables) else self._detach()
        table = [self._list(name) for name in ROWS]
        sketch = rows.sketch
        if sketch is None or not all(len(a) == 1 and a[0] is b for a, b in zip(table, sketch.table, strict=True)):
            sketch = Sketch(self._rows().to(score.device) if rows else Rows.empty(0), bins=self.bins)
        for name in self._types():
            self._list(name).clear()  # an old table may be gone before the new one is complete
        if len(score):
            key = keys_of(score, wide=sketch.table.low.dtype == torch.int64)
            del score, table
            sketch.add(key, target.nonzero().squeeze(1), weight if len(weight) else None)
        for name, column in zip(ROWS, sketch.table, strict=True):
            self._list(name).append(column)
        rows.sketch = sketch

    def _detach(self) -> Tables:
        """Give this metric lists of its own, where torchmetrics made copies; the tensors in them stay shared."""
        for name in self._types():
            setattr(self, name, list(self._list(name)))
        self.row_total = tables = Tables(self.row_total)
        return tables

    def _settle(self) -> None:
        """File the samples that wait unless they are few enough to be exact."""
        if (
            not self.exact
            and not self._is_synced
            and (len(self.row_total) or self._waiting() > self.bins)
            and self._waiting()
        ):
            with torch.inference_mode(False), torch.no_grad():
                self._file()

    def _add_states(self, incoming: dict[str, Any]) -> None:
        super()._add_states(incoming)
        if not self.exact and (len(self.row_total) > 1 or self._waiting() >= CHUNK):
            with torch.inference_mode(False), torch.no_grad():
                self._file()

    def reset(self) -> None:
        """Forget everything."""
        for name in self._types():
            setattr(self, name, [])  # not cleared: another metric may share the list
        super().reset()

    # Compute -----------------------------------------------------------------------------------------------------

    def _column(self, name: str) -> Tensor:
        """One state as a single tensor; synchronised states are tensors, others lists."""
        state: Tensor | list[Tensor] = getattr(self, name)
        return state if isinstance(state, Tensor) else join(state, self._types()[name], self.device)

    def _rows(self) -> Rows:
        """All rows, none empty, of one sketch from the highest score down; samples that other processes have not filed are rows."""
        columns = [getattr(self, name) for name in ROWS]
        tables = [Rows(*columns)] if self._is_synced else [Rows(*each) for each in zip(*columns, strict=True)]
        parts = [table.occupied(highest_first=True) for table in tables]
        if self._is_synced and len(self._column("score")):
            parts.append(unit_rows(*(self._column(name) for name in SAMPLES)))
        return parts[0] if len(parts) == 1 else stack_rows(parts)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., list[Tensor]] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        self._settle()
        if not self.exact and self._list("row_low"):
            for name, column in zip(ROWS, self._rows().wide(), strict=True):
                setattr(self, name, [column])
        for name, dtype in self._types().items():
            setattr(self, name, [self._column(name).to(dtype)])
        super()._sync_dist(dist_sync_fn, process_group)

    def _curve(self, *, at_lowest: bool = False) -> Curve:
        """Points of the exact curve, or of the sketch: a row is a tie at the middle, or at the lowest, of its scores."""
        self._check_kept()
        self._settle()
        if not self.exact and len(self._column("row_total")):
            rows = self._rows()
            position = rows.low if at_lowest else rows.middle
            curve = make_curve(position, rows.positive, rows.total - rows.positive, rows.weight)
            return curve._replace(threshold=scores_of(curve.threshold)) if at_lowest else curve
        score, target, weight = (self._column(name) for name in SAMPLES)
        target = target.bool()
        count = target.long()
        return make_curve(score, count, 1 - count, spread(weight, target) if self.regions else torch.zeros_like(count))

    def curve(self) -> Curve:
        """Return the counts at every distinct score, from the highest down; one label or no sample at all is fine.

        From a sketch, a row counts as a tie at its lowest score. On several processes all of them must call it.
        """
        with self.sync_context(self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync):
            return self._curve(at_lowest=True)

    def compute(self) -> Tensor:
        """Return the value as a float64 scalar."""
        return self._value(both_labels(self._curve(), type(self).__name__))

    def error_bound(self) -> Tensor:
        """Return how far ``compute`` can at most be from the exact value of the same scores.

        Certified (proof in ``sketch.py``) up to the rounding of float64; 0 if ``exact`` or if there are few scores. On several
        processes all of them must call it, as with ``compute``.
        """
        none = torch.zeros((), dtype=torch.float64, device=self.device)
        if self.exact:
            return none
        with self.sync_context(self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync):
            value = self._value(both_labels(self._curve(), type(self).__name__))
            if not len(self._column("row_total")):
                return none
            bracket = self._bracket(ranked(self._rows()))
        return (torch.stack(bracket) - value).abs().max()

    @abstractmethod
    def _value(self, curve: Curve) -> Tensor:
        """Value of a curve with both labels."""

    def _bracket(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Values of the pessimistic and of the optimistic arrangement."""
        return self._value(arrange(rows, pessimistic=True)), self._value(arrange(rows, pessimistic=False))


def join(parts: list[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Put parts together on the device of the last one; those of unequal types as float64, which holds all of their values.

    Args:
        parts: Shape (N,) each.
        dtype: If there is none.
        device: If there is none.
    """
    if len(parts) < 2:
        return parts[0] if parts else torch.empty(0, dtype=dtype, device=device)
    common = parts[-1].dtype if len({part.dtype for part in parts}) == 1 else torch.float64
    return torch.cat([part.to(parts[-1].device, common) for part in parts])


def spread(weight: Tensor, target: Tensor) -> Tensor:
    """Weights (P,) of the anomalous samples as weights (N,) of all."""
    return torch.zeros_like(target, dtype=torch.float64).masked_scatter_(target, weight)


def unit_rows(score: Tensor, target: Tensor, weight: Tensor) -> Rows:
    """Rows of one sample each, from scores and targets (N,) and weights of the anomalous ones."""
    key, target = keys_of(score), target.bool()
    return Rows(
        key,
        key,
        torch.ones_like(target, dtype=torch.int64),
        target.long(),
        spread(weight, target) if len(weight) else torch.zeros_like(target, dtype=torch.float64),
    )


def stack_rows(parts: list[Rows]) -> Rows:
    """Put rows together, with keys of 64 bits if some have those."""
    if len({part.low.dtype for part in parts}) > 1:
        parts = [part.wide() for part in parts]
    return Rows(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
