from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from anomaly_suite.nn.blur import gaussian_blur, smoothing_matrix, smoothing_sigma


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_equals_an_independent_filter(sigma: float) -> None:
    image = torch.rand(2, 1, 23, 31, dtype=torch.float64)
    radius = int(np.ceil(4 * sigma))
    expected = [gaussian_filter(x.numpy(), sigma, mode="mirror", radius=radius) for x in image[:, 0]]
    np.testing.assert_allclose(gaussian_blur(image, sigma=sigma)[:, 0].numpy(), expected, rtol=1e-10)


def test_a_wide_kernel_fits_a_small_image() -> None:
    flat = torch.full((1, 1, 3, 5), 2.0)
    torch.testing.assert_close(gaussian_blur(flat, sigma=10.0), flat)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((256, 256), 4.0), ((224, 224), 4.0), ((64, 64), 1.0), ((512, 600), 8.0), ((223, 300), 223 / 64)],
)
def test_sigma_follows_the_shorter_side(size: tuple[int, int], expected: float) -> None:
    assert smoothing_sigma(*size) == expected


def test_a_radius_cuts_the_kernel() -> None:
    image = torch.rand(2, 1, 23, 31, dtype=torch.float64)
    expected = [gaussian_filter(x.numpy(), 1.0, mode="mirror", radius=3) for x in image[:, 0]]
    np.testing.assert_allclose(gaussian_blur(image, sigma=1.0, radius=3)[:, 0].numpy(), expected, rtol=1e-10)
    impulse = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    impulse[..., 7, 7] = 1
    spread = gaussian_blur(impulse, sigma=1.0, radius=3)
    torch.testing.assert_close(spread.sum(), torch.ones((), dtype=torch.float64))
    row = spread[0, 0].sum(0)
    assert row[3] == 0
    weights = torch.tensor([0.004433, 0.054006, 0.242036, 0.399050], dtype=torch.float64)
    torch.testing.assert_close(row[4:8], weights, rtol=0, atol=5e-7)


def test_autocast_does_not_lower_the_precision() -> None:
    image = torch.rand(1, 1, 12, 12) - 20
    with torch.autocast("cpu", torch.bfloat16):
        inside = gaussian_blur(image, sigma=1.0)
    assert torch.equal(inside, gaussian_blur(image, sigma=1.0))


@pytest.mark.parametrize(("rows", "columns", "size"), [(16, 16, (64, 64)), (10, 13, (37, 51)), (3, 1, (9, 4))])
def test_smoothing_by_products_equals_spreading_and_blurring(rows: int, columns: int, size: tuple[int, int]) -> None:
    distance = torch.rand(2, 1, rows, columns)
    down, across = (
        smoothing_matrix(cells, pixels, sigma=1.3, device=distance.device)
        for cells, pixels in zip((rows, columns), size, strict=True)
    )
    spread = F.interpolate(distance, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(down @ distance @ across.T, gaussian_blur(spread, sigma=1.3))


@pytest.mark.parametrize("sigma", [0.5, 2.5, 30.0])
def test_symmetric_borders_are_scipys_default(sigma: float) -> None:
    image = torch.rand(2, 1, 23, 31, dtype=torch.float64)
    found = gaussian_blur(image, sigma=sigma, border="symmetric")[:, 0].numpy()
    radius = int(np.ceil(4 * sigma))
    if radius <= 23:  # scipy repeats the reflection of a wider kernel, ours ends at the image
        expected = [gaussian_filter(x.numpy(), sigma, radius=radius) for x in image[:, 0]]
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    flat = torch.full((1, 1, 9, 5), 2.0)
    torch.testing.assert_close(gaussian_blur(flat, sigma=sigma, border="symmetric"), flat)
