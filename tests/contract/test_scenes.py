"""Labels of pixels in a batch of driving scenes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_suite.contract import OUTLIER, VOID, AnomalyModule, as_batch, have_scored, highest_scored
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


# Scores of whole scenes ------------------------------------------------------------------------------------------------


class Brightest(AnomalyModule):
    """The map is the first channel, and the score its maximum."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.amax((1, 2, 3)), image[:, :1]


def scenes() -> dict[str, Tensor]:
    """Four scenes of 2 x 4 pixels: normal below a bright bonnet, anomalous, all void, normal without void."""
    image = torch.full((4, 1, 2, 4), 0.1)
    image[0, 0, 0, 0], image[1, 0, 0, 2], image[3, 0, 1, 1] = 0.3, 0.7, 0.2
    image[0, 0, 1], image[1, 0, 1], image[2] = 0.9, torch.nan, 0.8
    ood_mask = torch.zeros(4, 2, 4, dtype=torch.uint8)
    ood_mask[:2, 1] = VOID
    ood_mask[1, 0, 2] = 1
    ood_mask[2] = VOID
    return {"image": image, "ood_mask": ood_mask}


def test_the_highest_scored_pixel_is_the_score_of_a_scene() -> None:
    batch = as_batch(scenes())
    assert have_scored(batch["ood_mask"]).tolist() == [True, True, False, True]
    expected = [pytest.approx(value) for value in (0.3, 0.7, 0.8, 0.2)]
    assert highest_scored(batch["image"], batch["ood_mask"]).tolist() == expected
    model = Brightest()
    model.calibration.set("image", threshold=0.5, low=0.0, high=1.0)
    prediction = model.test_step(scenes(), 0)
    assert prediction is not None
    assert prediction["anomaly_score"].tolist() == expected
    assert prediction["pred_label"].tolist() == [False, True, True, False]  # decisions follow
    without = model.predict_step({"image": scenes()["image"][:1]}, 0)
    assert without is not None
    assert without["anomaly_score"].tolist() == [pytest.approx(0.9)]  # nobody says what is void


def test_small_maps_are_brought_to_the_labels_first() -> None:
    small = torch.tensor([[[[0.0, 1.0]]]])
    ood_mask = torch.tensor([[[0, 0, VOID, VOID]]])
    large = torch.nn.functional.interpolate(small, (1, 4), mode="bilinear")
    assert highest_scored(small, ood_mask).item() == large[..., :2].max().item() < 1
