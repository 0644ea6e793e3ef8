"""A sketch of scored pixels whose size does not grow with their number, and what it can prove.

A **row** stands for some pixels: how many, how many of them anomalous, and the lowest and highest score among them.
Scores are compared as integers in the same order (:func:`sort_keys`): of 32 bits where float32 holds every score, as it
does for most, else of 64, so that scores of float64 or large integers are never rounded together. A key belongs to one
of 65,536 prefixes (one per 0.8 % of a score's magnitude); each prefix splits into ``2**depth`` equal bins, of 64-bit keys
over the range that was seen in it; a bin holds one row. The depth follows the share of the data in the prefix, so crowded
ranges (scores near 1 after a sigmoid, 1000 plus a little noise) get bins down to single floating-point numbers and no range
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
OVERFULL, OVERDUE = 4, 1 / 1024  # refine when this share of the data is in bins this many times as full as wanted
MANY = torch.iinfo(torch.int32).max  # pixels that int32 can count
SLICE = 1 << 17  # keys whose bins are found at a time; bounds the memory
FINE = 45  # bits of a 64-bit key below its prefix, which is that of float32: sign, 8 bits of the exponent, 7 of the fraction
TINY = (
    896 << 7
)  # first prefix of 64-bit keys that float32 has, too; what is nearer to 0 shares the first, what is larger the last


class Rows(NamedTuple):
    """Rows of a sketch, each tensor of shape ``(R,)``; a row with ``total`` 0 is empty.

    ``low`` and ``high`` are keys, int32 or int64, ``total`` and ``positive`` (anomalous) count pixels, in int32 as long as all
    pixels together fit, else in int64, ``weight`` is the float64 sum of the region weights of the anomalous pixels.
    """

    low: Tensor
    high: Tensor
    total: Tensor
    positive: Tensor
    weight: Tensor

    @classmethod
    def empty(
        cls,
        size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.int32,
        count: torch.dtype = torch.int32,
    ) -> Rows:
        """Return ``size`` empty rows with keys of type ``dtype`` and counts of type ``count``."""
        limits = torch.iinfo(dtype)
        return cls(
            low=torch.full((size,), limits.max, dtype=dtype, device=device),
            high=torch.full((size,), limits.min, dtype=dtype, device=device),
            total=torch.zeros(size, dtype=count, device=device),
            positive=torch.zeros(size, dtype=count, device=device),
            weight=torch.zeros(size, dtype=torch.float64, device=device),
        )

    def occupied(self, *, highest_first: bool = False) -> Rows:
        """Return the rows that stand for at least one pixel, in their order or from the last to the first."""
        keep = self.total.nonzero().squeeze(1)
        keep = keep.flip(0) if highest_first else keep
        return Rows(*(column.index_select(0, keep) for column in self))

    @property
    def middle(self) -> Tensor:
        """Key half-way between the lowest and the highest score, in the type of the keys."""
        return (self.low & self.high).add_((self.low ^ self.high) >> 1)  # the sum of the two might not fit

    def to(self, device: torch.device) -> Rows:
        """Return the rows on a device."""
        return Rows(*(column.to(device) for column in self))

    def wide(self) -> Rows:
        """Return the rows with 64-bit keys of the same scores."""
        if self.low.dtype == torch.int64:
            return self
        rows = self.occupied()
        low, high = (sort_keys(scores_of(key).double()) for key in (rows.low, rows.high))
        return rows._replace(low=low, high=high)


def sort_keys(score: Tensor) -> Tensor:
    """Map finite scores to integers in the same order, float64 to int64 and others, as float32, to int32. Any shape.

    -0.0 and 0.0 share a key.

    Example:
        >>> sort_keys(torch.tensor([-1.0, -0.0, 0.0, 1.0]))
        tensor([-1065353216,           0,           0,  1065353216], dtype=torch.int32)
    """
    dtype = torch.int64 if score.dtype == torch.float64 else torch.int32
    bits = (score if score.dtype == torch.float64 else score.float()).view(dtype)
    sign = bits >> (torch.iinfo(dtype).bits - 1)  # -1 or 0
    return (sign & torch.iinfo(dtype).max).bitwise_xor_(bits).sub_(sign)  # a negative float is minus its magnitude


def scores_of(key: Tensor) -> Tensor:
    """Undo :func:`sort_keys`. Any shape."""
    sign = key >> (torch.iinfo(key.dtype).bits - 1)
    bits = (key ^ sign).sub_(sign).bitwise_or_(sign & torch.iinfo(key.dtype).min)
    return bits.view(torch.float64 if key.dtype == torch.int64 else torch.float32)


def keys_of(score: Tensor, *, wide: bool = False) -> Tensor:
    """Keys of finite scores of any type and shape: int32 if float32 holds each of them, int64 if not or if they are to be ``wide``."""
    short = score.element_size() <= 2 or score.dtype == torch.float32
    if not wide and short:
        return sort_keys(score)
    double = score.double()
    if not wide and bool((double.float() == double).all()):
        return sort_keys(double.float())
    return sort_keys(double)


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
        New depths; ``depth`` itself when refining is not worth it. At most ``2 * bins + 65536`` bins in all, since
        prefixes that have become light give theirs back.
    """
    seen = mass.sum(dim=1, keepdim=True)
    rank = mass.sum(dim=0).flip(0).cumsum(0).double()  # of the last pixel of each prefix, the highest prefix first
    logarithm = rank.log1p()
    top = logarithm.diff(prepend=logarithm.new_zeros(1)).flip(0) / logarithm[-1]
    share = ((mass.double() / seen.clamp(min=1)).sum(dim=0) + top) / ((seen > 0).sum() + 1)
    wanted_bins = share * (4 * seen.sum()).clamp(max=bins)
    overfull = wanted_bins.clamp(max=PREFIXES) > OVERFULL * torch.exp2(depth)
    if (share * overfull).sum() <= OVERDUE:
        return depth
    return wanted_bins.clamp(min=1).log2().ceil().clamp(max=16).to(depth.dtype)


