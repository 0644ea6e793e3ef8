"""Structure-breaking augmentations: normal images in, pseudo-anomalies out.

Source: Khazaie, MSc thesis, ch. 4 (ADACL); cut-paste after Li et al., CVPR 2021. Colours are never changed, only where
things are. Used by methods that train against such images and by data modules that validate with them.

Axes: B batch, C channels, H and W pixels. Images are float in [0, 1]; each image of a batch gets its own draws.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from anomaly_suite.errors import ShapeError
from anomaly_suite.tracing import untraced

Operation = Literal["cut_paste", "puzzle", "rotate90", "rotate270", "mix_up"]

MIN_SHIFT = 4  # px between source and target of cut-paste; the thesis is silent
MIN_CHANGE = 0.01  # mean absolute change below which a copy counts as still normal (black pasted on black)
MAX_TRIES = 5


Share = tuple[float, float]
"""Smallest and largest share, between 0 and 1, drawn uniformly."""

MIX_SHARE: Share = (0.3, 0.7)  # of the rotated part in mix-up; the thesis is silent
CUT_SHARE: Share = (0.2, 0.5)  # of the image's sides that a rectangle of cut-paste has; the thesis is silent


@untraced  # each image takes its own way
def pseudo_anomaly(
    image: Tensor,
    generator: Generator,
    operations: Sequence[Operation] | None = None,
    *,
    mix_share: Share = MIX_SHARE,
    cut_share: Share = CUT_SHARE,
) -> Tensor:
    """One pseudo-anomaly for every image, each by one operation drawn uniformly.

    A copy that hardly differs from its image (mean absolute change below 0.01) is drawn again, at most 5 times.

    Args:
        image: Square images in [0, 1], shape (B, C, H, W).
        generator: Source of all draws, on the device of ``image``.
        operations: The operations to draw from, one that is named twice twice as often; all five if None or empty.
        mix_share: See :func:`mix_up`.
        cut_share: See :func:`cut_paste`.

    Returns:
        Shape and type of ``image``.

    Raises:
        ShapeError: images are not square, though an operation rotates.
    """
    known: dict[str, Callable[..., Tensor]] = {
        **_OPERATIONS,
        "cut_paste": partial(cut_paste, share=cut_share),
        "mix_up": partial(mix_up, share=mix_share),
    }
    functions = [known[name] for name in operations or known]
    out = image.clone()
    todo = torch.ones(len(image), dtype=torch.bool, device=image.device)
    for _ in range(MAX_TRIES):
        choice = torch.randint(len(functions), (len(image),), generator=generator, device=image.device)
        for number, function in enumerate(functions):
            rows = (todo & (choice == number)).nonzero().squeeze(1)
            if len(rows):
                out[rows] = function(image[rows], generator)
        todo = (out - image).abs().flatten(1).mean(1) < MIN_CHANGE
        if not todo.any():
            break
    return out


def cut_paste(image: Tensor, generator: Generator, *, share: Share = CUT_SHARE) -> Tensor:
    """Copy a random rectangle, each side 0.2 to 0.5 of the image's, to a place at least 4 px away.

    Args:
        image: Shape (B, C, H, W).
        generator: Source of the draws.
        share: Of the image's side, for each side of the rectangle.

    Returns:
        Shape of ``image``; only pixels inside the target rectangle differ. Where an image is too small for a shift of
        4 px, any other place serves.
    """
    count, _, height, width = image.shape
    device = image.device

    def uniform(*shape: int) -> Tensor:
        """Draws between 0 and 1."""
        return torch.rand(*shape, generator=generator, dtype=torch.float32, device=device)

    least, spread = share[0], share[1] - share[0]
    size_y = ((least + spread * uniform(count, 1, 1)) * height).long().clamp_min(1)
    size_x = ((least + spread * uniform(count, 1, 1)) * width).long().clamp_min(1)
    from_y = (uniform(count, 1, 1) * (height - size_y + 1)).long()
    from_x = (uniform(count, 1, 1) * (width - size_x + 1)).long()
    rows = torch.arange(height, device=device).view(1, -1, 1)
    columns = torch.arange(width, device=device).view(1, 1, -1)

    # Every allowed top-left corner is equally likely: the largest random number among them wins.
    shift = torch.maximum((rows - from_y).abs(), (columns - from_x).abs())
    fits = (rows <= height - size_y) & (columns <= width - size_x)
    rank = uniform(count, height, width) + (shift >= MIN_SHIFT) + (shift >= 1)
    corner = rank.masked_fill(~fits, -1).flatten(1).argmax(1)
    to_y, to_x = (corner // width).view(-1, 1, 1), (corner % width).view(-1, 1, 1)

    inside = (rows >= to_y) & (rows < to_y + size_y) & (columns >= to_x) & (columns < to_x + size_x)
    source = (rows - to_y + from_y).clamp(0, height - 1) * width + (columns - to_x + from_x).clamp(0, width - 1)
    moved = image.flatten(2).gather(2, source.flatten(1).unsqueeze(1).expand(-1, image.shape[1], -1))
    return torch.where(inside.unsqueeze(1), moved.view_as(image), image)


_PERMUTATIONS = torch.tensor(list(itertools.permutations(range(4)))[1:])  # the identity comes first and is left out


def puzzle(image: Tensor, generator: Generator) -> Tensor:
    """Rearrange the four quarters by a random permutation other than the identity.

    Args:
        image: Shape (B, C, H, W); of an odd side the last row or column stays in place.
        generator: Source of the draws.

    Returns:
        Shape of ``image``, with the same pixels in other places.
    """
    count, channels, height, width = image.shape
    half_y, half_x = height // 2, width // 2
    even = image[:, :, : 2 * half_y, : 2 * half_x]
    quarters = even.reshape(count, channels, 2, half_y, 2, half_x).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # B 4 C h w
    pick = torch.randint(len(_PERMUTATIONS), (count,), generator=generator, device=image.device)
    order = _PERMUTATIONS.to(image.device)[pick]
    moved = quarters[torch.arange(count, device=image.device).unsqueeze(1), order]
    out = image.clone()
    halves = moved.view(count, 2, 2, channels, half_y, half_x).permute(0, 3, 1, 4, 2, 5)  # B C 2 h 2 w
    out[:, :, : 2 * half_y, : 2 * half_x] = halves.reshape(even.shape)
    return out


def rotate90(image: Tensor, generator: Generator | None = None) -> Tensor:
    """Rotate square images of shape (B, C, S, S) by 90 degrees; nothing is drawn.

    Raises:
        ShapeError: images are not square.
    """
    return _rotate(image, 1)


def rotate270(image: Tensor, generator: Generator | None = None) -> Tensor:
    """Rotate square images of shape (B, C, S, S) by 270 degrees; nothing is drawn.

    Raises:
        ShapeError: images are not square.
    """
    return _rotate(image, 3)


def mix_up(image: Tensor, generator: Generator, *, share: Share = MIX_SHARE) -> Tensor:
    """Blend each image with itself rotated by 90 or 270 degrees, the rotated part weighing 0.3 to 0.7.

    Args:
        image: Shape (B, C, S, S).
        generator: Source of the draws.
        share: Weight of the rotated part.

    Returns:
        Shape of ``image``, inside its range.

    Raises:
        ShapeError: images are not square.
    """
    coin, blend = (
        torch.rand(len(image), 1, 1, 1, generator=generator, dtype=torch.float32, device=image.device) for _ in range(2)
    )
    turn, weight = coin < 0.5, share[0] + (share[1] - share[0]) * blend
    return torch.lerp(image, torch.where(turn, _rotate(image, 1), _rotate(image, 3)), weight.to(image.dtype))


def _rotate(image: Tensor, quarter_turns: int) -> Tensor:
    if image.shape[-1] != image.shape[-2]:
        raise ShapeError(
            f"rotating by 90 degrees needs square images; got {tuple(image.shape)}. "
            "Crop or resize to a square, or leave rotate90, rotate270 and mix_up out of operations."
        )
    return quarter_turned(image, quarter_turns)


def quarter_turned(image: Tensor, quarter_turns: int) -> Tensor:
    """What ``torch.rot90`` gives, from steps that can be written as ONNX.

    Args:
        image: Shape (B, C, H, W).
        quarter_turns: Counter-clockwise, 0 to 3.
    """
    if quarter_turns % 2 == 0:
        return image.flip(2, 3) if quarter_turns else image
    return image.transpose(2, 3).flip(2 if quarter_turns == 1 else 3)


_OPERATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "cut_paste": cut_paste,
    "puzzle": puzzle,
    "rotate90": rotate90,
    "rotate270": rotate270,
    "mix_up": mix_up,
}
