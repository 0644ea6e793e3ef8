"""Labels and masks of a batch of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anomaly_suite.contract import as_batch
from anomaly_suite.errors import ShapeError

IMAGE = torch.rand(3, 1, 4, 5)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(3, 1, 4, 5), (3, 4, 5)])
def test_masks_become_bool_and_give_the_label(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    mask = torch.zeros(3, 1, 4, 5)
    mask[1, 0, 2, 3] = 1
    scale = 255 if kind == torch.uint8 else 1
    batch = as_batch({"image": IMAGE, "mask": (mask * scale).to(kind).reshape(shape)})
    assert torch.equal(batch["mask"], mask.bool())
    assert batch["label"].tolist() == [0, 1, 0]


def test_half_a_mask_is_anomalous() -> None:
    mask = torch.tensor([0.0, 0.49, 0.5, 0.51]).expand(3, 1, 5, 4).mT
    assert as_batch({"image": IMAGE, "mask": mask})["mask"][0, 0, :, 0].tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"image": IMAGE[0]}, r"must be a floating-point tensor of shape \(B, C, H, W\); got \(1, 4, 5\)"),
        ({"image": (IMAGE * 255).byte()}, "torch.uint8"),
        ((IMAGE, torch.tensor([0, 7, 1])), "got 7. Map class indices"),
        ((IMAGE, torch.tensor([0, -1, 1])), "got -1"),
        ((IMAGE, torch.tensor([0, 1])), "2 labels for 3 images"),
        ((IMAGE, torch.tensor([0, 1, 1]), torch.zeros(3, 1, 4, 4)), r"got \(3, 1, 4, 4\)"),
        ((IMAGE, torch.tensor([0, 1, 1]), torch.zeros(3, 2, 4, 5)), r"got \(3, 2, 4, 5\)"),
    ],
)
def test_wrong_batches_get_one_sentence(raw: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        as_batch(raw)
