from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from anomaly_suite.methods.pretraining.contrast import Candidates
from anomaly_suite.methods.pretraining.sim_clr import SimCLR, nt_xent


def slow(f: torch.Tensor, tau: float) -> float:
    count, total = len(f), 0.0
    for i in range(count):
        partner = (i + count // 2) % count
        row = [math.exp(float(f[i] @ f[j]) / tau) for j in range(count) if j != i]
        total -= math.log(math.exp(float(f[i] @ f[partner]) / tau) / sum(row))
    return total / count


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_loss_is_nt_xent(tau: float) -> None:
    feature = F.normalize(torch.randn(10, 4, dtype=torch.float64), dim=1)
    c = Candidates(feature, torch.zeros(10).long(), torch.arange(5).repeat(2))
    assert nt_xent(c, temperature=tau).item() == pytest.approx(slow(feature, tau), abs=1e-8)
    swapped = Candidates(feature.roll(5, 0), c.label, c.source)
    torch.testing.assert_close(nt_xent(swapped, temperature=tau), nt_xent(c, temperature=tau))


def test_an_encoder_and_a_projection_are_all_there_is() -> None:
    model = SimCLR(encoder="residual", encoder_weights=None, image_size=16, width=2)
    assert set(dict(model.named_children())) == {"calibration", "encoder", "projection"}
    scaled = F.normalize(3 * model.projection(torch.ones(1, 16)))
    torch.testing.assert_close(scaled, F.normalize(model.projection(torch.ones(1, 16))))
