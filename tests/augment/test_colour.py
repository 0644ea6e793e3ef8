from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation, rgb_to_grayscale

from anomaly_suite.augment.colour import greyscale, jitter


def uniform(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_half_changes_nothing() -> None:
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(jitter(image, uniform(0.5, 0.5, 0.5, 0.5).expand(2, 4), (0.4, 0.4, 0.4, 0.1)), image)


@pytest.mark.parametrize(("place", "reference"), [(0, adjust_brightness), (1, adjust_contrast), (2, adjust_saturation)])
@pytest.mark.parametrize("value", [0.25, 0.75])
def test_factors_are_torchvisions(place: int, reference: object, value: float) -> None:
    image = torch.rand(1, 3, 5, 5, dtype=torch.float64) * 0.4 + 0.3
    change = [0.5] * 4
    change[place] = value
    # torchvision rounds the weights of grey to four digits.
    expected = reference(image, 1 + 0.4 * (2 * value - 1))  # type: ignore[operator]
    torch.testing.assert_close(jitter(image, uniform(*change), (0.4, 0.4, 0.4, 0.1)), expected, atol=2e-3, rtol=0)


def test_hue_turns_colours_and_keeps_grey() -> None:
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64) * 0.2 + 0.4
    turned = jitter(image, uniform(0.5, 0.5, 0.5, 1.0), (0.0, 0.0, 0.0, 0.5))  # half a turn
    grey = greyscale(image)
    torch.testing.assert_close(turned - grey, grey - image, atol=2e-3, rtol=0)
    torch.testing.assert_close(jitter(grey.expand(-1, 3, -1, -1), uniform(0.5, 0.5, 0.5, 0.9), (0, 0, 0, 0.5)), grey.expand(-1, 3, -1, -1), atol=2e-3, rtol=0)  # fmt: skip
    torch.testing.assert_close(grey, rgb_to_grayscale(image), atol=1e-3, rtol=0)


def test_every_image_has_its_own_numbers_and_grey_ones_no_colours() -> None:
    image = torch.rand(2, 1, 4, 4)
    out = jitter(image, torch.tensor([[0.0, 0.5, 0.9, 0.1], [0.5, 0.5, 0.9, 0.1]]), (0.4, 0.4, 0.4, 0.1))
    torch.testing.assert_close(out[0], image[0] * 0.6)
    torch.testing.assert_close(out[1], image[1])


def test_the_mean_of_the_contrast_is_that_of_the_inside() -> None:
    image, inside = torch.zeros(1, 1, 2, 2), torch.tensor([[[[True, True], [False, False]]]])
    image[..., 0, :] = torch.tensor([0.4, 0.6])
    out = jitter(image, torch.tensor([[0.5, 0.0, 0.5, 0.5]]), (0.4, 0.4, 0.4, 0.1), inside=inside)
    torch.testing.assert_close(out[0, 0, 0], torch.tensor([0.44, 0.56]))
