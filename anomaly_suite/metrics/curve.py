"""The curve in which exact scores and sketches end, and the extreme curves of a sketch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_suite.errors import MetricUndefinedError
from anomaly_suite.metrics.sketch import Rows


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
    counts = [column.cumsum(0, dtype=torch.float64) for column in (positive, negative, weight)]  # exact up to 2**53
    if bool(last.all()):
        return Curve(position.clone(), *counts)
    point = last.nonzero().squeeze(1)
    return Curve(*(each.index_select(0, point) for each in (position, *counts)))


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


def ranked(rows: Rows) -> Rows:
    """Rows with ranks in place of 64-bit keys, which :func:`arrange` could not spread."""
    if rows.low.dtype != torch.int64:
        return rows
    _, rank = torch.unique(torch.cat([rows.low, rows.high]), return_inverse=True)
    return rows._replace(low=rank[: len(rows.low)], high=rank[len(rows.low) :])


def arrange(rows: Rows, *, pessimistic: bool) -> Curve:
    """Move the anomalous samples of every row to its lowest score and the normal ones to its highest, or the reverse.

    Keys are spread by a factor 4: a row of one score stays at ``4 * key`` and keeps its true ties; the others go just
    above or below, at ``4 * high + 1`` and ``4 * low - 1``. Rows that come from the highest down need hardly be sorted.
    """
    spread = (rows.low != rows.high).long()
    ends = (4 * rows.low.long() - spread, 4 * rows.high.long() + spread)
    none = torch.zeros_like(rows.total)
    pairs = (
        ends[::-1] if pessimistic else ends,  # of the normal samples and of the anomalous ones
        (none, rows.positive),
        (rows.total - rows.positive, none),
        (torch.zeros_like(rows.weight), rows.weight),
    )
    return make_curve(*(torch.stack(pair, dim=1).flatten() for pair in pairs))
