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

__all__ = ["OUTLIER", "VOID", "complete", "have_scored", "highest_scored"]


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


def have_scored(ood_mask: Tensor) -> Tensor:
    """Which scenes have a scored pixel; of the others nobody can say whether they are normal. From (B, H, W), shape (B,), bool."""
    return (ood_mask != VOID).flatten(1).any(1)


def highest_scored(anomaly_map: Tensor, ood_mask: Tensor) -> Tensor:
    """The score of each scene: the highest of its scored pixels. What is void, such as the car's own bonnet, says nothing about it.

    Args:
        anomaly_map: Shape (B, 1, h, w), resized to the labels where the sizes differ, bilinearly and in float32.
        ood_mask: 0 normal, 1 anomalous, ``VOID`` not scored, shape (B, H, W).

    Returns:
        Shape (B,); of a scene without any scored pixel the highest of all, for there is no other.

    Raises:
        ShapeError: the shapes are not as above.

    Example:
        >>> highest_scored(torch.tensor([[[[0.1, 0.9]]]]), torch.tensor([[[0, 255]]]))
        tensor([0.1000])
    """
    if anomaly_map.ndim != 4 or anomaly_map.shape[1] != 1 or ood_mask.ndim != 3 or len(anomaly_map) != len(ood_mask):
        raise ShapeError(
            "anomaly_map must have shape (B, 1, h, w) and ood_mask (B, H, W), with the same B; got "
            f"{tuple(anomaly_map.shape)} and {tuple(ood_mask.shape)}. Add or drop the channel axis of one."
        )
    if anomaly_map.shape[2:] != ood_mask.shape[1:]:
        anomaly_map = torch.nn.functional.interpolate(anomaly_map.float(), ood_mask.shape[1:], mode="bilinear")
    score, void = anomaly_map.flatten(1), (ood_mask == VOID).flatten(1)
    return torch.where(void.all(1), score.amax(1), score.masked_fill(void, -torch.inf).amax(1))


def _as_pixel_labels(value: Tensor, image: Tensor, name: str) -> Tensor:
    value = value.squeeze(1) if value.ndim == 4 and value.shape[1] == 1 else value
    if value.shape != (len(image), *image.shape[2:]) or value.is_floating_point():
        raise ShapeError(
            f"{name} must be whole numbers of shape (B, H, W) and share B, H and W with image {tuple(image.shape)}; got "
            f"{tuple(value.shape)} {value.dtype}. Resize labels together with their images (nearest neighbour)."
        )
    return value
