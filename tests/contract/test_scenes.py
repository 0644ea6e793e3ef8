"""Labels of pixels in a batch of driving scenes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import OUTLIER, VOID, as_batch
from anomaly_suite.errors import ShapeError

IMAGE = torch.rand(2, 3, 4, 5)
TARGET = torch.tensor([0, 1, OUTLIER, VOID], dtype=torch.uint8).repeat(10).view(2, 4, 5)


def test_labels_of_pixels_get_their_shape_and_type() -> None:
    batch = as_batch({"image": IMAGE, "target": TARGET.unsqueeze(1), "ood_mask": (TARGET == OUTLIER).numpy()})
    assert batch["target"].dtype == torch.int64
    assert torch.equal(batch["target"], TARGET.long())
    assert batch["ood_mask"].dtype == torch.uint8
    assert torch.equal(batch["ood_mask"].bool(), TARGET == OUTLIER)
    assert "label" not in batch


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"target": TARGET[:, :3]}, r"target must be whole numbers.*got \(2, 3, 5\)"),
        ({"target": TARGET[:1]}, r"got \(1, 4, 5\)"),
        ({"ood_mask": TARGET.float()}, r"ood_mask must be whole numbers.*torch.float32"),
        ({"ood_mask": np.zeros((2, 3, 4, 5), np.uint8)}, r"got \(2, 3, 4, 5\)"),
    ],
)
def test_labels_that_do_not_fit_their_images(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        as_batch({"image": IMAGE, **parts})
