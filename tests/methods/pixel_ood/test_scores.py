from __future__ import annotations

import math

import pytest
import torch

from anomaly_suite.methods.pixel_ood.scores import LOGIT_SCORES, energy, entropy, max_logit, msp


def pixel(*logits: float) -> torch.Tensor:
    return torch.tensor(logits).view(1, -1, 1, 1)


def test_values_of_two_logits() -> None:
    logits = pixel(2, 0)
    expected = {"msp": 0.119203, "max_logit": -2.0, "entropy": 0.527065, "energy": -2.126928}
    assert {name: score(logits).item() for name, score in LOGIT_SCORES.items()} == pytest.approx(expected, abs=1e-6)
    assert entropy(logits).item() * math.log(2) == pytest.approx(0.365334, abs=1e-6)


def test_values_of_equal_logits() -> None:
    logits = torch.zeros(2, 19, 3, 4)
    for score, expected in ((energy, -2.944439), (entropy, 1.0), (msp, 0.947368), (max_logit, 0.0)):
        value = score(logits)
        assert value.shape == (2, 1, 3, 4)
        torch.testing.assert_close(value, torch.full((2, 1, 3, 4), expected), rtol=0, atol=1e-6)


def test_a_constant_moves_max_logit_and_energy_alone() -> None:
    logits = torch.randn(2, 19, 5, 6)
    for name, score in LOGIT_SCORES.items():
        fall = 3.0 if name in ("max_logit", "energy") else 0.0
        torch.testing.assert_close(score(logits + 3), score(logits) - fall, rtol=1e-5, atol=1e-5)


def test_energy_lies_at_most_ln_y_below_max_logit() -> None:
    gap = max_logit(logits := 5 * torch.randn(4, 19, 8, 8)) - energy(logits)
    assert gap.min() >= 0
    assert gap.max() <= math.log(19)


@pytest.mark.parametrize("name", list(LOGIT_SCORES))
def test_large_logits_in_half_precision_stay_finite(name: str) -> None:
    logits = torch.zeros(1, 19, 2, 2, dtype=torch.float16)
    logits[:, 3] = 300
    value = LOGIT_SCORES[name](logits)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert value.max() < LOGIT_SCORES[name](torch.zeros(1, 19, 1, 1)).item()
