"""Scores of pixels that need nothing but class logits; higher is more anomalous.

Sources: Hendrycks and Gimpel, ICLR 2017 (softmax); Hendrycks et al., ICML 2022 (largest logit); Liu et al., NeurIPS 2020
    (energy). All are computed in float32 from logits, so that none overflows and ``0 log 0`` does not occur.
Axes: B batch, Y classes (without an abstention channel), H and W pixels. Every function takes (B, Y, H, W), or (B, Y, ...), and
    returns (B, 1, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

LogitScore = Literal["energy", "msp", "max_logit", "entropy"]


def msp(logits: Tensor) -> Tensor:
    """1 - the largest softmax probability, in [0, 1 - 1/Y]: shape (B, Y, H, W) to (B, 1, H, W)."""
    return -torch.expm1(logits.float().log_softmax(1).amax(1, keepdim=True))


def max_logit(logits: Tensor) -> Tensor:
    """The negated largest logit: shape (B, Y, H, W) to (B, 1, H, W)."""
    return -logits.float().amax(1, keepdim=True)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax, as a share of its largest value ``ln Y``, in [0, 1]: shape (B, Y, H, W) to (B, 1, H, W)."""
    log_p = logits.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1, keepdim=True) / math.log(logits.shape[1])


def energy(logits: Tensor) -> Tensor:
    """Free energy, the negated log-sum-exp: shape (B, Y, H, W) to (B, 1, H, W).

    At most ``ln Y`` below the negated largest logit.
    """
    return -logits.float().logsumexp(1, keepdim=True)


LOGIT_SCORES: dict[LogitScore, Callable[[Tensor], Tensor]] = {
    "energy": energy,
    "msp": msp,
    "max_logit": max_logit,
    "entropy": entropy,
}