def prefix_of(key: Tensor) -> Tensor:
    """Return the prefix of keys, counted from 0, as int32. Any shape."""
    if key.dtype == torch.int32:
        return (key >> 16).add_(PREFIXES // 2)
    upper = (key >> FINE).int()
    upper = upper.sub_(upper.clamp(-TINY, TINY))
    return upper.clamp_(-PREFIXES // 2, PREFIXES // 2 - 1).add_(PREFIXES // 2)


class Grid(NamedTuple):
    """The bins: prefix ``p`` has ``2**depth[p]`` from number ``start[p]`` on, each of ``2**shift[p]`` keys from ``low[p]`` on.

    Shapes ``(65536,)``; ``low`` is None for 32-bit keys, where a prefix begins at its first key.
    """

    depth: Tensor
    start: Tensor
    shift: Tensor
    low: Tensor | None

    @classmethod
    def of(cls, depth: Tensor, seen: tuple[Tensor, Tensor] | None = None) -> Grid:
        """Grid of the given depths; for 64-bit keys, over the lowest and highest key ``seen`` in each prefix."""
        size = 1 << depth
        start = (size.cumsum(0) - size).int()
        if seen is None:
            return cls(depth, start, 16 - depth, None)
        least, most = seen
        # The range is widened to a power of 2 and a round start, so that it seldom has to grow.
        bits = torch.frexp((most - least).clamp(min=0).double()).exponent.clamp(min=1).long()
        low = (least >> (bits - 1)) << (bits - 1)
        span = torch.where(bits <= FINE, (bits + 1).clamp(max=FINE), (bits + 1).clamp(max=63))
        return cls(depth, start, (span - depth).clamp(min=0), low)

    def __len__(self) -> int:
        """Number of bins."""
        return int((1 << self.depth.long()).sum())

    def holds(self, least: Tensor, most: Tensor) -> bool:
        """Whether the split prefixes have bins for all keys from ``least`` to ``most`` in each."""
        if self.low is None:
            return True
        outside = (least < self.low) | ((most - self.low) >> self.shift >= 1 << self.depth)
        return not bool((outside & (self.depth > 0) & (least <= most)).any())

    def bin_of(self, key: Tensor) -> Tensor:
        """Return the int32 number of the bin that each key falls in, shape (N,)."""
        prefix = prefix_of(key)
        if self.low is None:
            inner = (key & 0xFFFF) >> self.shift.index_select(0, prefix)
        else:
            inner = (key - self.low.index_select(0, prefix)) >> self.shift.index_select(0, prefix)
            inner = inner.clamp_(min=0).minimum((1 << self.depth.long()).sub_(1).index_select(0, prefix)).int()
        return inner.add_(self.start.index_select(0, prefix))


class Sketch:
    """Rows in a table of bins, refined as pixels are filed.

    Args:
        rows: What is known so far, in any order, none empty.
        bins: Bins wanted.
    """

    def __init__(self, rows: Rows, *, bins: int) -> None:
        self.bins = bins
        prefix = prefix_of(rows.middle).long()
        self.mass = torch.zeros(2, PREFIXES, dtype=torch.int64, device=prefix.device)  # normal and anomalous
        self.mass[0].index_add_(0, prefix, (rows.total - rows.positive).long())
        self.mass[1].index_add_(0, prefix, rows.positive.long())
        self.seen: tuple[Tensor, Tensor] | None = None
        self.table = rows
        self._make_room()
        self._see(rows.middle)
        depth = torch.zeros(PREFIXES, dtype=torch.int32, device=prefix.device)
        self._split(refine_depth(depth, self.mass, bins=bins) if len(prefix) else depth)

    def add(self, key: Tensor, positive: Tensor, weight: Tensor | None) -> None:
        """File pixels.

        Args:
            key: Sort keys, shape ``(N,)``, at least one; of 64 bits if the rows have them.
            positive: Where the anomalous pixels are among the ``N``, int64. Shape ``(P,)``.
            weight: Region weight of each anomalous pixel, float64, shape ``(P,)``; None counts none.
        """
        if outgrown := key.dtype != self.table.low.dtype:
            self.table = self.table.wide()
            self._see(self.table.middle)
        for part in torch.split(key, SLICE):
            self.mass[0] += prefix_of(part).bincount(minlength=PREFIXES)
        anomalous = prefix_of(key.index_select(0, positive)).bincount(minlength=PREFIXES)
        self.mass[0] -= anomalous
        self.mass[1] += anomalous
        self._see(key)
        depth = refine_depth(self.grid.depth, self.mass, bins=self.bins)
        if outgrown or depth is not self.grid.depth or (self.seen and not self.grid.holds(*self.seen)):
            self._split(depth)
        self._make_room()
        first = 0
        for start in range(0, len(key), SLICE):
            part = key[start : start + SLICE]
            last = int(torch.searchsorted(positive, start + len(part)))
            few = None if weight is None else weight[first:last]
            file_pixels(self.table, self.grid.bin_of(part).long(), part, positive[first:last] - start, few)
            first = last

    def _make_room(self) -> None:
        """Count in int64 what int32 may not hold."""
        if self.table.total.dtype == torch.int32 and int(self.mass.sum()) > MANY:
            self.table = self.table._replace(total=self.table.total.long(), positive=self.table.positive.long())

    def _split(self, depth: Tensor) -> None:
        self.grid = Grid.of(depth, self.seen)
        self.table = self.table.occupied()  # of the old table, no more is needed
        self.table = file_rows(self.table, self.grid)

    def _see(self, key: Tensor) -> None:
        """Widen the range that was seen in each prefix, which only 64-bit keys need."""
        if key.dtype != torch.int64:
            return
        if self.seen is None:
            limits = torch.iinfo(torch.int64)
            self.seen = (
                torch.full((PREFIXES,), limits.max, device=key.device),
                torch.full((PREFIXES,), limits.min, device=key.device),
            )
        prefix = prefix_of(key).long()
        with _order_free():
            self.seen[0].scatter_reduce_(0, prefix, key, "amin")
            self.seen[1].scatter_reduce_(0, prefix, key, "amax")


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
    one = torch.ones(1, dtype=table.total.dtype, device=key.device)
    table.total.index_add_(0, index, one.expand(len(index)))
    if len(positive):
        index = index.index_select(0, positive)
        table.positive.index_add_(0, index, one.expand(len(index)))
        if weight is not None:
            table.weight.index_add_(0, index, weight)


def file_rows(rows: Rows, grid: Grid) -> Rows:
    """File rows, each whole, in a new table: one row per bin, in the order of the scores.

    The middle of a row always lies in its bin, also of a row united from several: its middle lies between theirs.

    Args:
        rows: Of any grid, none empty.
        grid: Of the new table.
    """
    table = Rows.empty(len(grid), grid.depth.device, rows.low.dtype, rows.total.dtype)
    index = grid.bin_of(rows.middle).long()
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
