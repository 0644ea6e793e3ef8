"""Pieces of an image pasted into it at another place: the defects of CutPaste, a patch and a scar.

Source: Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021. Unlike
:func:`~anomaly_suite.augment.structural.cut_paste` of ADACL, colours of the piece are jittered, and a scar is turned.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anomaly_suite.augment.colour import Jitter, jitter
from anomaly_suite.augment.draws import Draws, between
from anomaly_suite.tracing import untraced

AREA = (0.02, 0.15)  # of the image that a patch covers
ASPECT = (0.3, 1 / 0.3)  # of height and width of a patch, its logarithm uniform
SCAR_WIDTH, SCAR_LENGTH = (2.0, 16.0), (10.0, 25.0)  # px
SCAR_TURN = 45.0  # degrees to either side
JITTER: Jitter = (0.1, 0.1, 0.1, 0.1)
DISPLACEMENT = 0.25  # of the patch's sides that it moves at least, along one of them, where the image has room
PLACES = 16  # that are drawn for a target; the first one that is far enough is taken, else the farthest


@untraced
@torch.no_grad()
def paste_patch(image: Tensor, draws: Draws, *, colours: Jitter = JITTER) -> tuple[Tensor, Tensor]:
    """Copy an upright rectangle to another place, its colours jittered.

    Args:
        image: Shape (B, C, H, W), in [0, 1].
        draws: Source of all draws.
        colours: Strength of the jitter.

    Returns:
        Images with the patch, of the shape of ``image``, and its pixels, bool (B, 1, H, W). Others are not touched.
    """
    height, width = image.shape[2:]
    uniform = draws(len(image), 2)
    area = between(uniform[:, 0], *AREA) * height * width
    aspect = between(uniform[:, 1], math.log(ASPECT[0]), math.log(ASPECT[1])).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1)
    return _paste(image, sides, torch.zeros_like(area), draws, colours)


@untraced
@torch.no_grad()
def paste_scar(image: Tensor, draws: Draws, *, colours: Jitter = JITTER) -> tuple[Tensor, Tensor]:
    """Copy a thin rectangle to another place, turned by up to 45 degrees and its colours jittered.

    Only its own pixels are pasted, not the corners of the box around it.

    Args:
        image: Shape (B, C, H, W), in [0, 1].
        draws: Source of all draws.
        colours: Strength of the jitter.

    Returns:
        Images with the scar, of the shape of ``image``, and its pixels, bool (B, 1, H, W). Others are not touched.
    """
    uniform = draws(len(image), 3)
    sides = torch.stack([between(uniform[:, 0], *SCAR_LENGTH), between(uniform[:, 1], *SCAR_WIDTH)], 1)
    angle = math.radians(SCAR_TURN) * (2 * uniform[:, 2] - 1)
    return _paste(image, sides, angle, draws, colours)


def _paste(image: Tensor, sides: Tensor, angle: Tensor, draws: Draws, colours: Jitter) -> tuple[Tensor, Tensor]:
    """Paste rectangles of ``sides`` (B, 2), height and width, turned by ``angle`` (B,)."""
    count, channels, height, width = image.shape
    limit = torch.tensor([height, width], device=image.device)
    sides = torch.minimum(sides.round().long().clamp_min(1), limit)
    source = _corner(draws(count, 1, 2), limit, sides)  # (B, 1, 2)
    places = _corner(draws(count, PLACES, 2), limit, sides)
    shift = ((places - source).abs() / sides.unsqueeze(1)).amax(2)
    far = shift >= DISPLACEMENT
    chosen = torch.where(far.any(1), far.int().argmax(1), shift.argmax(1))
    target = places[torch.arange(count, device=image.device), chosen]
    middle = (target + (sides - 1) / 2).view(count, 2, 1, 1)
    row = torch.arange(height, device=image.device).view(1, -1, 1) - middle[:, 0]
    column = torch.arange(width, device=image.device).view(1, 1, -1) - middle[:, 1]
    cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    half = (sides - 1).view(count, 2, 1, 1) / 2
    down = cosine * row + sine * column + half[:, 0]  # place in the piece, from its first row and column
    right = cosine * column - sine * row + half[:, 1]
    down, right = down.round().long(), right.round().long()
    tall, broad = (sides[:, dim].view(-1, 1, 1) for dim in (0, 1))
    inside = ((down >= 0) & (down < tall) & (right >= 0) & (right < broad)).unsqueeze(1)
    y = (down + source[:, 0, 0].view(-1, 1, 1)).clamp(0, height - 1)
    x = (right + source[:, 0, 1].view(-1, 1, 1)).clamp(0, width - 1)
    index = (y * width + x).flatten(1).unsqueeze(1).expand(-1, channels, -1)
    piece = image.flatten(2).gather(2, index).view_as(image)
    piece = jitter(piece, draws(count, 4), colours, inside=inside)
    return torch.where(inside, piece, image), inside


def _corner(uniform: Tensor, limit: Tensor, sides: Tensor) -> Tensor:
    """Top left corners (B, P, 2) of rectangles that lie in the image, all equally likely."""
    room = (limit - sides).unsqueeze(1)
    return torch.minimum((uniform * (room + 1)).long(), room)
