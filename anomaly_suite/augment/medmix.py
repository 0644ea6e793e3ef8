"""MedMix: synthetic lesions, cut from other normal images, changed, and pasted; how many there are is known.

Source: Tian et al., "Self-supervised Pseudo Multi-class Pre-training" (PMSACL; MSACL is its first version). No code was released
    and no geometry printed: areas, strengths and the disjoint boxes are ours.
A lesion is a rectangle of another image. Its colours are jittered, noise is added, a fisheye and a horizontal wave warp it, each with
probability 1/2, and it is blended into the image at its border. Without these changes it is CutMix.

Axes: B batch, C channels, H and W pixels, P images of the pool, L lesions of an image, T tries, S side of what a lesion is drawn in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.augment.colour import Jitter, jitter
from anomaly_suite.augment.draws import Draws, between, normal
from anomaly_suite.tracing import untraced

AREA = (0.01, 0.06)  # of the image that a lesion covers
SMALL_AREA = (0.04, 0.12)  # of patches, up to SMALL_SIDE pixels
SMALL_SIDE = 32
MAX_ASPECT = 2.0
JITTER: Jitter = (0.4, 0.4, 0.4, 0.1)
MAX_NOISE = 0.1  # standard deviation, of pixels in [0, 1]
WARP_SHARE = 0.5
FISHEYE = (0.2, 0.6)  # k
WAVE_AMPLITUDE, WAVE_PERIOD = (0.02, 0.08), (0.3, 1.0)  # of the lesion's width, and of its height
FEATHER = 2  # px of the blended border
TRIES, HALVINGS = 20, 6  # places tried before a lesion is halved


class Lesions(NamedTuple):
    """Images with lesions, and where these are."""

    image: Tensor
    """Shape (B, C, H, W), in [0, 1]."""
    mask: Tensor
    """Pixels inside a lesion's box, bool (B, 1, H, W)."""
    boxes: Tensor
    """Row, column, height and width, int64 (B, L, 4); zeros where there is no lesion."""
    label: Tensor
    """Lesions of every image, int64 (B,)."""


@untraced
@torch.no_grad()
def medmix(
    image: Tensor,
    count: Tensor,
    draws: Draws,
    *,
    pool: Tensor | None = None,
    own: Tensor | None = None,
    area: tuple[float, float] | None = None,
    deform: bool = True,
    feather: int = FEATHER,
) -> Lesions:
    """Paste lesions into images; their boxes are disjoint, pixels outside are not touched.

    A box that finds no free place is halved. Where even the smallest finds none (lesions that cover the image), there is one lesion
    less, and ``label`` of the result says so.

    Args:
        image: Shape (B, C, H, W), in [0, 1].
        count: Lesions of every image, int64 (B,); 0 leaves an image as it is.
        draws: Source of all draws.
        pool: Images that lesions are cut from, shape (P, C, H, W); None takes ``image``.
        own: Number of every image in the pool, which is no source for it while there is another; int64 (B,). -1 for one that is not in it.
            None for the images' own order if there is no pool, and else -1.
        area: Smallest and largest share of the image that a lesion covers; None is 0.01 to 0.06, and 0.04 to 0.12 up to 32 px.
        deform: Jitter, noise and warps; without them this is CutMix.
        feather: Pixels over which a border is blended; 0 pastes.

    Returns:
        Images, masks, boxes and labels, the numbers of lesions.
    """
    height, width = image.shape[2:]
    low, high = area or (SMALL_AREA if min(height, width) <= SMALL_SIDE else AREA)
    most = int(count.max()) if len(count) else 0
    if own is None:
        own = torch.arange(len(image), device=image.device) if pool is None else torch.full_like(count, -1)
    pool = image if pool is None else pool
    boxes = _place(count, most, draws, size=(height, width), area=(low, high))
    side = math.sqrt(high * MAX_ASPECT * height * width)
    canvas = (min(height, math.ceil(side)), min(width, math.ceil(side)))
    out = image.clone()
    wide = image.dtype if image.dtype == torch.float64 else torch.float32  # CPUs sample no grids in half precision
    for box in boxes.unbind(1):
        uniform, noise = draws(len(image), 16), draws(len(image), image.shape[1], *canvas) if deform else None
        rows = box[:, 2].nonzero().squeeze(1)
        source = _others(uniform[rows, 0], own[rows], len(pool))
        inside, depth = _inside(box[rows], canvas)
        lesion = _cut(pool[source].to(wide), box[rows], uniform[rows], canvas, warp=deform)
        if noise is not None:
            lesion = jitter(lesion, uniform[rows, 11:15], JITTER, inside=inside.unsqueeze(1))
            strength = (MAX_NOISE * uniform[rows, 15]).view(-1, 1, 1, 1)
            lesion = lesion + (strength * normal(noise[rows])).to(wide)
        _paste(out, lesion.clamp(0, 1), rows, box[rows], inside, depth, feather)
    return Lesions(out, _mask(boxes, image), boxes, (boxes[..., 2] > 0).sum(1))


