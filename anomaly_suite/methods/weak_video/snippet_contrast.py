"""The contrast of CTMIL: which snippets are easy and hard, and how hard ones are pulled to easy ones of their kind.

Paper: Tian et al., "Contrastive Transformer-based Multiple Instance Learning for Weakly Supervised Polyp Frame Detection",
    MICCAI 2022; section 9.2 of Yu Tian's thesis.
Reference: the authors' released code is described by our notes; no code was read.
Differs: all windows are searched for missed snippets, the last too; an anomalous video without hard snippets adds nothing to the
    contrast, where arbitrary ones are taken.
Axes: N normal and M anomalous bags, P pairs of them, T snippets, E embedding width, K chosen snippets.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.tracing import untraced

MINING_DROPOUT = 0.6
EASY_SHARE, HARD_SHARE = 8, 16  # one snippet in so many is taken as easy or hard: 4 and 2 of 32
WINDOW, MAJORITY = 10, 9  # K and R: a window of K with at least R active snippets has missed the others

TEMPERATURE = 0.07  # tau

Edge = Literal["width3", "released"]


class Mined(NamedTuple):
    """Indices of snippets, (N or M, K) long each; ``found`` (M, K) is True where ``hard_anomalous`` is one."""

    easy_normal: Tensor
    hard_normal: Tensor
    easy_anomalous: Tensor
    hard_anomalous: Tensor
    found: Tensor


def mining_mask(snippet_score: Tensor, *, generator: torch.Generator) -> Tensor:
    """z: 0 for three snippets in five, 2.5 for the others, at random; the shape (N or M, T) of the scores."""
    draw = torch.rand(snippet_score.shape, generator=generator, dtype=torch.float32, device=snippet_score.device)
    return (draw >= MINING_DROPOUT).float() / (1 - MINING_DROPOUT)


@untraced
@torch.no_grad()
def mine(
    normal: Tensor, anomalous: Tensor, normal_mask: Tensor, anomalous_mask: Tensor, *, edge: Edge = "width3"
) -> Mined:
    """Choose easy and hard snippets; no gradient flows through the choice.

    Easy are the highest of anomalous bags and the lowest of normal ones (an eighth of T each); hard are the highest of
    normal bags and those of anomalous bags that :func:`hard_mask` suspects (a sixteenth).

    Args:
        normal: Scores of normal bags, shape (N, T).
        anomalous: Scores of anomalous bags, shape (M, T).
        normal_mask: z of the normal bags, which is multiplied into all scores but those of hard anomalous snippets; ones
            change nothing.
        anomalous_mask: z of the anomalous bags.
        edge: See :func:`hard_mask`.

    Returns:
        Positions of the chosen snippets.
    """
    snippets = normal.shape[1]
    easy, hard = max(1, snippets // EASY_SHARE), max(1, snippets // HARD_SHARE)
    suspects = hard_mask(anomalous, edge=edge)
    hard_anomalous = anomalous.masked_fill(~suspects, -1).topk(hard, dim=1).indices
    return Mined(
        easy_normal=((normal.amax(1, keepdim=True) - normal) * normal_mask).topk(easy, dim=1).indices,
        hard_normal=(normal * normal_mask).topk(hard, dim=1).indices,
        easy_anomalous=(anomalous * anomalous_mask).topk(easy, dim=1).indices,
        hard_anomalous=hard_anomalous,
        found=suspects.gather(1, hard_anomalous),
    )


def hard_mask(snippet_score: Tensor, *, edge: Edge = "width3") -> Tensor:
    """Snippets of anomalous bags that may be mistaken: where most neighbours are above the bag's median, and ends of runs.

    Args:
        snippet_score: Shape (M, T).
        edge: See :func:`edge_snippets`.

    Returns:
        Bool (M, T); all False where the scores are equal.
    """
    active = snippet_score > snippet_score.median(1, keepdim=True).values
    return missed_snippets(active) | edge_snippets(active, kind=edge)


def missed_snippets(active: Tensor, *, window: int = WINDOW, majority: int = MAJORITY) -> Tensor:
    """Inactive snippets within ``window`` consecutive ones of which at least ``majority`` are active: bool, shape (M, T) to (M, T).

    Example:
        >>> missed_snippets(torch.tensor([[True, False, True, True, False]]), window=3, majority=2).int()
        tensor([[0, 1, 0, 0, 1]], dtype=torch.int32)
    """
    if active.shape[1] < window:
        return torch.zeros_like(active)
    dense = _window_sums(active, window) >= majority  # by first snippet of the window
    covered = _window_sums(F.pad(dense, (window - 1, window - 1)), window) > 0
    return covered & ~active


def edge_snippets(active: Tensor, *, kind: Edge = "width3") -> Tensor:
    """Ends of runs of active snippets: bool, shape (M, T) to (M, T).

    Args:
        active: Bool, shape (M, T); snippets beyond both ends count as inactive.
        kind: ``width3``: first and last snippet of a run; ``released``: an erosion by two less one by four, both
            off-centre, which leaves the second and last of a run, the last of a run of two, nothing of a single snippet.

    Example:
        >>> edge_snippets(torch.tensor([[False, True, True, True, False]])).int()
        tensor([[0, 1, 0, 1, 0]], dtype=torch.int32)
    """
    if kind == "width3":
        return active & ~_erode(active, 1, 1)
    return _erode(active, 1, 0) & ~_erode(active, 2, 1)


def _erode(active: Tensor, before: int, after: int) -> Tensor:
    """Snippets active together with the ``before`` ones before and the ``after`` ones after them."""
    return F.pad(active, (before, after)).unfold(1, before + after + 1, 1).all(2)


def _window_sums(flags: Tensor, window: int) -> Tensor:
    """Flags in every window of consecutive positions: (M, T) to (M, T - window + 1)."""
    total = F.pad(flags.long().cumsum(1), (1, 0))
    return total[:, window:] - total[:, :-window]


def nce(query: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Minus the log share of the positive among all similarities, in float32; lengths of vectors do not matter.

    Args:
        query: Shape (P, E).
        positive: Shape (P, E).
        negatives: Shape (P, K, E).
        temperature: Divides cosines.

    Returns:
        Shape (P,), above 0; log(1 + K) where all vectors are equal.
    """
    query, positive, negatives = (F.normalize(part.float(), dim=-1) for part in (query, positive, negatives))
    similar = (query * positive).sum(-1) / temperature  # not a matrix product, which autocast would round
    others = (query.unsqueeze(1) * negatives).sum(-1) / temperature
    loss: Tensor = F.softplus(others.logsumexp(1) - similar)  # keeps the digits of small losses
    return loss


