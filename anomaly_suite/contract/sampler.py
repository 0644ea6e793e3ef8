"""Samplers: each process's share of a data set, in an order that follows from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, DistributedSampler

from anomaly_suite.errors import ConfigError


class ShardSampler(DistributedSampler[Any]):
    """This process's share of a data set.

    Training (``shuffle``): a new order every epoch; processes that would get one sample less repeat one, given as the
    negative index ``-1 - i``, so that gradient steps stay in step and statistics can leave the repeats out.
    Evaluation: every sample exactly once over all processes.

    Args:
        dataset: Anything with a length; its ``epoch``, if it has one, is set with the sampler's.
        world: Number of processes.
        rank: Number of this process, from 0.
        shuffle: Whether this is training.
        seed: Decides the orders.
    """

    def __init__(self, dataset: Dataset[Any], *, world: int, rank: int, shuffle: bool, seed: int) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed)
        self.count = len(cast(Any, dataset))
        self.num_samples = -(-self.count // world) if shuffle else len(range(rank, self.count, world))
        self.skipped = 0
        """Samples of this process that the next pass leaves out: a resumed run has seen them."""

    def __iter__(self) -> Iterator[int]:
        order = self._generator().permutation(self.count) if self.shuffle else np.arange(self.count)
        return self._rest(self._even(order) if self.shuffle else order[self.rank :: self.num_replicas])

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch))

    def _even(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This process's share of an order of indices, as long as that of the others by padding."""
        missing = -len(order) % self.num_replicas
        padded = np.concatenate([order, -1 - np.resize(order, missing)]) if missing else order
        return padded[self.rank :: self.num_replicas]

    def _rest(self, order: npt.NDArray[np.int64]) -> Iterator[int]:
        skipped, self.skipped = self.skipped, 0
        return iter(order[skipped:].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle, and tell the data set, whose random transforms derive from the epoch too."""
        super().set_epoch(epoch)
        if hasattr(self.dataset, "epoch"):
            self.dataset.epoch = epoch


class BalancedSampler(ShardSampler):
    """Training batches with a fixed share of anomalous samples: every normal one once an epoch, the anomalous ones drawn again and again.

    A batch of each process holds the share to within one sample; where ``share`` times the batch size is whole, all but an epoch's
    last batch hold it exactly. Anomalies are shuffled anew whenever all have been drawn, and the batches that several processes have in a step are
    together that of one process with so many times the batch size. A data set with ``fresh_draws`` is asked for the n-th repetition of
    item ``i`` in an epoch as ``i + n * len(dataset)``, so that its random steps differ; others are asked for ``i``.

    Args:
        dataset: See :class:`ShardSampler`.
        labels: Of its samples, 1 or True is anomalous.
        share: Of anomalous samples, in (0, 1).
        world: Number of processes.
        rank: Number of this process, from 0.
        seed: Decides the orders.

    Raises:
        ConfigError: there are no normal or no anomalous samples, or the share is out of range.
    """

    def __init__(
        self, dataset: Dataset[Any], labels: Sequence[Any], *, share: float, world: int, rank: int, seed: int
    ) -> None:
        super().__init__(dataset, world=world, rank=rank, shuffle=True, seed=seed)
        if not 0 < share < 1:
            raise ConfigError(
                f"the share of anomalous samples must be in (0, 1); got {share}. Give 0.5 for as many as normal ones."
            )
        anomalous = np.asarray(labels, dtype=bool)
        self.normal, self.anomalous = np.flatnonzero(~anomalous), np.flatnonzero(anomalous)
        if not len(self.normal) or not len(self.anomalous):
            raise ConfigError(
                f"balanced batches need normal and anomalous training samples; got {len(self.normal)} and {len(self.anomalous)}. "
                "Set num_anomalous, or balanced: false."
            )
        self.share = share
        exact = max(Fraction(share).limit_denominator(10**6), Fraction(1, 10**6))
        self.draws = max(1, len(self.normal) * exact.numerator // (exact.denominator - exact.numerator))
        """Anomalous samples of an epoch, over all processes."""
        self.pattern = _pattern(-(-len(self.normal) // world), -(-self.draws // world), exact)
        self.num_samples = len(self.pattern)

    def __iter__(self) -> Iterator[int]:
        rng = self._generator()
        normal = rng.permutation(self.normal)
        rounds = -(-self.draws // len(self.anomalous))
        drawn = rng.permuted(np.tile(self.anomalous, (rounds, 1)), axis=1)
        if getattr(self.dataset, "fresh_draws", False):
            drawn += self.count * np.arange(rounds)[:, None]
        order = np.empty(self.num_samples, dtype=np.int64)
        order[~self.pattern] = self._even(normal)
        order[self.pattern] = self._even(drawn.ravel()[: self.draws])
        return self._rest(order)


def _pattern(normal: int, anomalous: int, share: Fraction) -> npt.NDArray[np.bool_]:
    """Which places of an epoch are anomalous: by the share, evenly spread, until samples of one kind run out."""
    behind = np.arange(1, normal + anomalous + 1) * share.numerator // share.denominator
    pattern = np.diff(behind, prepend=0) > 0
    pattern[np.flatnonzero(pattern)[anomalous:]] = False
    if missing := anomalous - int(pattern.sum()):
        pattern[np.flatnonzero(~pattern)[-missing:]] = True
    return pattern
