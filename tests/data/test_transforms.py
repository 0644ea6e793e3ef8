"""Resizing, cropping and random steps."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2
import numpy as np
import pytest

from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.io.images import area_or_linear

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
MASK = (RNG.random((32, 32)) < 0.5).astype(np.uint8)


def pipeline(*steps: dict[str, Any], **options: Any) -> Pipeline:
    return Pipeline(**{"image_size": None, "center_crop": None, "steps": steps, **options})


def test_shrinking_averages_and_masks_stay_binary() -> None:
    image, mask = pipeline(image_size=16)(IMAGE, MASK, seed_parts=(0,))
    wanted = IMAGE.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(image - wanted).max() <= 1
    assert mask is not None
    assert mask.shape == (16, 16)
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (20, 24), (48, 40), (32, 40)])
def test_images_are_resized_by_the_rule_of_all_readers(size: tuple[int, int]) -> None:
    image, _ = pipeline(image_size=size)(IMAGE, None, seed_parts=(0,))
    wanted = cv2.resize(IMAGE, size[::-1], interpolation=area_or_linear((32, 32), size))
    assert (image == wanted).all()


@pytest.mark.parametrize("size", [(16, 48), (48, 16), (33, 31), (32, 31), (8, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_albumentations(size: tuple[int, int], channels: int) -> None:
    """Resizing and cropping were its business; runs and checkpoints of that time go on."""
    image, crop = IMAGE[..., :channels], (size[0] - 5, size[1] - 2)
    found, mask = pipeline(image_size=size, center_crop=crop)(image, MASK, seed_parts=(0,))
    steps = [albumentations.Resize(*size, area_for_downscale="image"), albumentations.CenterCrop(*crop)]
    wanted = albumentations.Compose(steps)(image=image, mask=MASK)
    assert np.array_equal(found, wanted["image"])
    assert mask is not None
    assert np.array_equal(mask, wanted["mask"])


def test_nothing_is_imported_for_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_suite.data.steps._albumentations", None)  # it takes seconds
    assert pipeline(image_size=16, center_crop=8)(IMAGE, MASK, seed_parts=(0,))[0].shape == (8, 8, 3)


def test_resize_then_crop_keeps_image_and_mask_in_step() -> None:
    marked = np.repeat(MASK[..., None] * 255, 3, 2)
    image, mask = pipeline(image_size=(64, 96), center_crop=(40, 32), steps=[{"class": "HorizontalFlip", "p": 1}])(
        marked, MASK, seed_parts=(0,)
    )
    assert mask is not None
    assert image.shape == (40, 32, 3)
    assert ((image[..., 0] >= 128) == mask).mean() > 0.9  # bilinear against nearest


def test_nothing_to_do_returns_the_very_image() -> None:
    same = pipeline(image_size=32, center_crop=32)
    assert not same.changes(32, 32)
    assert same.changes(32, 31)
    assert same(IMAGE, None, seed_parts=(0,))[0] is IMAGE


def test_float_output_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must leave 8-bit images; got float32.*Normalize"):
        pipeline({"class": "Normalize"})(IMAGE, None, seed_parts=(0,))


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="must be positive; got 0"):
        pipeline(image_size=0)


def test_a_crop_must_fit() -> None:
    with pytest.raises(
        ConfigError, match=r"center_crop 9 x 8 must fit into the image; image_size is 8 x 8 \(H x W\)\. Give a smaller"
    ):
        Pipeline(image_size=8, center_crop=(9, 8), steps=[])
    pipeline = Pipeline(image_size=None, center_crop=8, steps=[])
    assert pipeline(np.zeros((8, 9, 3), np.uint8), None, seed_parts=(0,))[0].shape == (8, 8, 3)
    with pytest.raises(ShapeError, match=r"center_crop 8 x 8 must fit into the image; 'a\.png' is 7 x 9 \(H x W\)"):
        pipeline(np.zeros((7, 9, 3), np.uint8), None, seed_parts=(0,), source="'a.png'")


@pytest.mark.parametrize("size", [(4,), (4, 4, 4), "12", (4.5, 4)])
def test_sizes_are_a_height_and_a_width(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"a height and a width in pixels, or one number for both; got"):
        Pipeline(image_size=size, center_crop=None, steps=[])


def test_a_step_that_fails_is_one_sentence() -> None:
    steps = [{"class": "RandomCrop", "height": 8, "width": 8}]
    pipeline = Pipeline(image_size=None, center_crop=None, steps=steps)
    with pytest.raises(
        ConfigError, match=r"a transform step cannot work on 'a\.png', 4 x 9 \(H x W\): .*Change the step"
    ):
        pipeline(np.zeros((4, 9, 3), np.uint8), None, seed_parts=(0,), source="'a.png'")
