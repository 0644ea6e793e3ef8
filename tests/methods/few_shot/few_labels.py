"""Look-alike images with labelled anomalies in training: noise, and noise with a bright square."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader


def images(count: int, *, anomalous: bool, seed: int, side: int = 20) -> Tensor:
    """Shape (count, 1, side, side), in [0, 1]."""
    image = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed)) / 2
    if anomalous:
        image[:, :, 4:12, 4:12] = 1
    return image


def loader(*, normal: int = 16, anomalous: int = 16, batch_size: int = 8, side: int = 20) -> DataLoader[Any]:
    """Normal and anomalous images in turn, for as long as there are both."""
    items = [(image, 0) for image in images(normal, anomalous=False, seed=1, side=side)]
    others = [(image, 1) for image in images(anomalous, anomalous=True, seed=2, side=side)]
    mixed = [item for pair in zip(items, others, strict=False) for item in pair]
    return DataLoader([*mixed, *items[len(others) :], *others[len(items) :]], batch_size=batch_size)  # type: ignore[arg-type]
