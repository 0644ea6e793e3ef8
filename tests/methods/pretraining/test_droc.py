from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anomaly_suite.methods.pretraining.contrast import Candidates
from anomaly_suite.methods.pretraining.droc import DROC, one_way_contrast

TAU = 0.2


def candidates(feature: torch.Tensor, **options: int) -> Candidates:
    items = len(feature) // 2
    return Candidates(feature, torch.zeros(2 * items).long(), torch.arange(items).repeat(2), **options)


def test_first_views_against_all_second_ones() -> None:
    f = F.normalize(torch.randn(12, 5, dtype=torch.float64), dim=1)
    total = 0.0
    for i in range(6):
        row = [math.exp(float(f[i] @ f[6 + j]) / TAU) for j in range(6)]
        total -= math.log(row[i] / sum(row))
    found = one_way_contrast(candidates(f), temperature=TAU).item()
    assert found == pytest.approx(total / 6, abs=1e-8)
    assert one_way_contrast(candidates(f.roll(6, 0)), temperature=TAU).item() != pytest.approx(found)


def test_swapped_views_of_symmetric_similarities() -> None:
    f = F.normalize(torch.randn(6, 5, dtype=torch.float64), dim=1).repeat(2, 1)  # equal views: i to j as j to i
    found = one_way_contrast(candidates(f), temperature=TAU)
    torch.testing.assert_close(one_way_contrast(candidates(f.roll(6, 0)), temperature=TAU), found)


def test_of_two_processes_the_second_views_of_both() -> None:
    f = F.normalize(torch.randn(12, 5, dtype=torch.float64), dim=1)  # two processes with three items each
    order = [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]  # all first views, then all second ones
    both = [one_way_contrast(candidates(f, first=first, own=6), temperature=TAU) for first in (0, 6)]
    torch.testing.assert_close(sum(both) / 2, one_way_contrast(candidates(f[order]), temperature=TAU))


def test_values_of_the_card() -> None:
    equal = candidates(torch.ones(64, 1, dtype=torch.float64))
    assert one_way_contrast(equal, temperature=TAU).item() == pytest.approx(math.log(32))
    perfect = candidates(torch.eye(32, dtype=torch.float64).repeat(2, 1))
    assert one_way_contrast(perfect, temperature=TAU).item() == pytest.approx(0.190, abs=5e-4)


def test_eight_layers_then_128() -> None:
    head = DROC(encoder="residual", encoder_weights=None, image_size=16, width=2).projection
    layers = [part for part in head.modules() if isinstance(part, nn.Linear)]
    assert [layer.out_features for layer in layers] == [16] * 8 + [128]
    assert sum(isinstance(part, nn.BatchNorm1d) for part in head.modules()) == 8
