from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.few_shot.label_losses import LabelLosses, cross_entropy, deviation_loss, focal_loss

LN2 = math.log(2)


def test_deviation_loss_by_hand() -> None:
    score = torch.tensor([0.0, 2.0, -2.0, 0.0, 6.0, 9.0, -2.0], requires_grad=True)
    label = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    loss = deviation_loss(score, label, margin=6.0)
    assert loss.tolist() == [0, 2, 2, 6, 0, 0, 8]
    (gradient,) = torch.autograd.grad(loss.sum(), score)
    assert gradient.tolist()[1:4] == [1, -1, -1]
    assert gradient[5] == 0
    assert gradient[6] == -1


def test_cross_entropy_is_that_of_torch() -> None:
    logit, label = 3 * torch.randn(50), torch.randint(2, (50,)).float()
    expected = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    torch.testing.assert_close(cross_entropy(logit, label), expected)
    assert cross_entropy(torch.zeros(2), torch.tensor([0.0, 1.0])).tolist() == pytest.approx([LN2, LN2])


def test_focal_loss_by_hand() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    assert focal_loss(zero, one, alpha=0.25, gamma=2.0).item() == pytest.approx(0.25 * 0.25 * LN2)
    assert focal_loss(zero, zero, alpha=0.25, gamma=2.0).item() == pytest.approx(0.75 * 0.25 * LN2)
    logit, label = torch.randn(20), torch.randint(2, (20,)).float()
    torch.testing.assert_close(focal_loss(logit, label, alpha=0.5, gamma=0.0), cross_entropy(logit, label) / 2)
    sure = torch.tensor([math.log(9.0)])  # p_t = 0.9
    assert (focal_loss(sure, one, alpha=0.25, gamma=2.0) / cross_entropy(sure, one)).item() == pytest.approx(0.0025)
    assert focal_loss(-sure, zero, alpha=0.25, gamma=2.0).item() == pytest.approx(0.75 * 0.01 * -math.log(0.9))


def losses(loss: str, draws: int | None = None) -> Tensor:
    options = LabelLosses(loss, 6.0, draws, 0.25, 2.0)  # type: ignore[arg-type]
    return options(torch.tensor([2.0, 2.0]), torch.tensor([0, 1]), Generator().manual_seed(0))


def test_options_choose_the_loss() -> None:
    assert losses("deviation").tolist() == [2, 4]
    assert losses("cross_entropy").tolist() == pytest.approx([math.log1p(math.exp(2)), math.log1p(math.exp(-2))])
    assert losses("focal")[1] < losses("cross_entropy")[1]
    draws = torch.randn(5000, generator=Generator().manual_seed(0))
    seen = float((2 - draws.mean()) / draws.std())
    assert losses("deviation", 5000).tolist() == pytest.approx([seen, 6 - seen])


def test_a_single_draw_is_refused() -> None:
    with pytest.raises(ConfigError, match="reference_draws must be null"):
        losses("deviation", 1)
