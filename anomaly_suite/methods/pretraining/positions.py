"""Where one patch lies, seen from another: eight directions, told from the difference of their features.

Source: Tian et al., CCD (MICCAI 2021), after Doersch et al., ICCV 2015. The released code clips patches at the border and mirrors each
    by itself, both of which give wrong labels; here patches fit, and both are jittered alike.

Axes: B images, P pairs, C channels, S side of a patch, D feature width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomaly_suite.augment.colour import Jitter, jitter
from anomaly_suite.augment.draws import Draws
from anomaly_suite.errors import ShapeError

DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Rows down and columns to the right; the opposite of direction p is 7 - p."""

JITTER: Jitter = (0.2, 0.2, 0.2, 0.05)  # of both patches alike; ours, the code has none
HIDDEN = 128


class PositionHead(nn.Sequential):
    """Differences of features (P, D) to logits (P, 8)."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(DIRECTIONS)))


class PatchPairs(NamedTuple):
    """Pairs of patches, and how they lie to each other."""

    first: Tensor
    """Shape (P, C, S, S)."""
    second: Tensor
    label: Tensor
    """Direction from the first patch to the second, int64 (P,)."""
    corners: Tensor
    """Row and column of both, int64 (2, P, 2)."""


def position_pairs(image: Tensor, draws: Draws, *, size: int, count: int) -> PatchPairs:
    """Pairs of neighbouring patches that lie in the image.

    Patches do not touch: along an axis of the direction they are 3/4 of a side and up to a quarter more apart.

    Args:
        image: Shape (B, C, H, W), in [0, 1].
        draws: Source of all draws.
        size: S.
        count: P; the images take turns.

    Returns:
        Patches, directions and corners.

    Raises:
        ShapeError: images that cannot hold two such patches beside each other.
    """
    height, width = image.shape[2:]
    gap, slack = 3 * size // 4, max(1, size // 4)
    if min(height, width) < size + gap + slack - 1:
        raise ShapeError(
            f"positions are told from pairs of patches, which need images of at least {size + gap + slack - 1} pixels for patches of "
            f"{size}; got {tuple(image.shape)}. Enlarge the images, lower patch_size, or set position_weight to 0."
        )
    owner = torch.arange(count, device=image.device) % len(image)
    uniform = draws(count, 9)
    label = (uniform[:, 0] * 8).long()
    table = torch.tensor(DIRECTIONS, device=image.device)
    offset = table[label] * (gap + (uniform[:, 1:3] * slack).long())  # (P, 2)
    free = torch.tensor([height, width], device=image.device) - size - offset.abs() + 1
    first = (uniform[:, 3:5] * free).long().minimum(free - 1) - offset.clamp_max(0)
    corners = torch.stack([first, first + offset])
    windows = image.unfold(2, size, 1).unfold(3, size, 1)  # B C rows columns S S, without a copy
    patches = [jitter(windows[owner, :, corner[:, 0], corner[:, 1]], uniform[:, 5:9], JITTER) for corner in corners]
    return PatchPairs(patches[0], patches[1], label, corners)
