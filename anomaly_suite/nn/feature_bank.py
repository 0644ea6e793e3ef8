"""A sample of the training set's features, of bounded size, which does not depend on how the images were divided.

Axes: B batch, N features of the sample, D channels, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS_AT_ONCE = 1024
"""Features of the bank that distances are taken to at once, which bounds the memory."""
LAST = torch.iinfo(torch.int64).max


class FeatureSample:
    """The features with the smallest keys: a uniform sample where keys are hashes of the images.

    Args:
        most: Size that the sample never exceeds; features beyond it are left out by their keys.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.keys = torch.empty(0, dtype=torch.int64)
        self.features = torch.empty(0)

    def add(self, keys: Tensor, features: Tensor) -> None:
        """Take in features (B, D) and their keys, int64 (B,)."""
        if len(self.keys):
            keys, features = torch.cat([self.keys, keys]), torch.cat([self.features, features])
        order = keys.argsort(stable=True)[: self.most]
        self.keys, self.features = keys[order], features[order]

    def merge(self, channels: int, *, all_gather: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
        """The sample (N, D) of all processes, by keys.

        Args:
            channels: D, also of a process without a feature.
            all_gather: Tensors of one shape in every process to (processes, ...), or to themselves in a single process.
            device: Where the features are.
        """
        if not len(self.keys):
            self.features = torch.empty(0, channels, dtype=torch.float32)
        counts = all_gather(torch.tensor(len(self.keys), device=device))
        missing = int(counts.max()) - len(self.keys)
        keys = torch.cat([self.keys.to(device), torch.full((missing,), LAST, device=device)])
        features = torch.cat(
            [self.features.to(device), torch.zeros(missing, channels, dtype=torch.float32, device=device)]
        )
        keys, features = all_gather(keys).flatten(), all_gather(features).view(-1, channels)
        order = keys.argsort(stable=True)[: min(self.most, int(counts.sum()))]
        return features[order]


def nearest(feature: Tensor, bank: Tensor, *, neighbours: int) -> Tensor:
    """Squared distances to the nearest features of a bank, smallest first.

    Args:
        feature: Shape (B, D).
        bank: Shape (N, D).
        neighbours: K, cut to N.

    Returns:
        Shape (B, K), of differences, not of products: the distance to itself is 0.
    """
    exact = "donot_use_mm_for_euclid_dist"
    found = [torch.cdist(feature, rows, compute_mode=exact) ** 2 for rows in torch.split(bank, ROWS_AT_ONCE)]
    distance = torch.cat(found, 1)
    return distance.topk(min(neighbours, bank.shape[0]), dim=1, largest=False).values
