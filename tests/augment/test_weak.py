from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from anomaly_suite.augment.draws import ContentDraws, GeneratorDraws, image_keys
from anomaly_suite.augment.weak import WeakAugmentation, blurred, mirrored

STILL: dict[str, Any] = {"crop_scale": (1.0, 1.0), "flip": False, "colour": False, "blur": False}


class Fixed:
    """Draws that are all given: columns of one row."""

    def __init__(self, **values: float) -> None:
        self.row = torch.full((13,), 0.5)
        self.row[9] = self.row[10] = self.row[11] = 0.99  # no jitter, no grey, no blur
        for name, value in values.items():
            self.row[int(name[1:])] = value

    def __call__(self, *shape: int) -> Tensor:
        return self.row.expand(shape)


def draws(seed: int = 0) -> GeneratorDraws:
    return GeneratorDraws(Generator().manual_seed(seed))


def test_a_crop_of_everything_is_the_image_and_a_flip_its_mirror() -> None:
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    still = WeakAugmentation(**STILL)
    # The ratio is drawn, so the square root of 3/4 of a side is lost at most; in the middle of the draws it is 1.
    torch.testing.assert_close(still(image, Fixed()), image, atol=1e-6, rtol=0)
    flip = WeakAugmentation(**{**STILL, "flip": True})
    torch.testing.assert_close(flip(image, Fixed(i4=0.1)), image.flip(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(mirrored(image, lambda *shape: torch.zeros(shape)), image.flip(3))


def test_a_crop_is_the_part_enlarged() -> None:
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    view = WeakAugmentation(**{**STILL, "crop_scale": (0.25, 0.25)})(image, Fixed(i2=0.0, i3=1.0))
    corner = F.interpolate(image[:, :, :8, 8:], size=16, mode="bilinear", align_corners=False)
    torch.testing.assert_close(view[..., 1:-1, 1:-1], corner[..., 1:-1, 1:-1], atol=1e-5, rtol=0)  # without its border


def test_areas_of_crops_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_suite.augment.weak.JITTER_SHARE", 0)
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    image = torch.cat([ramp, ramp.mT, ramp * 0], 1).expand(300, -1, -1, -1)
    view = WeakAugmentation(**{**STILL, "crop_scale": (0.2, 0.6)})(image, draws())
    sides = [view[:, channel].flatten(1).aminmax(dim=1) for channel in (0, 1)]
    area = torch.stack([high - low for low, high in sides]).prod(0)
    assert area.min() > 0.17
    assert area.max() < 0.63
    assert abs(area.mean() - 0.4) < 0.02


def test_the_blur_is_a_gaussian_of_each_images_own_width() -> None:
    dot = torch.zeros(2, 3, 41, 41, dtype=torch.float64)
    dot[:, :, 20, 20] = 1
    out = blurred(dot, torch.tensor([0.4, 1.0]))
    for row, sigma in enumerate((0.4, 1.0)):
        offset = torch.arange(-2, 3, dtype=torch.float64)  # 10 % of 41 pixels
        kernel = torch.softmax(-(offset**2) / (2 * sigma**2), 0)
        torch.testing.assert_close(out[row, 1, 18:23, 18:23], torch.outer(kernel, kernel), atol=1e-6, rtol=0)
        torch.testing.assert_close(out[row].sum(), torch.tensor(3.0, dtype=torch.float64))


def test_views_are_in_range_and_follow_from_the_draws() -> None:
    image = torch.rand(9, 3, 20, 24)
    first, again, other = (WeakAugmentation()(image, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == image.shape
    assert first.min() >= 0
    assert first.max() <= 1
    together, alone = (WeakAugmentation()(part, ContentDraws(image_keys(part))) for part in (image, image[3:5]))
    torch.testing.assert_close(together[3:5], alone, atol=1e-5, rtol=0)  # convolutions of other batches round otherwise
    assert WeakAugmentation()(image[:, :1], draws()).shape == (9, 1, 20, 24)
    assert WeakAugmentation()(image.bfloat16(), draws()).dtype == torch.bfloat16


def test_without_colours_grey_images_stay_grey() -> None:
    grey = torch.rand(8, 1, 16, 16).expand(-1, 3, -1, -1)
    view = WeakAugmentation(colour=False)(grey, draws())
    torch.testing.assert_close(view[:, :1].expand_as(view), view)
