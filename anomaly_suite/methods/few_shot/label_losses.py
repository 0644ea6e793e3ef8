"""Losses of scores with labels, one value an image: deviation, cross-entropy, focal.

Sources: Pang et al., "Deep anomaly detection with deviation networks", KDD 2019; Lin et al., "Focal loss for dense object detection",
    ICCV 2017.
Axes: B batch, N draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from anomaly_suite.errors import ConfigError

LabelLoss = Literal["deviation", "cross_entropy", "focal"]


def deviation_loss(score: Tensor, label: Tensor, *, margin: float) -> Tensor:
    """Normal scores go to 0, anomalous ones beyond a margin: ``(1 - y) |s| + y max(0, a - s)``.

    Args:
        score: In deviations from the reference, shape (B,).
        label: 0 or 1, shape (B,).
        margin: a.

    Returns:
        Shape (B,).
    """
    return torch.where(label == 1, (margin - score).clamp_min(0), score.abs())


def cross_entropy(logit: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B,) and labels (B,), each image alone: shape (B,)."""
    return F.softplus(logit) - label * logit


def focal_loss(logit: Tensor, label: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """``-a_t (1 - p_t)^gamma log p_t``, p_t the probability that is given to the label.

    Args:
        logit: Shape (B,).
        label: 0 or 1, shape (B,).
        alpha: Weight of anomalies; normal images have the rest of 1.
        gamma: Of the power.

    Returns:
        Shape (B,).
    """
    sign = 2 * label - 1
    weight = torch.where(label == 1, alpha, 1 - alpha)
    return weight * torch.sigmoid(-sign * logit) ** gamma * F.softplus(-sign * logit)


@dataclass(frozen=True)
class LabelLosses:
    """The loss that the options of a method ask for.

    Args:
        loss: ``deviation``, ``cross_entropy`` or ``focal``.
        margin: Of ``deviation``.
        reference_draws: N of N(0, 1) that each step measures mean and deviation of normal scores by, for ``deviation``; None takes
            0 and 1, which they tend to.
        focal_alpha: Weight of anomalies in ``focal``.
        focal_gamma: Its power.

    Raises:
        ConfigError: a single draw, which has no deviation.
    """

    loss: LabelLoss
    margin: float
    reference_draws: int | None
    focal_alpha: float
    focal_gamma: float

    def __post_init__(self) -> None:
        if self.reference_draws == 1:
            raise ConfigError(
                "reference_draws must be null, for the reference 0 and 1, or at least 2; got 1. DevNet draws 5000, FSAD-Net's release 15000."
            )

    def __call__(self, score: Tensor, label: Tensor, generator: Generator) -> Tensor:
        """Losses (B,) of scores (B,) in float32, with labels (B,)."""
        score, truth = score.float(), label.float()
        if self.loss == "cross_entropy":
            return cross_entropy(score, truth)
        if self.loss == "focal":
            return focal_loss(score, truth, alpha=self.focal_alpha, gamma=self.focal_gamma)
        if self.reference_draws is not None:
            draws = torch.randn(self.reference_draws, generator=generator, dtype=torch.float32, device=score.device)
            score = (score - draws.mean()) / draws.std()
        return deviation_loss(score, truth, margin=self.margin)
