"""Contrastive losses of self-supervised pre-training.

Sources: Chen et al., SimCLR (ICML 2020); Khosla et al., SupCon (NeurIPS 2020); Sohn et al., DROC (ICLR 2021); Tian et al., CCD (MICCAI
    2021) and PMSACL. Every loss is a softmax over a row of similarities, of which some are left out: an anchor's own, for one.

Axes: A anchors, M candidates (with several processes those of all of them), D width of a projection, N classes.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Denominator = Literal["proper", "literal"]
"""Whether the positive keeps its temperature in PMSACL's denominator, or gets that of its class as equation 5.7 prints it."""

SMALLEST_NORM = 1e-6  # of a centred projection


class Candidates(NamedTuple):
    """What anchors are compared with: views of all processes; the anchors are those from ``first`` on.

    The views of a process are two blocks, first views and second ones, in the same order.
    """

    feature: Tensor
    """Projections (M, D)."""
    label: Tensor
    """Which strong augmentation each went through, (M,)."""
    source: Tensor
    """Number of the image that each was made of, (M,)."""
    first: int = 0
    own: int = 0
    """Views of this process, A; 0 for all."""

    @property
    def anchors(self) -> Tensor:
        """Numbers of the anchors among the candidates, (A,)."""
        count = self.own or len(self.feature)
        return torch.arange(self.first, self.first + count, device=self.feature.device)

    @property
    def positives(self) -> Tensor:
        """Number of each anchor's other view, (A,)."""
        anchors = self.anchors
        return anchors.roll(len(anchors) // 2)

    def others(self) -> Tensor:
        """All but the anchor itself, bool (A, M)."""
        return torch.arange(len(self.feature), device=self.feature.device) != self.anchors.unsqueeze(1)


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of all pairs, in float32 under autocast: (A, D) and (M, D) to (A, M)."""
    with torch.autocast(first.device.type, enabled=False):
        return _precise(first) @ _precise(second).T


def contrast(logits: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
    """Mean of ``-log (e^positive / sum of e^allowed)``: the loss of SimCLR, CCD, CSI and DROC.

    Args:
        logits: Similarities over the temperature, (A, M).
        positive: Column of each row's positive, int64 (A,).
        allowed: Columns in the denominator, bool (A, M); the positive is one of them. Where it is the only one, the row's loss is 0.

    Returns:
        Scalar.
    """
    return F.cross_entropy(logits.masked_fill(~allowed, -math.inf), positive)


def scaled_contrast(
    cosine: Tensor,
    positive: Tensor,
    allowed: Tensor,
    same_class: Tensor,
    *,
    temperature: float,
    alpha: float,
    denominator: Denominator,
) -> Tensor:
    """PMSACL's contrast: in the denominator pairs of one class have the temperature ``alpha * temperature``.

    Args:
        cosine: Similarities (A, M).
        positive: Column of each row's positive, int64 (A,).
        allowed: Columns in the denominator, bool (A, M).
        same_class: Which pairs are of one class, bool (A, M).
        temperature: Of the positive and of pairs of two classes.
        alpha: Above 1 members of a class repel each other less; 1 is SimCLR's loss.
        denominator: See :data:`Denominator`. ``literal`` can be negative, down to ``-(1 - 1 / alpha) / temperature``.

    Returns:
        Scalar.
    """
    scale = torch.where(same_class, 1 / (alpha * temperature), 1 / temperature).to(cosine.dtype)
    chosen = cosine.gather(1, positive.unsqueeze(1)) / temperature
    logits = (cosine * scale).masked_fill(~allowed, -math.inf)
    if denominator == "proper":
        logits = logits.scatter(1, positive.unsqueeze(1), chosen)
    return (torch.logsumexp(logits, 1) - chosen.squeeze(1)).mean()


def supervised_contrast(logits: Tensor, positives: Tensor, allowed: Tensor) -> Tensor:
    """SupCon: the mean log-probability of each anchor's positives, negated; anchors without any are left out.

    Args:
        logits: Similarities over the temperature, (A, M).
        positives: Other views of the anchor's class, bool (A, M).
        allowed: Columns in the denominator, bool (A, M).

    Returns:
        Scalar, 0 if no anchor has a positive.
    """
    log_share = torch.log_softmax(logits.masked_fill(~allowed, -math.inf), 1)
    count = positives.sum(1)
    total = log_share.masked_fill(~positives, 0).sum(1)
    loss: Tensor = -(total / count.clamp_min(1)).sum() / (count > 0).sum().clamp_min(1)
    return loss


def center_loss(feature: Tensor, center: Tensor) -> Tensor:
    """Mean squared distance of projections to the centres of their classes: (A, D) twice to a scalar."""
    return (_precise(feature) - center).square().sum(1).mean()


def centered(feature: Tensor, center: Tensor) -> Tensor:
    """Directions (A, D) from the centres of their classes; short ones where a projection is at its centre."""
    difference = _precise(feature) - center
    direction: Tensor = difference / torch.linalg.vector_norm(difference, dim=1, keepdim=True).clamp_min(SMALLEST_NORM)
    return direction


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
