"""Resizing by matrices, beside the libraries that are meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.nn.resample import resample

SIZES = [
    ((48, 36), (24, 12)),
    ((48, 36), (24, 18)),
    ((50, 37), (16, 20)),
    ((8, 9), (32, 20)),
    ((30, 10), (16, 16)),
    ((10, 30), (16, 16)),
    ((16, 16), (16, 16)),
    ((16, 40), (16, 16)),
    ((16, 8), (16, 16)),
    ((1, 1), (4, 4)),
    ((257, 311), (256, 256)),
]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_pictures_are_resized_as_data_modules_do(before: tuple[int, int], after: tuple[int, int]) -> None:
    picture = noise(*before)
    wanted, _ = Pipeline(image_size=after, center_crop=None, steps=())(picture, None, seed_parts=(0,))
    found = (
        resample(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), after, "opencv")[0].permute(1, 2, 0).numpy()
    )
    difference = np.abs(found - wanted)
    assert difference.max() <= 1  # 11 bits of OpenCV's weights
    shrinks = all(old >= new for old, new in zip(before, after, strict=True))
    assert (difference > 0).mean() < (0.01 if shrinks else 0.3)


@pytest.mark.parametrize(("before", "after"), [*SIZES, ((8, 8), (20, 20)), ((20, 20), (8, 8)), ((24, 28), (20, 32))])
def test_halves_go_one_way_in_whatever_order_sums_are_taken(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Runtimes that read an exported graph add in another order; float64 stands for them."""
    image = torch.from_numpy(noise(*before)).permute(2, 0, 1)[None]
    for rule in ("opencv", "antialias"):
        differ = resample(image.float(), after, rule) != resample(image.double(), after, rule)
        # None of small images; of large ones few sums come near a half without being one.
        assert differ.float().mean() < 1e-4


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_antialias_is_torchs(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = torch.from_numpy(noise(*before)).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(image, size=after, mode="bilinear", antialias=True).round().clamp(0, 255)
    found = resample(image, after, "antialias")
    assert (found - wanted).abs().max() <= 1  # where both lie on the edge between two levels
    assert ((found - wanted) != 0).float().mean() < 0.01


def test_flat_pictures_stay_flat() -> None:
    for before, after in SIZES:
        for rule in ("opencv", "antialias"):
            flat = torch.full((1, 1, *before), 77.0)
            assert (resample(flat, after, rule) == 77).all()
