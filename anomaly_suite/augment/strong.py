"""Strong augmentations in numbered versions: which one an image went through can be told, and is a label.

Sources: Tian et al., CCD (MICCAI 2021), for permutation, rotation, cutout and noise; PMSACL for MedMix and CutMix. Version 0 is the
image itself, for ``noise`` scaled to [0, 1] as all its versions are.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from anomaly_suite.augment.draws import Draws, normal
from anomaly_suite.augment.medmix import medmix
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.tracing import untraced

Strong = Literal["permutation", "rotation", "cutout", "noise", "cutmix", "medmix"]

MOST: dict[str, int] = {"permutation": 4, "rotation": 4, "noise": 4}
"""Versions that there are; the others have one for each number of holes or lesions."""

HOLE_SIDE = 1 / 4  # of the image's side; CCD gives no length
NOISE_VARIANCE = 0.05
SALT_SHARE = 0.05  # of the values, half of them salt


def require_versions(kind: str, count: int) -> None:
    """Refuse a number of versions that an augmentation does not have.

    Raises:
        ConfigError: fewer than 2, or too many.
    """
    if count < 2 or count > MOST.get(kind, count):
        most = f"2 to {MOST[kind]}" if kind in MOST else "at least 2"
        raise ConfigError(
            f"num_strong must be {most} for strong: {kind}, the image as it is included; got {count}. The papers use 4."
        )


@untraced
@torch.no_grad()
def strong_versions(
    image: Tensor,
    version: Tensor,
    draws: Draws,
    *,
    kind: Strong,
    pool: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Each image in the version of its number.

    Args:
        image: Shape (B, C, H, W), in [0, 1].
        version: From 0, int64 (B,).
        draws: Source of all draws.
        kind: ``permutation`` of halves (k // 2 swaps top and bottom, k % 2 left and right), ``rotation`` by k quarter turns, ``cutout`` of
            k squares, ``noise`` (none, Gaussian, speckle, salt and pepper), ``cutmix`` and ``medmix`` with k rectangles of other images.
        pool: Those other images; see :func:`~anomaly_suite.augment.medmix.medmix`.
        own: Number of every image among them.

    Returns:
        Shape and type of ``image``.

    Raises:
        ShapeError: images of odd sides for ``permutation``, or that are not square for ``rotation``.
    """
    if kind in ("cutmix", "medmix"):
        changes = {"deform": False, "feather": 0} if kind == "cutmix" else {}
        return medmix(image, version, draws, pool=pool, own=own, **changes).image  # type: ignore[arg-type]
    return _KINDS[kind](image, version, draws)


def permute_halves(image: Tensor, version: Tensor, draws: Draws | None = None) -> Tensor:
    """Swap halves: top and bottom if k // 2, left and right if k % 2; nothing is drawn.

    Raises:
        ShapeError: odd sides.
    """
    height, width = image.shape[2:]
    if height % 2 or width % 2:
        raise ShapeError(
            f"permutation swaps halves of images, which need even sides; got {tuple(image.shape)}. Resize the images."
        )
    image = torch.where(_of(version // 2 == 1), image.roll(height // 2, 2), image)
    return torch.where(_of(version % 2 == 1), image.roll(width // 2, 3), image)


def rotate(image: Tensor, version: Tensor, draws: Draws | None = None) -> Tensor:
    """Rotate by k quarter turns; nothing is drawn.

    Raises:
        ShapeError: images that are not square.
    """
    if image.shape[2] != image.shape[3]:
        raise ShapeError(
            f"rotation by quarter turns needs square images; got {tuple(image.shape)}. Crop or resize them to a square."
        )
    image = torch.where(_of(version // 2 == 1), image.flip(2, 3), image)
    return torch.where(_of(version % 2 == 1), torch.rot90(image, 1, (2, 3)), image)


def cut_out(image: Tensor, version: Tensor, draws: Draws) -> Tensor:
    """Set k squares, a quarter of the side long, to 0 at random places of images (B, C, H, W), which may overlap; k is ``version`` (B,)."""
    height, width = image.shape[2:]
    most = int(version.max()) if len(version) else 0
    if not most:
        return image
    tall, broad = (max(1, round(HOLE_SIDE * side)) for side in (height, width))
    uniform = draws(len(image), 2, most)
    top, left = (uniform[:, 0] * (height - tall + 1)).long(), (uniform[:, 1] * (width - broad + 1)).long()
    row, column = torch.arange(height, device=image.device), torch.arange(width, device=image.device)
    rows = (row >= top.unsqueeze(2)) & (row < top.unsqueeze(2) + tall)  # (B, K, H)
    columns = (column >= left.unsqueeze(2)) & (column < left.unsqueeze(2) + broad)  # (B, K, W)
    there = torch.arange(most, device=image.device) < version.unsqueeze(1)  # (B, K)
    hole = (rows.unsqueeze(3) & columns.unsqueeze(2) & there[..., None, None]).any(1, keepdim=True)
    return image.masked_fill(hole, 0)


def add_noise(image: Tensor, version: Tensor, draws: Draws) -> Tensor:
    """Scale every image (B, C, H, W) to [0, 1]; then none, Gaussian noise, speckle, or salt and pepper, by ``version`` (B,)."""
    low, high = (extreme.view(-1, 1, 1, 1) for extreme in image.flatten(1).aminmax(dim=1))
    scaled = (image - low) / (high - low).clamp_min(1e-6)
    uniform = draws(len(image), 2, *image.shape[1:])
    noise = (NOISE_VARIANCE**0.5 * normal(uniform[:, 0])).to(image.dtype)
    grains = uniform[:, 1]
    kinds = [
        scaled + noise,
        scaled + scaled * noise,
        scaled.masked_fill(grains < SALT_SHARE, 0).masked_fill(grains < SALT_SHARE / 2, 1),
    ]
    out = scaled
    for number, noisy in enumerate(kinds, 1):
        out = torch.where(_of(version == number), noisy, out)
    return out.clamp(0, 1)


def _of(chosen: Tensor) -> Tensor:
    return chosen.view(-1, 1, 1, 1)


_KINDS: dict[str, Callable[[Tensor, Tensor, Draws], Tensor]] = {
    "permutation": permute_halves,
    "rotation": rotate,
    "cutout": cut_out,
    "noise": add_noise,
}
