"""Anomalous regions of a mask: 8-connected components, each worth 1 in total."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.errors import ShapeError


def region_weights(mask: Tensor) -> Tensor:
    """Give every anomalous pixel the weight 1 / area of its region.

    The sum of the weights is the number of regions, so counting pixels by weight averages over regions.

    Args:
        mask: True where anomalous. Shape ``(B, H, W)`` or ``(B, 1, H, W)``.

    Returns:
        One weight per anomalous pixel, in the order of ``mask.flatten()``; float64, on the device of ``mask``.

    Raises:
        ShapeError: ``mask`` is no batch of one-channel masks.

    Example:
        >>> region_weights(torch.tensor([[[True, True, False, True]]]))
        tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    import cv2
    import numpy as np

    if mask.ndim not in (3, 4) or (mask.ndim == 4 and mask.shape[1] != 1):
        raise ShapeError(
            f"regions need masks of shape (B, H, W) or (B, 1, H, W); got {tuple(mask.shape)}. Pass whole maps and masks, "
            "not flattened pixels."
        )
    images = mask.reshape(-1, *mask.shape[-2:])
    weights = [np.empty(0)]
    for image in images[images.flatten(1).any(dim=1)].cpu().numpy():
        _, labels = cv2.connectedComponents(image.view(np.uint8), connectivity=8)
        region = labels[image]
        weights.append(1 / np.bincount(region)[region])
    return torch.from_numpy(np.concatenate(weights)).to(mask.device)
