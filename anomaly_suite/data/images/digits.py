"""Digits: 1,797 handwritten digits that come with scikit-learn; one is normal, the others are anomalous."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anomaly_suite.data.memory import OneVsRest, Pool


class Digits(OneVsRest):
    """Handwritten digits that come with scikit-learn, so there is nothing to download.

    The 8 x 8 images have grey levels 0 to 16, scaled to 0 to 255. A seeded 2/3 of the normal digit (about 120 images) is
    for training; the rest of it and all other digits are the test set.

    Args:
        image_size: Side of the images in pixels, interpolated bilinearly; None keeps 8.
        options: Options of :class:`~anomaly_suite.data.memory.OneVsRest`.
    """

    classes = tuple("0123456789")

    def __init__(self, *, image_size: int | None = 32, **options: Any) -> None:
        super().__init__(image_size=image_size, protocol="pooled_2to1", **options)

    def load(self) -> Pool:
        """Unpack scikit-learn's copy."""
        from sklearn.datasets import load_digits  # slow to import

        images, target = load_digits(return_X_y=True)
        image = torch.from_numpy(images).mul(255 / 16).round().byte().view(-1, 1, 8, 8)
        return Pool(image, target.astype(np.int64), np.zeros(len(target), dtype=np.bool_))
