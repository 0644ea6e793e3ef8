"""One number per sample from what a step returned, whatever axes of length one it has."""

from __future__ import annotations

from typing import Any

import torch

from anomaly_suite.contract import Batch, Prediction
from anomaly_suite.errors import ShapeError

COUNTED = ("image", "snippet_features", "label")
"""Keys of a batch with one entry per sample."""


def per_sample(prediction: Prediction, name: str, batch: Batch) -> list[Any] | None:
    """Plain values of a key with one value per image or video; None without the key.

    Args:
        prediction: What a step returned; the value has shape (B,), or further axes of length one.
        name: Such as ``anomaly_score``.
        batch: What the step was given.

    Raises:
        ShapeError: several values per sample, or another count of samples than the batch has.
    """
    if name not in prediction:
        return None
    value = torch.as_tensor(prediction[name])  # type: ignore[literal-required] # any name may be asked for
    count = next((len(batch[key]) for key in COUNTED if key in batch), None)  # type: ignore[literal-required]
    shape = tuple(value.shape)
    if value.numel() != (shape or (1,))[0] or count not in (None, value.numel()):
        raise ShapeError(
            f"{name} must have shape (B,), one value per sample{'' if count is None else f' of the {count}'}; got {shape}. "
            "Reduce it to one value each in the step."
        )
    found: list[Any] = value.reshape(-1).tolist()
    return found