def contrast(normal: Tensor, anomalous: Tensor, mined: Mined) -> tuple[Tensor, Tensor]:
    """L_HA and L_HN: hard snippets against easy ones of their own video, and of the other one of the pair.

    Args:
        normal: Embeddings of the normal bag of every pair, shape (P, T, E).
        anomalous: Embeddings of the anomalous bags, shape (P, T, E).
        mined: Which snippets; a pair without hard anomalous ones adds nothing to L_HA.

    Returns:
        Two scalars, sums over pairs divided by P.
    """
    easy_normal, easy_anomalous = _take(normal, mined.easy_normal), _take(anomalous, mined.easy_anomalous)  # P K E
    found = mined.found.unsqueeze(2)
    hard = (_take(anomalous, mined.hard_anomalous) * found).sum(1) / found.sum(1).clamp_min(1)
    hard_anomalous = nce(hard, easy_anomalous.mean(1), easy_normal).masked_fill(~mined.found.any(1), 0)
    hard_normal = nce(_take(normal, mined.hard_normal).mean(1), easy_normal.mean(1), easy_anomalous)
    return hard_anomalous.mean(), hard_normal.mean()


def _take(embedding: Tensor, index: Tensor) -> Tensor:
    """Chosen snippets of every bag: (P, T, E) and (P, K) to (P, K, E)."""
    return embedding.gather(1, index.unsqueeze(2).expand(-1, -1, embedding.shape[2]))
