"""A sample of the training set's features, of bounded size, which does not depend on how the images were divided.

A bank is a buffer of one shape before and after the fit, as copies that average weights need: rows of NaN are empty, and come last.

Axes: B batch, N features of the sample, M rows of a bank, D channels, K neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from anomaly_suite.nn.exporting import is_exporting
from anomaly_suite.tracing import untraced

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


def empty_bank(most: int, channels: int) -> Tensor:
    """A bank (M, D) without a feature."""
    return torch.full((most, channels), math.nan, dtype=torch.float32)


def fill_bank(bank: Tensor, features: Tensor) -> None:
    """Put features (N, D), at most M, in place of those of a bank (M, D)."""
    bank.fill_(math.nan)
    bank[: len(features)].copy_(features)


def count_rows(bank: Tensor) -> Tensor:
    """Features of a bank (M, D), a whole number ()."""
    return (~bank[:, 0].isnan()).sum()


@untraced
def bank_rows(bank: Tensor) -> Tensor:
    """Features (N, D) of a bank (M, D); all its rows in an exported graph, which has one shape."""
    return bank if is_exporting() else bank[: int(count_rows(bank))]


def nearest(feature: Tensor, bank: Tensor, *, neighbours: int) -> Tensor:
    """Squared distances to the nearest features of a bank, smallest first.

    Args:
        feature: Shape (B, D).
        bank: Shape (M, D).
        neighbours: K, cut to the number of features; in an exported graph those that are missing are at a distance of 0.

    Returns:
        Shape (B, K), of differences, not of products: the distance to itself is 0.
    """
    rows = bank_rows(bank)
    found = [_squared_distances(feature, some) for some in torch.split(rows, ROWS_AT_ONCE)]
    distance = torch.cat(found, 1).masked_fill(rows[:, 0].isnan(), math.inf)
    closest = distance.topk(min(neighbours, rows.shape[0]), dim=1, largest=False).values
    return closest.masked_fill(closest.isinf(), 0)


def log_kernels(feature: Tensor, bank: Tensor, *, gamma: float | Tensor) -> Tensor:
    """Log of the sum of ``exp(-gamma |feature - row|^2)`` over the features of a bank, all of length 1: (B, D) and (M, D) to (B,)."""
    rows = bank_rows(bank)
    squared = (2 - 2 * feature @ rows.T).clamp_min(0)
    return torch.logsumexp((-gamma * squared).masked_fill(rows[:, 0].isnan(), -math.inf), 1)


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Of all pairs, (B, D) and (N, D) to (B, N). ONNX has no ``cdist``; what a graph does instead takes D times the memory."""
    if is_exporting():
        return ((first.unsqueeze(1) - second) ** 2).sum(2)
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist") ** 2
