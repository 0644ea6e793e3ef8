from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.methods.pretraining.contrast import Candidates
from anomaly_suite.methods.pretraining.sim_clr import nt_xent
from anomaly_suite.methods.pretraining.sup_con import SupCon, class_contrast

TAU = 0.2


def test_the_loss_is_the_cards() -> None:
    f = F.normalize(torch.randn(16, 5, dtype=torch.float64), dim=1)
    label = (torch.arange(8) % 3).repeat(2)
    total = 0.0
    for i in range(16):
        positives = [p for p in range(16) if p != i and label[p] == label[i]]
        below = sum(math.exp(float(f[i] @ f[a]) / TAU) for a in range(16) if a != i)
        total -= sum(math.log(math.exp(float(f[i] @ f[p]) / TAU) / below) for p in positives) / len(positives)
    c = Candidates(f, label, torch.arange(8).repeat(2))
    assert class_contrast(c, temperature=TAU).item() == pytest.approx(total / 16, abs=1e-8)
    alone = c._replace(label=torch.arange(8).repeat(2))  # one image a label
    torch.testing.assert_close(class_contrast(alone, temperature=TAU), nt_xent(alone, temperature=TAU))


def test_perfect_clusters_of_one_class_are_at_chance() -> None:
    c = Candidates(torch.ones(16, 1, dtype=torch.float64), torch.zeros(16).long(), torch.arange(8).repeat(2))
    assert class_contrast(c, temperature=TAU).item() == pytest.approx(math.log(15))


def test_classes_are_counts_of_lesions() -> None:
    model = SupCon(encoder="residual", encoder_weights=None, image_size=16, width=2, versions="one")
    views = model.make_views(torch.rand(8, 3, 16, 16), GeneratorDraws(torch.Generator().manual_seed(0)))
    assert torch.bincount(views.label).tolist() == [4] * 4
    assert torch.equal(views.source, torch.arange(8).repeat(2))
