"""What a loader gives beside images and features, made a tensor or refused in one sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anomaly_suite.errors import ShapeError


def as_numbers(value: Any, name: str, device: torch.device) -> Tensor:
    """What a loader gives beside the images, as a tensor.

    Args:
        value: A tensor, an array, or lists of numbers.
        name: The key, for the message.
        device: Of the images.

    Raises:
        ShapeError: something else, such as names.
    """
    try:
        return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            f"{name} must be a tensor, or numbers that make one; got {str(value)[:60]!r} ({type(value).__name__}). Map names to numbers in the "
            "data set: 0 is normal, 1 anomalous."
        ) from error
