"""The data set class of this package: it hands out finished batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from anomaly_suite.contract import Batch


class BatchedDataset(Dataset[Batch]):
    """A data set that hands out finished batches; a subclass writes ``__len__`` and ``batch``.

    A negative index ``-1 - i`` asks for item ``i`` as padding: the batch then has ``padding``, True in that row.
    """

    fresh_draws = False
    """Whether an index ``i + n * len(self)`` asks for item ``i`` with random steps of its own: it is drawn for the n-th time in an epoch."""

    seen_types: Sequence[bool] | None = None
    """For each item whether it is an anomaly of a kind that is in training, too; batches then have ``seen_type``."""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__.")

    def batch(self, indices: list[int]) -> Batch:
        """The items at these non-negative indices.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define batch(indices).")

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = [index if index >= 0 else -1 - index for index in indices]
        batch = self.batch(rows)
        if self.seen_types is not None:
            batch["seen_type"] = torch.tensor([self.seen_types[row] for row in rows])
        if min(indices) < 0:
            batch["padding"] = torch.tensor([index < 0 for index in indices])
        return batch

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])
