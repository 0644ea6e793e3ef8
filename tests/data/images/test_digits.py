from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from anomaly_suite.data import Digits


def test_counts_and_pixels() -> None:
    data = Digits(normal_class=7, image_size=None)
    data.setup()
    assert data.splits is not None
    assert data.splits.val is not None
    published = load_digits()
    count = int((published.target == 7).sum())  # 179
    assert len(data.splits.train) + len(data.splits.val) == round(count * 2 / 3) == 119
    assert len(data.splits.test) == 1797 - 119
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (32, 1, 8, 8)
    for image, label, path in zip(batch["image"], batch["label"], batch["image_path"], strict=True):
        digit, position = map(int, path.split("/"))
        assert published.target[position] == digit
        assert label == (digit != 7)
        assert np.abs(image[0].numpy() * 255 - published.images[position] * 255 / 16).max() <= 0.5


def test_default_size_is_32_and_parts_do_not_overlap() -> None:
    data = Digits()
    data.setup()
    assert data.splits is not None
    assert data.splits.train.image.shape[1:] == (1, 32, 32)
    assert data.splits.train.image.dtype == torch.uint8
    names = [name for part in data.splits for name in part.names]
    assert len(names) == len(set(names)) == 1797
