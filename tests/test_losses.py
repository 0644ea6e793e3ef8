from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as library_ssim

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.losses import (
    MSSSIM,
    SCALE_WEIGHTS,
    PixelComparison,
    ReconstructionError,
    away_from_zero,
    polynomial_decay,
    squared_distance,
    squared_error,
    with_idle_weights,
)
from anomaly_suite.nn.blur import gaussian_blur
from anomaly_suite.nn.encoders import STANDARDIZED_RANGE, standardize

Array = npt.NDArray[np.float64]

SETTINGS = [(5, 11, 256), (4, 3, 32), (3, 11, 64), (4, 5, 64), (1, 3, 8)]
"""Scales, window and side of the images."""


def natural(count: int = 3, size: int = 32, *, seed: int = 0) -> Tensor:
    """Smooth random colour images in [0, 1], (B, 3, size, size)."""
    noise = torch.rand(count * 3, 1, size, size, generator=torch.Generator().manual_seed(seed))
    smooth = gaussian_blur(noise, sigma=size / 16).view(count, 3, size, size)
    low, high = smooth.amin((1, 2, 3), keepdim=True), smooth.amax((1, 2, 3), keepdim=True)
    return (smooth - low) / (high - low)


def noisy(image: Tensor, strength: float, *, seed: int = 1) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return image + strength * noise.to(image.dtype)


def painted(image: Tensor, side: int, *, top: int = 8, left: int = 8) -> Tensor:
    """A copy with a bright square."""
    image = image.clone()
    image[:, :, top : top + side, left : left + side] = 1.0
    return image


def slow_terms(first: Array, second: Array, *, window: int, value_range: float) -> tuple[Array, Array]:
    """Luminance and contrast-structure maps of one plane from the definition: weighted moments of every window."""
    offset = np.arange(window) - window // 2
    gauss = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    gauss /= gauss.sum()
    x, y = (np.lib.stride_tricks.sliding_window_view(plane, (window, window)) for plane in (first, second))

    def mean(values: Array) -> Array:
        return np.asarray((values * gauss).sum((2, 3)))

    mean_x, mean_y = mean(x), mean(y)
    centred_x, centred_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * mean(centred_x * centred_y) + c2) / (mean(centred_x**2) + mean(centred_y**2) + c2)
    return luminance, structure


def halve(plane: Array) -> Array:
    height, width = (side // 2 for side in plane.shape)
    return plane[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))


def enlarge(plane: Array, height: int, width: int) -> Array:
    """Bilinear, pixels as little squares, outermost values beyond the border."""

    def along(line: Array, size: int) -> Array:
        centres = (np.arange(size) + 0.5) * len(line) / size - 0.5
        return np.interp(centres, np.arange(len(line)), line)

    plane = np.stack([along(row, width) for row in plane])
    return np.stack([along(column, height) for column in plane.T], 1)


