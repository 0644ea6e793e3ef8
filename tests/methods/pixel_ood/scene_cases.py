"""Tiny scenes, their targets, and slow references that tests of methods on driving scenes share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY: dict[str, Any] = {"backbone": "resnet10t", "num_classes": 4, "width": 8, "backbone_weights": None}
ALL_VOID = torch.full((2, 4, 5), 255)
NO_OUTLIER = torch.arange(40).view(2, 4, 5) % 4
OUTLIERS_ALONE = torch.full((2, 4, 5), 254)
MIXED = torch.stack([NO_OUTLIER[0], NO_OUTLIER[1].masked_fill(torch.arange(20).view(4, 5) > 14, 254)])
WITH_VOID = MIXED.index_fill(2, torch.tensor([1]), 255)
EVERY_IMAGE_MIXED = NO_OUTLIER.index_fill(1, torch.tensor([2]), 254)
TARGETS = {
    "all void": ALL_VOID,
    "no outlier": NO_OUTLIER,
    "outliers alone": OUTLIERS_ALONE,
    "mixed": MIXED,
    "with void": WITH_VOID,
    "every image mixed": EVERY_IMAGE_MIXED,
    "void and outliers": OUTLIERS_ALONE.index_fill(1, torch.tensor([0, 1]), 255),
}


def scenes(count: int = 4, *, size: tuple[int, int] = (32, 48), outliers: bool = True) -> list[dict[str, Tensor]]:
    """Noise with classes in blocks, a strip of void, and outliers in every second scene."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        target = torch.randint(4, (size[0] // 8, size[1] // 8), generator=generator)
        target = target.repeat_interleave(8, 0).repeat_interleave(8, 1)
        target[-3:] = 255
        if outliers and index % 2:
            target[8:16, 8:24] = 254
        found.append({"image": torch.rand(3, *size, generator=generator), "target": target})
    return found


def pixel(*logits: float) -> Tensor:
    """One pixel: (1, K, 1, 1)."""
    return torch.tensor(logits, dtype=torch.float32).view(1, -1, 1, 1)


def reference(logits: Tensor, target: Tensor, penalty: Tensor, *, weight: float, form: str) -> Tensor:
    """Sections 3.1 and 2 of the card, pixel by pixel, with probabilities in double precision."""
    p = logits.double().softmax(1)
    classes = logits.shape[1] - 1
    inside: dict[bool, list[Tensor]] = {False: [], True: []}
    outside = []
    for image in range(len(target)):
        mixed = bool((target[image] == 254).any())
        for row in range(target.shape[1]):
            for column in range(target.shape[2]):
                label, a = int(target[image, row, column]), penalty[image, row, column]
                abstain = p[image, classes, row, column]
                if label < 254:
                    inside[mixed].append(-torch.log(p[image, label, row, column] + abstain / a))
                elif label == 254 and form == "paper":
                    outside.append(-torch.log(abstain * (1 + 1 / a)))
                elif label == 254:
                    outside += [-torch.log(p[image, c, row, column] + abstain / a) for c in range(classes)]
    total = 0.0 * logits.double().sum()
    for factor, group in ((1.0, inside[False]), (1.0, inside[True]), (weight, outside)):
        if group:
            total = total + factor * torch.stack(group).mean()
    return total


def blobs(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Three correlated clouds in three dimensions, as one image of features, and their classes."""
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 0.4]])
    target = torch.arange(3 * count) % 3
    centers = torch.tensor([[0.0, 0, 0], [8, 0, 0], [0, 8, 4]])
    features = centers[target] + torch.randn(3 * count, 3) @ mixing
    return features.T.reshape(1, 3, 30, -1), target.view(1, 30, -1)
