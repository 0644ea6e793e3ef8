"""What loaders of all kinds yield becomes a batch; which modality it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_suite.contract import as_batch
from anomaly_suite.errors import ShapeError

IMAGE = torch.rand(3, 1, 4, 5)


@dataclass
class OwnBatch:
    image: Tensor
    label: Tensor
    gt_mask: None = None


@pytest.mark.parametrize(
    "raw",
    [
        {"image": IMAGE, "label": torch.tensor([0, 1, 1], dtype=torch.int32), "mask": None, "more": 1},
        (IMAGE, torch.tensor([0.0, 1.0, 1.0])),
        [IMAGE, torch.tensor([[False], [True], [True]])],
        OwnBatch(IMAGE, torch.tensor([0, 1, 1])),
    ],
    ids=["mapping", "tuple", "list", "object"],
)
def test_loaders_of_all_kinds_become_a_batch(raw: Any) -> None:
    batch = as_batch(raw)
    assert batch["image"] is IMAGE
    assert batch["label"].tolist() == [0, 1, 1]
    assert batch["label"].dtype == torch.int64
    assert "mask" not in batch
    assert as_batch(batch) is batch


def test_an_image_alone_is_a_batch() -> None:
    assert list(as_batch(IMAGE)) == ["image"]


def test_a_batch_without_any_modality_says_what_it_holds() -> None:
    with pytest.raises(ShapeError, match=r"needs the key .image..*got img, other. Rename the key"):
        as_batch({"img": IMAGE, "nothing": None, "other": 1})


def test_images_win_over_features_of_the_same_batch() -> None:
    batch = as_batch({"image": IMAGE, "snippet_features": "left alone", "label": [0, 1, 0]})
    assert batch["label"].tolist() == [0, 1, 0]
    assert batch["snippet_features"] == "left alone"
