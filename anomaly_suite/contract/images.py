"""Keys of a batch of images: ``image``, ``label``, ``mask``.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anomaly_suite.contract.numbers import as_numbers
from anomaly_suite.errors import ShapeError


def complete(batch: dict[str, Any]) -> bool:
    """Check and complete the keys of images in place: label and mask get their types, a missing label comes from the mask.

    Args:
        batch: ``image`` (B, C, H, W) float, and perhaps ``label`` (B,) and ``mask`` (B, 1, H, W) or (B, H, W).

    Returns:
        Whether the batch holds images.

    Raises:
        ShapeError: an image that is not a float (B, C, H, W) tensor, labels other than 0 and 1, or a mask of another size.
    """
    if "image" not in batch:
        return False
    image = batch["image"]
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.is_floating_point():
        what = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise ShapeError(
            f"image must be a floating-point tensor of shape (B, C, H, W); got {what}. Convert and stack the images in the loader."
        )
    if "mask" in batch:
        batch["mask"] = _as_mask(as_numbers(batch["mask"], "mask", image.device), image)
    if "label" in batch:
        batch["label"] = as_label(as_numbers(batch["label"], "label", image.device), len(image), unit="image")
    elif "mask" in batch:
        batch["label"] = batch["mask"].flatten(1).any(1).long()
    return True


def complete_truth(batch: dict[str, Any]) -> None:
    """Give the tensors ``label`` and ``mask`` of a batch without images their types in place; a missing label comes from the mask.

    Raises:
        ShapeError: labels other than 0 and 1, or a mask that is none.
    """
    if "mask" in batch:
        batch["mask"] = _as_mask(batch["mask"], None)
    if "label" in batch:
        batch["label"] = as_label(batch["label"], batch["label"].numel(), unit="image")
    elif "mask" in batch:
        batch["label"] = batch["mask"].flatten(1).any(1).long()


def as_label(label: Tensor, count: int, *, unit: str) -> Tensor:
    """Labels of whole samples as long (B,).

    Args:
        label: Any shape of ``count`` elements, 0 (normal) or 1 (anomalous).
        count: B.
        unit: ``image`` or ``video``, for the message.

    Raises:
        ShapeError: another count, or another value than 0 and 1.
    """
    label = label.reshape(-1)
    if len(label) != count:
        raise ShapeError(
            f"label must have one entry per {unit}; got {len(label)} labels for {count} {unit}s. Give (B,) labels in the loader."
        )
    if not bool(((label == 0) | (label == 1)).all()):
        odd = label[(label != 0) & (label != 1)][0].item()
        raise ShapeError(
            f"label must be 0 (normal) or 1 (anomalous); got {odd}. Map class indices to 0 and 1 in the data set, "
            "or use a data module with normal_class."
        )
    return label.long()


def _as_mask(mask: Tensor, image: Tensor | None) -> Tensor:
    mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    wanted = mask.shape if image is None else image.shape
    if mask.ndim != 4 or mask.shape[1] != 1 or len(mask) != wanted[0] or mask.shape[2:] != wanted[2:]:
        raise ShapeError(
            f"mask must have shape (B, 1, H, W) and share B, H and W with image {tuple(wanted)}; got {tuple(mask.shape)}. "
            "Resize masks together with their images (nearest neighbour)."
        )
    return mask >= 0.5 if mask.is_floating_point() else mask > 0
