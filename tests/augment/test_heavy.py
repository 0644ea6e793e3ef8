from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.augment.draws import ContentDraws, GeneratorDraws, image_keys
from anomaly_suite.augment.heavy import heavy_augmentation


class Fixed:
    """Draws of one row for every image: no change unless a column is set. Noise is 0."""

    def __init__(self, **columns: float) -> None:
        self.row = torch.full((12,), 0.5)
        self.row[0], self.row[3], self.row[4], self.row[5] = 0.999999, 0.0, 0.9, 0.9  # whole, upright, not mirrored
        self.row[10] = self.row[11] = 0.0  # least blur, no noise
        for column, value in columns.items():
            self.row[int(column[1:])] = value

    def __call__(self, *shape: int) -> Tensor:
        return self.row.expand(shape) if len(shape) == 2 else torch.full(shape, 0.5)


def test_half_draws_leave_images_as_they_are() -> None:
    image = torch.rand(2, 3, 12, 16, dtype=torch.float64)
    torch.testing.assert_close(heavy_augmentation(image, Fixed()), image, rtol=0, atol=1e-4)  # sqrt of 0.9999996


def test_turns_and_mirrors() -> None:
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    cases = {
        "half turn": (Fixed(c3=0.5), image.flip(2, 3)),
        "quarter turn": (Fixed(c3=0.25), torch.rot90(image, 1, (2, 3))),
        "upside down": (Fixed(c4=0.1), image.flip(2)),
        "left to right": (Fixed(c5=0.1), image.flip(3)),
    }
    for name, (draws, expected) in cases.items():
        torch.testing.assert_close(heavy_augmentation(image, draws), expected, rtol=0, atol=1e-3, msg=name)


def test_an_image_that_is_not_square_is_turned_in_pixels() -> None:
    image = torch.zeros(1, 1, 9, 17, dtype=torch.float64)
    image[:, :, 3:6, 7:10] = 1  # a square in the middle stays one
    out = heavy_augmentation(image, Fixed(c3=0.25))
    torch.testing.assert_close(out[..., 4:13], image[..., 4:13], rtol=0, atol=1e-3)  # beyond it is mirrored


def test_every_image_has_its_own_view_in_range_and_type() -> None:
    image = torch.rand(1, 1, 16, 16, dtype=torch.bfloat16).expand(6, -1, -1, -1)
    out = heavy_augmentation(image, GeneratorDraws(torch.Generator().manual_seed(0)))
    assert (out.shape, out.dtype) == (image.shape, image.dtype)
    assert out.min() >= 0
    assert out.max() <= 1
    assert len(torch.unique(out.flatten(1).float(), dim=0)) == 6
    image = torch.rand(4, 3, 16, 16)
    alone = torch.cat([heavy_augmentation(each, ContentDraws(image_keys(each))) for each in image.split(1)])
    torch.testing.assert_close(heavy_augmentation(image, ContentDraws(image_keys(image))), alone)
