"""The pixels of driving scenes that are scored: one ranking of those labelled 0 and 1, the rest left out."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.codes import VOID
from anomaly_suite.errors import LabelError, ShapeError


def scored_pixels(anomaly_map: Tensor, ood_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Take the scores and labels of the scored pixels out of a batch, for any metric of :class:`RankMetric`.

    A map of another size is resized to the labels, bilinearly and in float32; labels are never resized.

    Args:
        anomaly_map: Higher is more anomalous. Shape ``(B, 1, h, w)``.
        ood_mask: 0 normal, 1 anomalous, 255 not scored. Shape ``(B, H, W)``.

    Returns:
        Scores, in the dtype of the map if it was not resized, and labels, bool. Shape ``(N,)`` each; N may be 0.

    Raises:
        ShapeError: the shapes are not as above.
        LabelError: ``ood_mask`` holds something else than 0, 1 and 255.

    Example:
        >>> scored_pixels(torch.tensor([[[[0.1, 0.2, 0.3]]]]), torch.tensor([[[0, 255, 1]]], dtype=torch.uint8))
        (tensor([0.1000, 0.3000]), tensor([False,  True]))
    """
    if anomaly_map.ndim != 4 or anomaly_map.shape[1] != 1 or ood_mask.ndim != 3 or len(anomaly_map) != len(ood_mask):
        raise ShapeError(
            "anomaly_map must have shape (B, 1, h, w) and ood_mask (B, H, W), with the same B; got "
            f"{tuple(anomaly_map.shape)} and {tuple(ood_mask.shape)}. Add or drop the channel axis of one."
        )
    anomaly_map = at_label_size(anomaly_map, ood_mask)
    scored = ood_mask != VOID
    truth = ood_mask.masked_select(scored)
    if len(truth) and int(truth.max()) > 1:
        raise LabelError(
            f"ood_mask must hold only 0 (normal), 1 (anomalous) and {VOID} (not scored); got {int(truth.max())}. "
            "Translate the labels of the data set when it is read."
        )
    return anomaly_map.squeeze(1).masked_select(scored), truth.bool()


def at_label_size(anomaly_map: Tensor, ood_mask: Tensor) -> Tensor:
    """Resize maps to their labels, bilinearly and in float32, where the sizes differ.

    Args:
        anomaly_map: Shape ``(B, 1, h, w)``.
        ood_mask: Shape ``(B, H, W)``.

    Returns:
        Shape ``(B, 1, H, W)``.
    """
    if anomaly_map.shape[2:] == ood_mask.shape[1:]:
        return anomaly_map
    return torch.nn.functional.interpolate(anomaly_map.float(), ood_mask.shape[1:], mode="bilinear")
