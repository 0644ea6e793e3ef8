"""Distance of the features of cells to the nearest of a sample of training cells: a density that knows no classes.

Source: "kNN embedding density" of Blum et al., "The Fishyscapes Benchmark", IJCV 2021, of which our notes have the name and the figures; the
    sample, the features (those that Mahalanobis takes) and the mean over neighbours are ours.
Axes: B batch, D features, h and w cells, N sampled cells, K neighbours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_suite.nn.density import squared_distances
from anomaly_suite.nn.exporting import portions

CELLS_AT_ONCE = 4096


def nearest_cell_distance(feature: Tensor, bank: Tensor, *, neighbours: int) -> Tensor:
    """Mean Euclidean distance to the nearest features of a sample.

    Args:
        feature: Shape (B, D, h, w).
        bank: Shape (N, D).
        neighbours: K, cut to N.

    Returns:
        Shape (B, 1, h, w).
    """
    flat = feature.movedim(1, -1).flatten(0, -2)  # cells D
    rows = bank.float()
    found = [
        squared_distances(some, rows).topk(min(neighbours, rows.shape[0]), dim=1, largest=False).values.sqrt().mean(1)
        for some in portions(flat, CELLS_AT_ONCE)
    ]
    return torch.cat(found).view(feature.shape[0], 1, *feature.shape[2:])


def uniform_keys(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Keys (N,) for a uniform sample, int64."""
    return torch.randint(0, math.floor(2**62), (count,), generator=generator, device=device)
