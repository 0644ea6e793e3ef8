"""Images as sequences of patches: cutting and joining, fixed positions, and which patches a masked autoencoder sees.

Reference: the layouts (pixels of a patch row by row with channels last, columns in the first half of a position) are those of the masked
    autoencoder of He et al., CVPR 2022, so that its published weights fit.
Axes: B images, S sequences (one an image and mask), N patches of an image, K of them visible, P a patch's side, C channels, H and W pixels,
    D width of a token.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from anomaly_suite.nn.exporting import plain
from anomaly_suite.tracing import untraced

PERIOD = 10_000.0  # of the slowest wave, in patches


def patchify(image: Tensor, size: int) -> Tensor:
    """Cut images (B, C, H, W) into patches of ``size`` P, to (B, N, P * P * C), row by row."""
    channels, height, width = map(plain, image.shape[1:])
    parts = image.reshape(-1, channels, height // size, size, width // size, size)
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of :func:`patchify`: (B, N, P * P * C) of a grid of (rows, columns) to (B, C, H, W)."""
    parts = patches.reshape(-1, *grid, size, size, plain(patches.shape[2]) // size**2)
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def sine_cosine_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Fixed positions: sines and cosines of the column in the first half of the channels, of the row in the second.

    Args:
        width: D, a multiple of 4.
        grid: Rows and columns of patches.

    Returns:
        Shape (N, D), float32, in [-1, 1].
    """
    quarter = width // 4
    rate = PERIOD ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten().unsqueeze(1) * rate for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1).float()


@untraced
def draw_visible(count: int, patches: int, visible: int, *, generator: Generator) -> Tensor:
    """Which patches are seen, every choice equally likely.

    Args:
        count: S.
        patches: N.
        visible: K.
        generator: Source of the draws.

    Returns:
        Numbers of patches, int64 (S, K), on the generator's device.
    """
    noise = torch.rand(count, patches, generator=generator, dtype=torch.float32, device=generator.device)
    return noise.argsort(1)[:, :visible]


def take_visible(tokens: Tensor, visible: Tensor) -> Tensor:
    """Tokens (S, N, D) at the patches (S, K), to (S, K, D)."""
    return tokens.gather(1, visible.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def put_back(tokens: Tensor, visible: Tensor, filler: Tensor, patches: int) -> Tensor:
    """Visible tokens at their places, and one token at all others.

    Args:
        tokens: Shape (S, K, D).
        visible: Their patches, int64 (S, K).
        filler: Of all other patches, shape (1, 1, D).
        patches: N.

    Returns:
        Shape (S, N, D).
    """
    places = visible.unsqueeze(2).expand(-1, -1, tokens.shape[2])
    return filler.to(tokens.dtype).expand(tokens.shape[0], patches, -1).scatter(1, places, tokens)


def hidden(visible: Tensor, patches: int) -> Tensor:
    """1 for the patches that are not among the visible ones (S, K), else 0: float32 (S, N)."""
    ones = torch.ones(visible.shape[0], patches, dtype=torch.float32, device=visible.device)
    return ones.scatter(1, visible, 0.0)
