"""Keys of a batch of driving scenes: images with ``target`` and ``ood_mask``, and the codes of their pixels.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anomaly_suite.codes import OUTLIER, VOID
from anomaly_suite.contract.numbers import as_numbers
from anomaly_suite.errors import ShapeError

__all__ = ["OUTLIER", "VOID", "complete"]


def complete(batch: dict[str, Any]) -> bool:
    """Check the labels of pixels in place; the image itself is checked with the keys of images, before.

    Args:
        batch: ``image`` (B, C, H, W), and perhaps ``target`` and ``ood_mask``, whole numbers (B, H, W) or (B, 1, H, W).

    Returns:
        Whether the batch holds labelled scenes.

    Raises:
        ShapeError: labels of another size than the image, or not whole numbers.
    """
    if "image" not in batch or not {"target", "ood_mask"} & batch.keys():
        return False
    image = batch["image"]
    batch |= {name: as_numbers(batch[name], name, image.device) for name in ("target", "ood_mask") if name in batch}
    for name, kind in (("target", torch.long), ("ood_mask", torch.uint8)):
        if name in batch:
            batch[name] = _as_pixel_labels(torch.as_tensor(batch[name], device=image.device), image, name).to(kind)
    return True


def _as_pixel_labels(value: Tensor, image: Tensor, name: str) -> Tensor:
    value = value.squeeze(1) if value.ndim == 4 and value.shape[1] == 1 else value
    if value.shape != (len(image), *image.shape[2:]) or value.is_floating_point():
        raise ShapeError(
            f"{name} must be whole numbers of shape (B, H, W) and share B, H and W with image {tuple(image.shape)}; got "
            f"{tuple(value.shape)} {value.dtype}. Resize labels together with their images (nearest neighbour)."
        )
    return value