def slow_ms_ssim(
    first: Tensor, second: Tensor, *, scales: int, window: int, value_range: float = 1.0
) -> tuple[Array, Array]:
    """Similarity (B,) and additive map (B, C, H, W), plane by plane in float64."""
    weights = np.array(SCALE_WEIGHTS[:scales]) / sum(SCALE_WEIGHTS[:scales])
    batch, channels, height, width = first.shape
    products, maps = np.ones((batch, channels)), np.zeros(first.shape)
    for index in np.ndindex(batch, channels):
        x, y = first[index].double().numpy(), second[index].double().numpy()
        for scale, weight in enumerate(weights):
            luminance, structure = slow_terms(x, y, window=window, value_range=value_range)
            compared = luminance * structure if scale == scales - 1 else structure
            products[index] *= max(compared.mean(), 1e-6) ** weight
            ssim = np.pad(np.maximum(luminance * structure, 0), window // 2, mode="edge")
            maps[index] += weight * (1 - enlarge(ssim, height, width))
            x, y = halve(x), halve(y)
    return products.mean(1), maps


class TestMSSSIM:
    @pytest.mark.parametrize(("scales", "window", "size"), SETTINGS)
    def test_equal_images_have_exactly_one(self, scales: int, window: int, size: int) -> None:
        measure = MSSSIM(scales=scales, window_size=window)
        for image in (natural(2, size), torch.rand(2, 1, size, size), torch.full((2, 3, size, size), 0.3)):
            torch.testing.assert_close(measure(image, image), torch.ones(2), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("scales", "window", "size"), SETTINGS)
    @pytest.mark.parametrize("value_range", [1.0, STANDARDIZED_RANGE])
    def test_constant_images_by_hand(self, scales: int, window: int, size: int, value_range: float) -> None:
        a, b = 0.5 * value_range, 0.1 * value_range
        c1 = (0.01 * value_range) ** 2
        weight = SCALE_WEIGHTS[scales - 1] / sum(SCALE_WEIGHTS[:scales])
        measure = MSSSIM(scales=scales, window_size=window, value_range=value_range)
        first, second = torch.full((1, 3, size, size), a).double(), torch.full((1, 3, size, size), b).double()
        expected = ((2 * first[0, 0, 0, 0] * second[0, 0, 0, 0] + c1) / (a**2 + b**2 + c1)) ** weight
        assert measure(first, second).item() == pytest.approx(expected.item(), abs=1e-7)
        assert measure(first.float(), second.float()).item() == pytest.approx(expected.item(), abs=1e-4)
        if scales > 3:
            assert expected.item() == pytest.approx({5: 0.8805, 4: 0.7708}[scales], abs=5e-5)

    @pytest.mark.parametrize(
        ("scales", "window", "size", "expected"),
        [(5, 11, 256, [246, 118, 54, 22, 6]), (4, 3, 32, [30, 14, 6, 2])],
    )
    def test_sizes_of_the_valid_maps(
        self, scales: int, window: int, size: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measure, sides = MSSSIM(scales=scales, window_size=window), []
        compare = measure._compare

        def spy(first: Tensor, second: Tensor, *, want_luminance: bool) -> tuple[Tensor | float, Tensor]:
            terms = compare(first, second, want_luminance=want_luminance)
            sides.append(tuple(terms[1].shape[2:]))
            return terms

        monkeypatch.setattr(measure, "_compare", spy)
        measure(torch.rand(1, 1, size, size), torch.rand(1, 1, size, size))
        assert sides == [(side, side) for side in expected]

    def test_window_weights(self) -> None:
        torch.testing.assert_close(
            MSSSIM(window_size=3).window, torch.tensor([0.3078, 0.3844, 0.3078]), rtol=0, atol=5e-5
        )
        assert MSSSIM(window_size=11).window[5].item() == pytest.approx(0.2660, abs=5e-5)
        assert MSSSIM(window_size=11).window.sum().item() == pytest.approx(1)

    def test_exponents_sum_to_one(self) -> None:
        assert MSSSIM(scales=4).exponents == pytest.approx([0.0516, 0.3295, 0.3463, 0.2726], abs=1e-4)
        assert MSSSIM(scales=5).exponents == pytest.approx(SCALE_WEIGHTS, abs=1e-3)
        assert all(sum(MSSSIM(scales=scales).exponents) == pytest.approx(1) for scales in range(1, 6))

    @pytest.mark.parametrize(("scales", "window", "size"), [(3, 11, 48), (4, 3, 32), (2, 5, 13), (1, 1, 5)])
    def test_equals_a_slow_reference_in_float64(self, scales: int, window: int, size: int) -> None:
        image = natural(2, size).double()[:, :, :, : size - size % 3]  # not square, sides that do not halve
        other = noisy(image, 0.2)
        measure = MSSSIM(scales=scales, window_size=window, value_range=1.3)
        similarity, dissimilarity = measure.with_map(image, other, want_map=True)
        expected, expected_map = slow_ms_ssim(image, other, scales=scales, window=window, value_range=1.3)
        assert dissimilarity is not None
        assert similarity.dtype == dissimilarity.dtype == torch.float64
        np.testing.assert_allclose(similarity.numpy(), expected, atol=1e-7)  # the window is kept in float32
        np.testing.assert_allclose(dissimilarity.numpy(), expected_map, atol=1e-7)
        np.testing.assert_allclose(measure(image.float(), other.float()).numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize(("scales", "size"), [(5, 256), (4, 96), (1, 24)])
    @pytest.mark.parametrize("strength", [0.05, 0.5])
    def test_agrees_with_the_library_on_the_valid_part(
        self, channels: int, scales: int, size: int, strength: float
    ) -> None:
        """The library averages over channels before the product and over the reflected border at the last scale."""
        image = natural(2, size)[:, :channels]
        other = noisy(image, strength)
        measure = MSSSIM(scales=scales, window_size=11, value_range=2.0)
        x, y = (planes.reshape(-1, 1, *planes.shape[2:]) for planes in (image, other))
        product = torch.ones(len(x))
        options = {"data_range": 2.0, "kernel_size": 11, "sigma": 1.5, "reduction": None}
        for scale, exponent in enumerate(measure.exponents):
            if scale < scales - 1:
                _, mean = library_ssim(x, y, return_contrast_sensitivity=True, **options)
            else:
                _, full = library_ssim(x, y, return_full_image=True, **options)
                mean = full[..., 5:-5, 5:-5].mean((1, 2, 3))
            product = product * mean.clamp_min(1e-6) ** exponent
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        torch.testing.assert_close(measure(image, other), product.view(2, channels).mean(1), rtol=0, atol=1e-5)

    def test_symmetric_at_most_one_and_image_by_image(self) -> None:
        measure = MSSSIM(scales=4, window_size=3)
        first, second = natural(4), noisy(natural(4, seed=5), 0.1)
        value = measure(first, second)
        torch.testing.assert_close(measure(second, first), value)
        assert value.max() <= 1
        assert value.min() >= 0
        alone = torch.cat([measure(x[None], y[None]) for x, y in zip(first, second, strict=True)])
        torch.testing.assert_close(alone, value)

    def test_channels_are_averaged_after_the_product(self) -> None:
        measure = MSSSIM(scales=4, window_size=3)
        image, other = natural(2), natural(2, seed=3)
        planes = [measure(image[:, [channel]], other[:, [channel]]) for channel in range(3)]
        torch.testing.assert_close(measure(image, other), torch.stack(planes).mean(0))

    @pytest.mark.parametrize(("scales", "window", "size"), [(5, 11, 256), (4, 3, 32)])
    def test_inverted_contrast_is_unlike(self, scales: int, window: int, size: int) -> None:
        image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        inverted = 2 * image.mean((2, 3), keepdim=True) - image
        assert MSSSIM(scales=scales, window_size=window)(image, inverted).max() < 1e-3

    def test_blur_and_noise_lower_it_steadily(self) -> None:
        measure, image = MSSSIM(scales=4, window_size=3), natural()
        planes = image.view(-1, 1, 32, 32)
        blurred = [measure(image, gaussian_blur(planes, sigma=sigma).view_as(image)) for sigma in (0.5, 1, 2, 4)]
        noised = [measure(image, noisy(image, strength)) for strength in (0.02, 0.05, 0.1, 0.3)]
        for values in (torch.stack(blurred), torch.stack(noised)):
            assert (values.diff(dim=0) < -0.005).all()
            assert (values[0] > 0.9).all()

    @pytest.mark.parametrize("factor", [255.0, STANDARDIZED_RANGE, 0.01])
    def test_images_and_range_scale_together(self, factor: float) -> None:
        image, other = natural(), noisy(natural(), 0.1)
        scaled = MSSSIM(scales=4, window_size=3, value_range=factor)(factor * image, factor * other)
        torch.testing.assert_close(scaled, MSSSIM(scales=4, window_size=3)(image, other), rtol=0, atol=1e-5)

    def test_an_offset_shows_at_the_last_scale_alone(self) -> None:
        image = natural(1)
        value = MSSSIM(scales=4, window_size=3)(image, image + 0.2).item()
        coarsest = F.avg_pool2d(image, 8)
        expected = np.mean(
            [
                slow_terms(plane, plane + 0.2, window=3, value_range=1.0)[0].mean() ** (0.2363 / 0.867)
                for plane in coarsest[0].double().numpy()
            ]
        )
        assert value == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(("scales", "window", "size"), [(5, 11, 256), (4, 3, 32)])
    def test_gradients_are_finite_and_zero_at_equal_images(self, scales: int, window: int, size: int) -> None:
        measure = MSSSIM(scales=scales, window_size=window, value_range=STANDARDIZED_RANGE)
        image, random = standardize(natural(1, size)), standardize(torch.rand(1, 3, size, size))
        flat, other_flat = torch.full_like(image, -1.5), torch.full_like(image, 2.0)
        pairs = {
            "random": (random, standardize(torch.rand(1, 3, size, size))),
            "inverted": (random, -random),
            "flat": (flat, other_flat),
            "flat equal": (flat, flat),
            "flat and natural": (flat, image),
            "equal": (image, image),
        }
        for name, (first, second) in pairs.items():
            second = second.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(measure(first, second).sum(), second)
            assert gradient.isfinite().all(), name
            if name.endswith("equal"):
                assert gradient.abs().max() < 1e-6, name
            elif name == "random":
                assert gradient.abs().max() > 1e-6, name

    def test_the_gradient_is_that_of_finite_differences(self) -> None:
        measure = MSSSIM(scales=2, window_size=3)
        image = natural(1, 8).double()[:, :2]
        assert torch.autograd.gradcheck(measure, (image, noisy(image, 0.1).requires_grad_()))
        assert torch.autograd.gradcheck(measure, (noisy(image, 0.1).requires_grad_(), image))

    def test_descent_finds_the_images(self) -> None:
        target = natural(8)
        found = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        measure, optimizer = MSSSIM(scales=4, window_size=3), torch.optim.Adam([found], lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            (1 - measure(target, found)).mean().backward()
            optimizer.step()
        assert measure(target, found).min() > 0.95

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_float32_inside_autocast(self, dtype: torch.dtype) -> None:
        measure = MSSSIM(scales=4, window_size=3)
        image, other = natural(), noisy(natural(), 0.05)
        expected, expected_map = measure.with_map(image, other, want_map=True)
        assert expected_map is not None
        with torch.autocast("cpu", dtype=dtype):
            value, dissimilarity = measure.with_map(image, other, want_map=True)
            low = other.to(dtype).requires_grad_()
            from_low = measure(image.to(dtype), low)
            from_low.sum().backward()
        assert dissimilarity is not None
        assert torch.equal(value, expected)
        assert torch.equal(dissimilarity, expected_map)
        assert from_low.dtype == torch.float32
        assert torch.equal(from_low, measure(image.to(dtype).float(), low.detach().float()))
        assert low.grad is not None
        assert low.grad.isfinite().all()

    def test_an_exported_graph_takes_any_batch(self) -> None:
        measure = MSSSIM(scales=2, window_size=3)
        batch = {0: torch.export.Dim("batch")}
        pair = (natural(2), noisy(natural(2), 0.1))
        exported = torch.export.export(measure, pair, dynamic_shapes={"first": batch, "second": batch})
        image, other = natural(5), noisy(natural(5), 0.1)
        torch.testing.assert_close(exported.module()(image, other), measure(image, other))
        graphs = [part.graph for part in exported.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
        groups = [node.args[6] for graph in graphs for node in graph.nodes if "conv2d" in str(node.target)]
        assert groups == [3] * 16  # a fixed number, as exchange formats ask for

    @pytest.mark.parametrize(
        ("options", "piece"),
        [
            ({"scales": 0}, "1 to 5; got 0"),
            ({"scales": 6}, "1 to 5; got 6"),
            ({"window_size": 4}, "odd.*got 4"),
            ({"window_size": -1}, "odd.*got -1"),
            ({"value_range": 0.0}, r"above 0; got 11 and 0\.0"),
        ],
    )
    def test_options_outside_their_range(self, options: dict[str, int], piece: str) -> None:
        with pytest.raises(ConfigError, match=piece):
            MSSSIM(**options)

    @pytest.mark.parametrize(
        ("first", "second", "piece"),
        [
            ((1, 3, 32, 32), (1, 3, 32, 31), r"one shape.*\(1, 3, 32, 31\)"),
            ((3, 32, 32), (3, 32, 32), r"one shape \(B, C, H, W\); got \(3, 32, 32\)"),
            ((1, 1, 64, 23), (1, 1, 64, 23), r"\(64, 23\) pixels are 2 wide.*window of 3"),
        ],
    )
    def test_images_that_cannot_be_compared(self, first: tuple[int, ...], second: tuple[int, ...], piece: str) -> None:
        with pytest.raises(ShapeError, match=piece):
            MSSSIM(scales=4, window_size=3)(torch.rand(first), torch.rand(second))

    def test_the_smallest_image_that_can(self) -> None:
        image = torch.rand(1, 1, 24, 24)
        torch.testing.assert_close(MSSSIM(scales=4, window_size=3)(image, image), torch.ones(1))


class TestMap:
    @pytest.mark.parametrize(("scales", "window", "size"), [(5, 11, 256), (4, 3, 32)])
    def test_zero_for_equal_images_and_unit_range(self, scales: int, window: int, size: int) -> None:
        measure, image = MSSSIM(scales=scales, window_size=window), natural(2, size)
        _, zero = measure.with_map(image, image, want_map=True)
        _, noise = measure.with_map(image, torch.rand_like(image), want_map=True)
        assert zero is not None
        assert noise is not None
        torch.testing.assert_close(zero, torch.zeros_like(image), rtol=0, atol=1e-6)
        assert noise.min() >= -1e-6
        assert noise.max() <= 1 + 1e-6
        assert noise.mean() > 0.3

    def test_constant_images_have_one_dissimilarity(self) -> None:
        a, b, c1 = 0.5, 0.1, 1e-4
        image, other = torch.full((2, 3, 32, 48), a), torch.full((2, 3, 32, 48), b)
        _, dissimilarity = MSSSIM(scales=4, window_size=3).with_map(image, other, want_map=True)
        expected = 1 - (2 * a * b + c1) / (a**2 + b**2 + c1)
        torch.testing.assert_close(dissimilarity, torch.full_like(image, expected), rtol=0, atol=5e-5)

    @pytest.mark.parametrize(("top", "left"), [(10, 14), (0, 0), (24, 3)])
    def test_peaks_inside_a_painted_square(self, top: int, left: int) -> None:
        image = natural() * 0.3
        error, error_map = ReconstructionError(image_size=32, value_range=1.0).with_map(
            painted(image, 8, top=top, left=left), image
        )
        assert error_map.shape == (3, 1, 32, 32)
        rows, columns = np.unravel_index(error_map.flatten(1).argmax(1).numpy(), (32, 32))
        assert ((rows >= top) & (rows < top + 8) & (columns >= left) & (columns < left + 8)).all()
        inside = error_map[:, :, top : top + 8, left : left + 8].mean((1, 2, 3))
        assert (inside > 2 * error_map.mean((1, 2, 3))).all()
        assert (error > 0.05).all()

    def test_negative_similarity_counts_as_none(self) -> None:
        image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        _, dissimilarity = MSSSIM(scales=1, window_size=3).with_map(image, 1 - image, want_map=True)
        luminance, structure = slow_terms(
            image[0, 0].double().numpy(), 1 - image[0, 0].double().numpy(), window=3, value_range=1.0
        )
        assert (luminance * structure).max() < 0
        torch.testing.assert_close(dissimilarity, torch.ones(1, 1, 8, 8))


class TestReconstructionError:
    def test_parts_by_the_formula(self) -> None:
        image, other = natural(), noisy(natural(), 0.1)
        similarity = MSSSIM(scales=4, window_size=3, value_range=2.0)(image, other)
        distance = (image - other).abs().mean((1, 2, 3)) / 2
        for rho in (0.0, 0.15, 1.0):
            error = ReconstructionError(image_size=32, value_range=2.0, rho=rho)
            torch.testing.assert_close(error(image, other), (1 - rho) * (1 - similarity) + rho * distance)
        assert torch.equal(ReconstructionError(image_size=32, value_range=2.0, rho=1.0)(image, other), distance)

    def test_the_map_by_the_formula(self) -> None:
        image, other = natural(), noisy(natural(), 0.1)
        measure = ReconstructionError(image_size=32, value_range=2.0)
        error, error_map = measure.with_map(image, other)
        _, dissimilarity = slow_ms_ssim(image, other, scales=4, window=3, value_range=2.0)
        expected = (0.85 * dissimilarity + 0.15 * (image - other).abs().numpy() / 2).mean(1, keepdims=True)
        np.testing.assert_allclose(error_map.numpy(), expected, atol=1e-5)
        assert torch.equal(error, measure(image, other))

    @pytest.mark.parametrize("rho", [0.0, 0.15, 1.0])
    def test_between_zero_and_one(self, rho: float) -> None:
        measure = ReconstructionError(image_size=32, value_range=1.0, rho=rho)
        for other in (torch.rand(3, 3, 32, 32), torch.zeros(3, 3, 32, 32), 1 - natural()):
            assert measure(natural(), other).min() >= 0
            assert measure(natural(), other).max() <= 1
        torch.testing.assert_close(measure(natural(), natural()), torch.zeros(3), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("size", "top", "sides"), [(32, 8, (0, 2, 4, 8, 12, 16)), (256, 60, (0, 8, 24, 48, 96))])
    def test_grows_with_a_painted_square(self, size: int, top: int, sides: tuple[int, ...]) -> None:
        image = natural(2, size) * 0.6
        reconstruction = noisy(image, 0.01)
        measure = ReconstructionError(image_size=size, value_range=1.0)
        errors = torch.stack([measure(painted(image, side, top=top, left=top), reconstruction) for side in sides])
        assert (errors.diff(dim=0) > 1e-3).all()

    @pytest.mark.parametrize(
        ("size", "scales", "window"),
        [(256, 5, 11), (176, 5, 11), (175, 4, 3), (64, 4, 3), (32, 4, 3), (28, 4, 3), (16, 3, 3), (8, 2, 3), (3, 1, 3)],
    )
    def test_scales_and_window_for_a_size(self, size: int, scales: int, window: int) -> None:
        measure = ReconstructionError(image_size=size, value_range=1.0)
        assert (len(measure.ms_ssim.exponents), measure.ms_ssim.window_size) == (scales, window)
        image = torch.rand(1, 1, size, size)
        torch.testing.assert_close(measure(image, image), torch.zeros(1), rtol=0, atol=1e-6)

    def test_a_given_window_sets_the_scales(self) -> None:
        measure = ReconstructionError(image_size=64, value_range=1.0, window_size=11)
        assert len(measure.ms_ssim.exponents) == 3
        assert len(ReconstructionError(image_size=64, value_range=1.0, scales=2).ms_ssim.exponents) == 2

    @pytest.mark.parametrize(
        ("options", "piece"),
        [
            ({"rho": -0.1}, "rho must be between 0 and 1; got -0.1"),
            ({"rho": 1.1}, "rho must be between 0 and 1; got 1.1"),
            ({"scales": 5, "window_size": 11}, "at least 176 for 5 scales and a window of 11; got 32"),
            ({"scales": 4, "window_size": 5}, "at least 40 for 4 scales and a window of 5; got 32"),
            ({"image_size": 2}, "at least 3 for 1 scales and a window of 3; got 2"),
            ({"scales": 0}, "1 to 5; got 0"),
            ({"window_size": 0}, "odd.*got 0"),
        ],
    )
    def test_options_that_cannot_work(self, options: dict[str, float], piece: str) -> None:
        with pytest.raises(ConfigError, match=piece):
            ReconstructionError(**{"image_size": 32, "value_range": 1.0, **options})


class TestPixelComparison:
    def test_standardised_images_have_their_own_range(self) -> None:
        image, reconstruction = natural(), noisy(standardize(natural()), 0.2)
        expected = ReconstructionError(image_size=32, value_range=STANDARDIZED_RANGE, rho=0.3)
        compare = PixelComparison(image_size=32, rho=0.3)
        assert torch.equal(compare(image, reconstruction), expected(standardize(image), reconstruction))
        torch.testing.assert_close(
            compare.with_map(image, reconstruction), expected.with_map(standardize(image), reconstruction)
        )

    def test_unit_space_scales_the_reconstruction_back(self) -> None:
        image = natural()
        other = noisy(image, 0.1)
        compare = PixelComparison(image_size=(32, 40), rho=0.15, space="unit")
        expected = ReconstructionError(image_size=32, value_range=1.0)
        torch.testing.assert_close(compare(image, standardize(other)), expected(image, other), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("space", ["standardized", "unit"])
    def test_a_grey_image_is_repeated(self, space: str) -> None:
        grey, reconstruction = natural()[:, :1], standardize(natural(seed=2))
        compare = PixelComparison(image_size=32, rho=0.15, space=space)  # type: ignore[arg-type] # parametrised
        torch.testing.assert_close(compare(grey, reconstruction), compare(grey.repeat(1, 3, 1, 1), reconstruction))


def test_polynomial_decay() -> None:
    decay: Callable[..., float] = polynomial_decay
    assert [decay(0.0), decay(1.0), decay(1.2)] == [1.0, 0.0, 0.0]
    assert decay(0.5) == pytest.approx(math.exp(0.9 * math.log(0.5)))
    assert decay(0.25, power=2.0) == pytest.approx(0.5625)


def test_squared_error_is_summed() -> None:
    assert squared_error(torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 0.5)).tolist() == [15, 15]


def test_squared_distance_by_hand() -> None:
    code = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    assert squared_distance(code, torch.tensor([1.0, 0.0])).tolist() == [4.0, 2.0]
    assert squared_distance(code.bfloat16(), torch.zeros(2)).dtype == torch.float32


def test_away_from_zero() -> None:
    center = torch.tensor([0.0, 0.05, -0.05, 0.1, -0.1, 0.3, -7.0])
    torch.testing.assert_close(away_from_zero(center), torch.tensor([0.1, 0.1, -0.1, 0.1, -0.1, 0.3, -7.0]))


def test_idle_weights_get_a_gradient_of_zero_and_leave_the_loss() -> None:
    used, idle = torch.ones(2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    loss = with_idle_weights(used.sum(), [idle, idle[:1]])
    loss.backward()
    assert loss.item() == 2
    assert used.grad is not None
    assert used.grad.tolist() == [1, 1]
    assert idle.grad is not None
    assert idle.grad.tolist() == [[0, 0]] * 3
    alone = used.sum()
    assert with_idle_weights(alone, []) is alone
