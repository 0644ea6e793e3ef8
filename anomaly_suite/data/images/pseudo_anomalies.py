"""Pseudo-anomalies for validation: structure-breaking copies of normal images."""

from __future__ import annotations

from pathlib import Path

import torch

from anomaly_suite.augment import pseudo_anomaly
from anomaly_suite.contract import Batch
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.io.seeds import derive_seed


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

    @property
    def labels(self) -> list[int]:
        """Of all images and copies."""
        return [0] * len(self.normals) + [1] * len(self.normals)

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
