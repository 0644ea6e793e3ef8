"""ShardSampler: each process's share of a data set, in an order that follows from seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler


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
        order = (
            np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
            if self.shuffle
            else np.arange(self.count)
        )
        missing = self.num_samples * self.num_replicas - self.count if self.shuffle else 0
        padded = np.concatenate([order, -1 - np.resize(order, missing)]) if missing else order
        skipped, self.skipped = self.skipped, 0
        return iter(padded[self.rank :: self.num_replicas][skipped:].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle, and tell the data set, whose random transforms derive from the epoch too."""
        super().set_epoch(epoch)
        if hasattr(self.dataset, "epoch"):
            self.dataset.epoch = epoch