def _place(count: Tensor, most: int, draws: Draws, *, size: tuple[int, int], area: tuple[float, float]) -> Tensor:
    """Disjoint boxes (B, L, 4) of row, column, height and width."""
    height, width = size
    batch = len(count)
    boxes = torch.zeros(batch, most, 4, dtype=torch.long, device=count.device)
    for number in range(most):
        uniform = draws(batch, 2 + 2 * TRIES * HALVINGS)
        share = between(uniform[:, 0], *area) * height * width
        aspect = (math.log(MAX_ASPECT) * (2 * uniform[:, 1] - 1)).exp()
        shape = torch.stack([(share * aspect).sqrt(), (share / aspect).sqrt()], 1).round().long()
        limit = torch.tensor([height, width], device=count.device)
        shape = torch.minimum(shape.clamp_min(1), limit)
        halvings = torch.arange(HALVINGS, device=count.device).repeat_interleave(TRIES).view(1, -1, 1)
        shapes = (shape.unsqueeze(1) >> halvings).clamp_min(1)  # (B, T, 2)
        corner = (uniform[:, 2:].view(batch, -1, 2) * (limit - shapes + 1)).long()
        corner = torch.minimum(corner, limit - shapes)  # a product may round up
        others = boxes[:, :number].unsqueeze(1)  # (B, 1, l, 4)
        start, end = corner.unsqueeze(2), (corner + shapes).unsqueeze(2)
        meets = ((start < others[..., :2] + others[..., 2:]) & (others[..., :2] < end)).all(3).any(2)  # (B, T)
        chosen = (~meets).int().argmax(1).view(-1, 1, 1).expand(-1, 1, 2)
        box = torch.cat([corner.gather(1, chosen), shapes.gather(1, chosen)], 2).squeeze(1)
        wanted = (count > number) & ~meets.all(1)
        boxes[:, number] = torch.where(wanted.unsqueeze(1), box, 0)
    return boxes


def _others(uniform: Tensor, own: Tensor, pool: int) -> Tensor:
    """For each image the number of another one in the pool; its own if there is no other."""
    known = own >= 0
    choices = (pool - known.long()).clamp_min(1)
    drawn = torch.minimum((uniform * choices).long(), choices - 1)
    return torch.where(known, (own + 1 + drawn) % pool, drawn)


def _inside(box: Tensor, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which pixels (R, S, S) of the canvas belong to a lesion, and how many pixels lie between each and the border."""
    row = torch.arange(canvas[0], device=box.device).view(1, -1, 1)
    column = torch.arange(canvas[1], device=box.device).view(1, 1, -1)
    height, width = box[:, 2].view(-1, 1, 1), box[:, 3].view(-1, 1, 1)
    depth = torch.minimum(torch.minimum(row, height - 1 - row), torch.minimum(column, width - 1 - column))
    return depth >= 0, depth


def _cut(image: Tensor, box: Tensor, uniform: Tensor, canvas: tuple[int, int], *, warp: bool) -> Tensor:
    """Rectangles of the size of boxes (R, 4) from images (R, C, H, W), shape (R, C, S, S), warped."""
    height, width = image.shape[2:]
    tall, broad = (box[:, dim].view(-1, 1, 1).to(image.dtype) for dim in (2, 3))
    draw = uniform[:, :11].to(image.dtype).view(-1, 11, 1, 1).unbind(1)
    row = torch.arange(canvas[0], dtype=image.dtype, device=image.device).view(1, -1, 1)
    column = torch.arange(canvas[1], dtype=image.dtype, device=image.device).view(1, 1, -1)
    y, x = 2 * (row + 0.5) / tall - 1, 2 * (column + 0.5) / broad - 1  # -1 to 1 inside
    if warp:
        square = x**2 + y**2
        k = between(draw[1], *FISHEYE)
        pull = torch.where((draw[2] < WARP_SHARE) & (square <= 1), k * square + 1 - k, 1.0)
        y, x = y * pull, x * pull
        period, phase = between(draw[3], *WAVE_PERIOD), 2 * math.pi * draw[4]
        shift = 2 * between(draw[5], *WAVE_AMPLITUDE) * torch.sin(2 * math.pi * (y + 1) / 2 / period + phase)
        x = torch.where(draw[6] < WARP_SHARE, 1 - (torch.remainder(x + shift + 1, 4) - 2).abs(), x)  # reflected
    top, left = (draw[7] * (height - tall + 1)).floor(), (draw[8] * (width - broad + 1)).floor()
    y, x = y.expand(-1, *canvas), x.expand(-1, *canvas)
    grid = torch.stack([2 * (left + (x + 1) / 2 * broad) / width - 1, 2 * (top + (y + 1) / 2 * tall) / height - 1], 3)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _paste(out: Tensor, lesion: Tensor, rows: Tensor, box: Tensor, inside: Tensor, depth: Tensor, feather: int) -> None:
    """Blend lesions (R, C, S, S) into the rows of ``out``, in place."""
    number, row, column = inside.nonzero(as_tuple=True)
    place = (rows[number], slice(None), box[number, 0] + row, box[number, 1] + column)
    new = lesion[number, :, row, column]
    if feather:
        weight = ((depth[number, row, column].unsqueeze(1) + 0.5) / feather).clamp_max(1).to(lesion.dtype)
        new = torch.lerp(out[place].to(lesion.dtype), new, weight)
    out[place] = new.to(out.dtype)


def _mask(boxes: Tensor, image: Tensor) -> Tensor:
    """Pixels inside any box, bool (B, 1, H, W)."""
    height, width = image.shape[2:]
    row = torch.arange(height, device=image.device).view(1, 1, -1, 1)
    column = torch.arange(width, device=image.device).view(1, 1, 1, -1)
    top, left, tall, broad = (part.unsqueeze(-1).unsqueeze(-1) for part in boxes.unbind(2))
    inside = (row >= top) & (row < top + tall) & (column >= left) & (column < left + broad)
    return inside.any(1, keepdim=True) if boxes.shape[1] else image.new_zeros(len(image), 1, height, width).bool()
