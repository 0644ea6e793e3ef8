"""What every data set of this package shares: finished batches, repeatable draws, stand-in anomalies for validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from anomaly_suite.augment import pseudo_anomaly
from anomaly_suite.contract import Batch


def derive_seed(*words: int) -> int:
    """One well-mixed 63-bit seed from several non-negative numbers, such as seed, epoch and index."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class BatchedDataset(Dataset[Batch]):
    """A data set that hands out finished batches; a subclass writes ``__len__`` and ``batch``.

    A negative index ``-1 - i`` asks for item ``i`` as padding: the batch then has ``padding``, True in that row.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def batch(self, indices: list[int]) -> Batch:
        """The items at these non-negative indices."""
        raise NotImplementedError

    def __getitems__(self, indices: list[int]) -> Batch:
        batch = self.batch([index if index >= 0 else -1 - index for index in indices])
        if min(indices) < 0:
            batch["padding"] = torch.tensor([index < 0 for index in indices])
        return batch

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])


class WithPseudoAnomalies(BatchedDataset):
    """Normal images followed by one structure-breaking copy of each, labelled anomalous.

    A copy depends on the seed and its image alone: it is the same in every epoch, run, process and batch size. Masks are
    left out, since a copy has no known region.

    Args:
        normals: Normal images, square.
        seed: Decides the operation of every copy.
    """

    def __init__(self, normals: BatchedDataset, *, seed: int) -> None:
        self.normals = normals
        self.seed = seed

    def __len__(self) -> int:
        return 2 * len(self.normals)

    def batch(self, indices: list[int]) -> Batch:
        """Images and copies; a copy's file name has ``#pseudo`` before the suffix."""
        count = len(self.normals)
        batch = self.normals.batch([index % count for index in indices])
        batch.pop("mask", None)
        for row, index in enumerate(indices):
            if index >= count:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, index))
                batch["image"][row] = pseudo_anomaly(batch["image"][row : row + 1], generator)[0]
                path = Path(batch["image_path"][row])
                batch["image_path"][row] = str(path.with_stem(f"{path.stem}#pseudo"))
        batch["label"] = torch.tensor([int(index >= count) for index in indices])
        return batch
