"""Transform steps of two libraries, by name and as objects, drawn from a seed."""

from __future__ import annotations

import os
from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from torchvision import transforms as first_version
from torchvision.transforms import v2

from anomaly_suite.data.steps import build_step
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.errors import ConfigError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
MASK = (RNG.random((32, 32)) < 0.5).astype(np.uint8)


def pipeline(*steps: Any) -> Pipeline:
    return Pipeline(image_size=None, center_crop=None, steps=steps)


def test_draws_follow_the_seed_parts_alone() -> None:
    random = pipeline({"class": "RandomBrightnessContrast", "p": 1}, {"class": "Rotate", "p": 0.5})
    first = [random(IMAGE, None, seed_parts=(0, 0, index))[0] for index in range(8)]
    again = [random(IMAGE, None, seed_parts=(0, 0, index))[0] for index in reversed(range(8))][::-1]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert len({image.tobytes() for image in first}) == 8


def test_steps_that_hold_steps() -> None:
    step = build_step({"class": "OneOf", "p": 1, "transforms": [{"class": "HorizontalFlip", "p": 1}]})
    assert (step(image=IMAGE)["image"] == IMAGE[:, ::-1]).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"class": "HorizontalFlipp"}, "Did you mean 'HorizontalFlip'"),
        ({"class": "os"}, "name of an albumentations transform; got {'class': 'os'}"),
        ({"p": 1}, "needs 'class'"),
        ({"class": "Rotate", "limits": 3}, "got 'limits'. Did you mean 'limit'"),
        ({"class": "v2.RandomHorizontalFlipp"}, "of torchvision.transforms.v2; .*Did you mean 'RandomHorizontalFlip'"),
        ({"class": "v2.RandomRotation", "degrees": -3}, "RandomRotation cannot be built .*-3"),
        ("HorizontalFlip", r"or a mapping with its 'class'; got 'HorizontalFlip'"),
        (first_version.RandomHorizontalFlip(), "Older transforms of torchvision leave masks behind"),
        ({"class": "GaussNoise", "std_range": [5, 9]}, "GaussNoise cannot be built .*std_range"),
    ],
)
def test_wrong_steps(step: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(step)


@pytest.mark.parametrize("kind", ["object", "mapping"])
def test_steps_of_torchvision_change_image_and_mask_alike(kind: str) -> None:
    step = v2.RandomRotation(30) if kind == "object" else {"class": "v2.RandomRotation", "degrees": 30}
    marked = np.repeat(MASK[..., None] * 255, 3, 2)
    before = torch.random.get_rng_state()
    image, mask = pipeline(step)(marked, MASK, seed_parts=(0, 2))
    again, _ = pipeline(step)(marked, MASK, seed_parts=(0, 2))
    other, _ = pipeline(step)(marked, MASK, seed_parts=(0, 3))
    assert torch.equal(before, torch.random.get_rng_state())
    assert mask is not None
    assert np.array_equal(image[..., 0] >= 128, mask == 1)
    assert not np.array_equal(mask, MASK)
    assert np.array_equal(image, again)
    assert not np.array_equal(image, other)


def test_steps_of_both_libraries_in_their_order() -> None:
    steps = [
        albumentations.HorizontalFlip(p=1),
        {
            "class": "torchvision.transforms.v2.RandomApply",
            "p": 1,
            "transforms": [{"class": "v2.RandomVerticalFlip", "p": 1}],
        },
        {"class": "Transpose", "p": 1},
    ]
    found = pipeline(*steps)
    image, mask = found(IMAGE, MASK, seed_parts=(0,))
    assert np.array_equal(image, IMAGE[::-1, ::-1].transpose(1, 0, 2))
    assert mask is not None
    assert np.array_equal(mask, MASK[::-1, ::-1].T)
    assert found.step_names == ["HorizontalFlip", "torchvision.transforms.v2.RandomApply", "Transpose"]


def test_floats_of_torchvision_are_refused() -> None:
    with pytest.raises(ConfigError, match="must leave 8-bit images; got float32"):
        pipeline(v2.ToDtype(torch.float32, scale=True))(IMAGE, None, seed_parts=(0,))


def test_a_grey_image_stays_grey() -> None:
    image, mask = pipeline(v2.GaussianBlur(3))(IMAGE[..., :1], None, seed_parts=(0,))
    assert image.shape == (32, 32, 1)
    assert mask is None


def test_albumentations_is_kept_from_asking_the_network() -> None:
    pipeline({"class": "HorizontalFlip"})
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"]
