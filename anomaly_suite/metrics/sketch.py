"""A sketch of scored pixels whose size does not grow with their number, and what it can prove.

A **row** stands for some pixels: how many, how many of them anomalous, and the lowest and highest score among them.
Scores are float32 and are compared as 32-bit integers in the same order (:func:`sort_keys`). The upper 16 bits of a
key choose one of 65,536 prefixes (one per 0.8 % of a score's magnitude); each prefix splits its lower 16 bits into
``2**depth`` equal bins; a bin holds one row. The depth follows the share of the data in the prefix, so crowded ranges
(scores near 1 after a sigmoid, 1000 plus a little noise) get bins down to single floating-point numbers and no range
needs to be known beforehand. The highest scores get bins of their own beyond their share, because rare anomalies lie
there: where one pixel in a million is anomalous, precision turns on the highest millionth of the normal pixels
(:func:`refine_depth`). A batch is counted by prefix and the bins are refined *before* its pixels are filed. A
refined bin's row moves, whole, to the new bin at the middle of its scores: the lowest and highest score travel with
it, so a row is never more precise than it claims.

**Proof of the error bound.** Let ``TP(t)`` and ``FP(t)`` count anomalous and normal pixels scored at least ``t``. The
pessimistic arrangement moves the anomalous pixels of every row to its lowest score and the normal ones to its highest;
the optimistic one does the opposite. No pixel moves past its true score in the wrong direction, so at every ``t``:
``TP_pess <= TP <= TP_opt`` and ``FP_opt <= FP <= FP_pess``, and rows with one distinct score are exact. F1, IoU and
Dice grow with TP and fall with FP, and the smallest FPR at a given TPR does the opposite, so their extremes over ``t``
are bracketed. Each such move of one pixel raises (or lowers) the ROC curve, joined by straight lines over ties, at every
FPR; AUROC, AUPRO and EER depend on that curve alone. Only AP is not monotone, because a tie between anomalous pixels
raises it; ``ranking.py`` brackets the precision at each row instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

PREFIXES = 1 << 16
CHUNK = 1 << 20  # pixels filed at a time; bounds the memory of an update and stays near the cache
OVERFULL, OVERDUE = 4, 1 / 1024  # refine when this share of the data is in bins this many times as full as wanted


class Rows(NamedTuple):
    """Rows of a sketch, each tensor of shape ``(R,)``; a row with ``total`` 0 is empty.

    ``low`` and ``high`` are int32 keys, ``total`` and ``positive`` (anomalous) count pixels in int64, ``weight`` is the
    float64 sum of the region weights of the anomalous pixels.
    """

    low: Tensor
    high: Tensor
    total: Tensor
    positive: Tensor
    weight: Tensor

    @classmethod
    def empty(cls, size: int, device: torch.device | str | None = None) -> Rows:
        """Return ``size`` empty rows."""
        limits = torch.iinfo(torch.int32)
        return cls(
            low=torch.full((size,), limits.max, dtype=torch.int32, device=device),
            high=torch.full((size,), limits.min, dtype=torch.int32, device=device),
            total=torch.zeros(size, dtype=torch.int64, device=device),
            positive=torch.zeros(size, dtype=torch.int64, device=device),
            weight=torch.zeros(size, dtype=torch.float64, device=device),
        )

    def occupied(self) -> Rows:
        """Return the rows that stand for at least one pixel."""
        keep = self.total.nonzero().squeeze(1)
        return Rows(*(column.index_select(0, keep) for column in self))

    @property
    def middle(self) -> Tensor:
        """Key half-way between the lowest and the highest score, int64."""
        return (self.low.long() + self.high.long()) >> 1


def sort_keys(score: Tensor) -> Tensor:
    """Map finite float32 scores to int32 keys in the same order; -0.0 and 0.0 share a key. Any shape.

    Example:
        >>> sort_keys(torch.tensor([-1.0, -0.0, 0.0, 1.0]))
        tensor([-1065353217,           0,           0,  1065353216], dtype=torch.int32)
    """
    bits = (score.float() + 0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)  # negative floats count downwards in their bits


def scores_of(key: Tensor) -> Tensor:
    """Undo :func:`sort_keys`. Any shape."""
    return ((key >> 31) & 0x7FFFFFFF).bitwise_xor(key).view(torch.float32)


def refine_depth(depth: Tensor, mass: Tensor, *, bins: int) -> Tensor:
    """Choose how finely each prefix is split, from what is known about the data so far.

    A prefix with a share ``m`` of the data wants ``m * bins`` bins; fewer pixels than ``bins`` do not need all of them: a
    few early pixels must not use up the budget. ``m`` is the mean of three shares: of the normal pixels, which AUROC and FPR
    at a TPR need; of the anomalous pixels; and of the logarithm of the rank from the top, ``log(1 + rank)``. Under the last,
    a row holds about the same fraction of the pixels above it wherever it lies, so the precision at any anomalous
    pixel, and with it AP, is equally sharp however rare the anomalous pixels are and however late they come.

    Args:
        depth: Present depths, int32, 0 to 16. Shape ``(65536,)``.
        mass: Normal and anomalous pixels seen in each prefix, at least one in all. Shape ``(2, 65536)``.
        bins: Bins wanted for all data together.

    Returns:
        New depths; ``depth`` itself when refining is not worth it. At most ``2 * bins + 65536`` bins in all: when the
        finer bins do not fit, prefixes that have become light give theirs back.
    """
    seen = mass.sum(dim=1, keepdim=True)
    rank = mass.sum(dim=0).flip(0).cumsum(0).double()  # of the last pixel of each prefix, the highest prefix first
    logarithm = rank.log1p()
    top = logarithm.diff(prepend=logarithm.new_zeros(1)).flip(0) / logarithm[-1]
    share = ((mass.double() / seen.clamp(min=1)).sum(dim=0) + top) / ((seen > 0).sum() + 1)
    wanted_bins = share * (4 * seen.sum()).clamp(max=bins)
    overfull = wanted_bins.clamp(max=PREFIXES) > OVERFULL * torch.exp2(depth)
    room = 2 * bins + PREFIXES
    if (share * overfull).sum() <= OVERDUE and torch.exp2(depth.double()).sum() <= room:
        return depth
    wanted = wanted_bins.clamp(min=1).log2().ceil().clamp(max=16).to(depth.dtype)
    refined = torch.maximum(depth, wanted)
    return refined if torch.exp2(refined.double()).sum() <= room else wanted


def prefix_of(key: Tensor) -> Tensor:
    """Return the upper 16 bits of int32 or int64 keys, counted from 0, as int64. Any shape."""
    return (key >> 16).add_(PREFIXES // 2).long()


def bin_of(key: Tensor, prefix: Tensor, depth: Tensor) -> Tensor:
    """Return the int64 number of the bin that each key falls in, shape (N,).

    Args:
        key: Sort keys, shape (N,).
        prefix: Their prefixes, shape (N,).
        depth: Of every prefix, shape (65536,).
    """
    size = (1 << depth).to(torch.int32)
    first = (size.cumsum(0) - size).to(torch.int32)
    low_bits = (key & 0xFFFF).int()
    return (low_bits >> (16 - depth).index_select(0, prefix)).add_(first.index_select(0, prefix)).long()


def file_pixels(table: Rows, index: Tensor, key: Tensor, positive: Tensor, weight: Tensor | None) -> None:
    """Add pixels to the rows of their bins, in place.

    Args:
        table: The sketch; one row per bin.
        index: Bin of each pixel, int64. Shape ``(N,)``.
        key: Sort key of each pixel. Shape ``(N,)``.
        positive: Where the anomalous pixels are among the ``N``, int64. Shape ``(P,)``.
        weight: Region weight of each anomalous pixel, float64, shape ``(P,)``; None counts none.
    """
    _widen(table, index, key, key)
    table.total.add_(index.bincount(minlength=len(table.total)))
    if len(positive):
        index = index.index_select(0, positive)
        one = torch.ones(1, dtype=torch.int64, device=key.device)
        table.positive.index_add_(0, index, one.expand(len(index)))
        if weight is not None:
            table.weight.index_add_(0, index, weight)


def file_rows(rows: Rows, depth: Tensor) -> Rows:
    """File rows, each whole, in a new table of the given depth: one row per bin, in the order of the scores.

    The middle of a row always lies in its bin, also of a row united from several: its middle lies between theirs.

    Args:
        rows: Of any depth.
        depth: Of every prefix of the new table, shape (65536,).
    """
    table = Rows.empty(int((1 << depth.long()).sum()), depth.device)
    rows = rows.occupied()
    index = bin_of(rows.middle, prefix_of(rows.middle), depth)
    _widen(table, index, rows.low, rows.high)
    table.total.index_add_(0, index, rows.total)
    table.positive.index_add_(0, index, rows.positive)
    table.weight.index_add_(0, index, rows.weight)
    return table


def _widen(table: Rows, index: Tensor, low: Tensor, high: Tensor) -> None:
    with _order_free():
        table.low.scatter_reduce_(0, index, low, "amin")
        table.high.scatter_reduce_(0, index, high, "amax")


@contextmanager
def _order_free() -> Iterator[None]:
    """Allow a scatter that PyTorch lists as non-deterministic: a minimum does not depend on the order."""
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
