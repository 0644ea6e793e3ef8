from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.methods.pretraining.contrast import Candidates
from anomaly_suite.methods.pretraining.csi import CSI
from anomaly_suite.methods.pretraining.sim_clr import nt_xent


def make(**options: Any) -> CSI:
    torch.manual_seed(0)
    model = CSI(**{"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 2, **options})
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model


def test_eight_views_of_every_image_and_both_losses() -> None:
    model = make()
    views = model.make_views(torch.rand(3, 3, 16, 16), GeneratorDraws(Generator().manual_seed(0)))
    assert len(views.image) == 24
    assert torch.bincount(views.label).tolist() == [6] * 4
    feature = model.encoder(views.image).double()
    model = model.double()
    f = F.normalize(model.projection(feature), dim=1)
    total = 0.0
    for i in range(24):  # every other view is a negative, rotations of the same image too
        partner = (i + 12) % 24
        row = [math.exp(float(f[i] @ f[j]) / 0.5) for j in range(24) if j != i]
        total -= math.log(math.exp(float(f[i] @ f[partner]) / 0.5) / sum(row))
    logits = model.augmentation_head(feature)
    told = -sum(float(logits[i].log_softmax(0)[views.label[i]]) for i in range(24)) / 24
    terms = model.terms(feature, views)
    assert terms["contrast"].item() == pytest.approx(total / 24, abs=1e-5)  # projections are taken in float32
    assert terms["augmentation"].item() == pytest.approx(told, abs=1e-5)


def test_equal_projections_are_at_chance() -> None:
    views = make().make_views(torch.rand(3, 3, 16, 16), GeneratorDraws(Generator().manual_seed(0)))
    equal = Candidates(torch.ones(24, 1, dtype=torch.float64), views.label, views.source)
    assert nt_xent(equal, temperature=0.5).item() == pytest.approx(math.log(8 * 3 - 1))


def test_a_term_of_weight_0_is_left_out() -> None:
    assert not hasattr(make(contrast_weight=0.0), "projection")
    assert not hasattr(make(augmentation_weight=0.0), "augmentation_head")
