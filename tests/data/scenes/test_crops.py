"""Training crops: image and target flipped, scaled and cropped together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.data.preparation import as_image
from anomaly_suite.data.scenes.crops import CropScenes
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.encoders import standardize

COLOURS = np.array([(250, 10, 20), (10, 240, 30), (20, 30, 230), (200, 200, 10)], np.uint8)


def crop(**options: Any) -> CropScenes:
    return CropScenes(**{"size": None, "flip": 0.0, "scales": [1.0], "scale_range": None, "steps": [], **options})


def blocks(height: int = 24, width: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """A target of blocks of 6 px and an image whose colour is the target's."""
    target = (
        np.random.default_rng(0).integers(0, 4, (height // 6, width // 6)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    )
    return COLOURS[target], target


def run(crop: CropScenes, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    image, target = crop(*blocks(), rng=np.random.default_rng(seed), seed_parts=(seed,))
    return image.permute(1, 2, 0).numpy() * 255, target.numpy()


def test_without_options_nothing_changes() -> None:
    image, target = run(crop())
    assert (image.round() == blocks()[0]).all()
    assert (target == blocks()[1]).all()


def test_flips_are_joint_and_as_frequent_as_asked() -> None:
    flipped = 0
    for seed in range(200):
        image, target = run(crop(flip=0.25), seed)
        assert (image.round() == COLOURS[target]).all()
        flipped += bool((target == blocks()[1][:, ::-1]).all())
    assert 30 <= flipped <= 70


def test_crops_lie_inside_and_reach_every_place() -> None:
    image, target = blocks()
    numbered = np.arange(target.size).reshape(target.shape)
    image[..., 0], image[..., 1] = numbered // 256, numbered % 256  # every pixel tells its place
    places = set()
    for seed in range(300):
        got, part = crop(size=(20, 30))(image, target, rng=np.random.default_rng(seed), seed_parts=(seed,))
        codes = (got[:2] * 255).round().long()
        where = codes[0] * 256 + codes[1]
        top, left = divmod(int(where[0, 0]), 36)
        places.add((top, left))
        assert (where.numpy() == numbered[top : top + 20, left : left + 30]).all()
        assert (part.numpy() == target[top : top + 20, left : left + 30]).all()
    assert places == {(top, left) for top in range(5) for left in range(7)}


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_image_and_target_stay_in_step_when_scaled(factor: float) -> None:
    image, target = run(crop(scales=[factor], size=(round(24 * factor), round(36 * factor))))
    rows, columns = (((np.arange(length) + 0.5) / factor).astype(int) for length in target.shape)
    assert (target == blocks()[1][rows][:, columns]).all()
    near = np.abs(image - COLOURS[target]).max(2) < 60
    assert near.mean() > 0.75  # all but pixels between blocks, which are blended
    assert (np.abs(image - COLOURS[np.roll(target, 2, 1)]).max(2) < 60).mean() < near.mean() - 0.05


def test_scales_are_drawn_from_the_list_or_range() -> None:
    def heights(**options: Any) -> set[int]:
        # On a large canvas, what is not void is the scaled scene.
        return {int((run(crop(size=100, **options), seed)[1] != 255).any(1).sum()) for seed in range(100)}

    assert heights(scales=[0.5, 1.0, 2.0]) == {12, 24, 48}
    drawn = heights(scales=[3.0], scale_range=(0.5, 1.5))
    assert min(drawn) >= 12
    assert max(drawn) <= 36
    assert len(drawn) > 15


def test_padding_is_central_and_zero_once_standardised() -> None:
    image, target = crop(size=(31, 50))(*blocks(), rng=np.random.default_rng(0), seed_parts=(0,))
    inside = np.zeros((31, 50), bool)
    inside[3:27, 7:43] = True
    assert (target.numpy()[inside].reshape(24, 36) == blocks()[1]).all()
    assert (target.numpy()[~inside] == 255).all()
    assert not standardize(image[None])[0][:, torch.from_numpy(~inside)].any()
    assert ((image * 255).round().permute(1, 2, 0).numpy()[inside].reshape(24, 36, 3) == blocks()[0]).all()


def test_steps_change_colours_inside_the_padding_alone() -> None:
    steps = [{"class": "InvertImg", "p": 1.0}]
    image, target = crop(size=(30, 40), steps=steps)(*blocks(), rng=np.random.default_rng(0), seed_parts=(0,))
    plain, _ = crop(size=(30, 40))(*blocks(), rng=np.random.default_rng(0), seed_parts=(0,))
    void = target == 255
    assert torch.equal(image[:, void], plain[:, void])
    assert torch.allclose(image[:, ~void], 1 - plain[:, ~void], atol=1e-6)
    with pytest.raises(ConfigError, match="train_transform must keep the size"):
        run(crop(steps=[{"class": "RandomCrop", "height": 4, "width": 4}]))


def test_images_become_floats_channels_last() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    image = as_image(pixels)
    assert torch.equal(image, torch.from_numpy(pixels / np.float32(255)).permute(0, 3, 1, 2))
    assert image.is_contiguous(memory_format=torch.channels_last)
