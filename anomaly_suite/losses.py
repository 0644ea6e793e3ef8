"""Losses and scores that several methods share: multi-scale SSIM, the reconstruction error made of it and L1, distances.

Sources: Wang, Simoncelli and Bovik, "Multi-scale structural similarity", Asilomar 2003; Chen et al., "Deep One-Class
    Classification via Interpolated Gaussian Descriptor", AAAI 2022 (IGD), for the clamp, the L1 term and the additive map.
Axes: B batch, C channels, H and W pixels, D width of a code.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.encoders import STANDARDIZED_RANGE, destandardize, standardize
from anomaly_suite.nn.exporting import is_exporting, plain
from anomaly_suite.nn.size import ImageSize, height_width

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SIGMA = 1.5
K1, K2 = 0.01, 0.03
SMALLEST_MEAN = 1e-6  # a negative mean has no fractional power, and one near 0 an exploding gradient

CENTER_MARGIN = 0.1  # components of c nearer to 0 could be matched by weights of 0

PixelSpace = Literal["standardized", "unit"]
"""Where reconstructions are compared: as the networks see them, or scaled back to [0, 1]."""


class MSSSIM(nn.Module):
    """Multi-scale structural similarity of image pairs, in float32 under autocast.

    At each of ``scales`` sizes, halved by averaging 2 x 2 pixels, contrast and structure are compared inside a Gaussian
    window (standard deviation 1.5, no padding); luminance at the coarsest alone. The spatial means, clamped to at least
    1e-6, are multiplied with the standard exponents, renormalised to sum to 1, and averaged over channels.

    Args:
        scales: 1 to 5.
        window_size: Odd side of the window in pixels. The coarsest image must be as large.
        value_range: Largest less smallest possible pixel value.

    Raises:
        ConfigError: an option out of its range.
    """

    window: Tensor

    def __init__(self, *, scales: int = 5, window_size: int = 11, value_range: float = 1.0) -> None:
        super().__init__()
        if not 1 <= scales <= len(SCALE_WEIGHTS):
            raise ConfigError(f"scales must be 1 to 5; got {scales}. Images of 32 pixels allow 4 with a window of 3.")
        if window_size < 1 or window_size % 2 == 0 or value_range <= 0:
            raise ConfigError(
                f"window_size must be odd and value_range above 0; got {window_size} and {value_range}. Try 3 and 1.0."
            )
        self.window_size = window_size
        self.c1, self.c2 = (K1 * value_range) ** 2, (K2 * value_range) ** 2
        total = sum(SCALE_WEIGHTS[:scales])
        self.exponents = [weight / total for weight in SCALE_WEIGHTS[:scales]]
        offset = torch.arange(window_size) - window_size // 2
        self.register_buffer("window", torch.softmax(-(offset**2) / (2 * SIGMA**2), 0), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Similarity of each pair.

        Args:
            first: Shape (B, C, H, W).
            second: The same shape.

        Returns:
            Shape (B,), in [0, 1]; 1 for equal images.

        Raises:
            ShapeError: unequal shapes, or images too small for ``scales`` and ``window_size``.
        """
        return self.with_map(first, second)[0]

    def with_map(self, first: Tensor, second: Tensor, *, want_map: bool = False) -> tuple[Tensor, Tensor | None]:
        """Similarity and additive dissimilarity map of each pair.

        The map sums ``weight * (1 - SSIM)`` over the scales, every SSIM map clamped at 0, continued to the border by its
        outermost values and enlarged bilinearly. (A product of maps would vanish wherever one scale does.)

        Args:
            first: Shape (B, C, H, W).
            second: The same shape.
            want_map: Whether the map is computed.

        Returns:
            Similarity (B,), and the map (B, C, H, W) or None, both in [0, 1].

        Raises:
            ShapeError: unequal shapes, or images too small for ``scales`` and ``window_size``.
        """
        self._check(first, second)
        shape = first.shape
        with torch.autocast(first.device.type, enabled=False):
            if first.dtype not in (torch.float32, torch.float64):
                first = first.float()
            first, second = _planes(first), _planes(second.to(first.dtype))
            factors = []
            dissimilarity = torch.zeros_like(first) if want_map else None
            for scale, exponent in enumerate(self.exponents):
                last = scale == len(self.exponents) - 1
                luminance, structure = self._compare(first, second, want_luminance=last or want_map)
                compared = luminance * structure if last else structure  # (1, B * C, h', w')
                # The gradient of a sum is a view; that of a mean is a tensor in an order in which all that follows is slow.
                mean = compared.sum((2, 3)) / compared[0, 0].numel()
                factors.append(mean.clamp_min(SMALLEST_MEAN) ** exponent)
                if dissimilarity is not None:
                    ssim = F.pad((luminance * structure).clamp_min(0), (self.window_size // 2,) * 4, mode="replicate")
                    dissimilarity = dissimilarity + exponent * (
                        1 - F.interpolate(ssim, size=shape[2:], mode="bilinear", align_corners=False)
                    )
                if not last:
                    first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
            similarity = functools.reduce(torch.mul, factors).view(shape[:2]).mean(1)
            return similarity, None if dissimilarity is None else dissimilarity.reshape(shape)

    def _compare(self, first: Tensor, second: Tensor, *, want_luminance: bool) -> tuple[Tensor | float, Tensor]:
        """Luminance and contrast-structure terms of one scale, each (1, B * C, h', w').

        With d the difference of both images, both terms have the form ``n / (n + mean of d^2)``: for luminance of the
        means, for structure with the covariance in n and the variance of d beside it. Equal images have exactly 1.
        """
        window = self.window.to(first.dtype)
        window = window / window.sum()  # exactly 1 in this precision, or constants would have a variance
        mean_1, mean_2 = _filter(first, window), _filter(second, window)
        squares, product = _filter((first - second).square(), window), _filter(first * second, window)
        means, shift = mean_1 * mean_2, (mean_1 - mean_2).square()
        covariance = product - means + self.c2 / 2
        structure = covariance * torch.add(covariance, squares - shift, alpha=0.5).reciprocal()
        if not want_luminance:
            return 1.0, structure
        means = means + self.c1 / 2
        return means * torch.add(means, shift, alpha=0.5).reciprocal(), structure

    def _check(self, first: Tensor, second: Tensor) -> None:
        if first.shape != second.shape or first.ndim != 4:
            raise ShapeError(
                f"MS-SSIM compares images of one shape (B, C, H, W); got {tuple(first.shape)} and {tuple(second.shape)}. "
                "Resize one of them."
            )
        coarsest = min(first.shape[2:]) // 2 ** (len(self.exponents) - 1)
        if coarsest < self.window_size:
            raise ShapeError(
                f"images of {tuple(first.shape[2:])} pixels are {coarsest} wide at the last of {len(self.exponents)} scales, "
                f"less than the window of {self.window_size}. Use fewer scales or a smaller window."
            )


def _planes(image: Tensor) -> Tensor:
    """(B, C, H, W) as the channels of one image, (1, B * C, H, W), and on a CPU last in memory.

    Depthwise convolutions are fastest so. Not in a compiled or exported graph: a convolution there has a fixed number of
    channels, and a batch has not.
    """
    if torch.compiler.is_compiling() or is_exporting():
        return image
    planes = image.flatten(0, 1).unsqueeze(0)
    return planes.contiguous(memory_format=torch.channels_last) if planes.device.type == "cpu" else planes


def _filter(planes: Tensor, window: Tensor) -> Tensor:
    """Means (1, P, h - K + 1, w - K + 1) of all windows of (1, P, h, w), weighted by ``window`` (K,) along both axes."""
    channels = plain(planes.shape[1])
    planes = F.conv2d(planes, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(planes, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


class ReconstructionError(nn.Module):
    """``(1 - rho) * (1 - MS-SSIM) + rho * mean |x - x'| / range`` of each image (IGD, section 3).

    Args:
        image_size: Shorter side of the images in pixels; it decides scales and window where those are null.
        value_range: Largest less smallest possible pixel value.
        rho: Weight of L1; 0 for MS-SSIM alone, 1 for L1 alone.
        scales: Of MS-SSIM; null takes as many as the window allows, up to 5 with a window of 11 and up to 4 with others.
        window_size: Of MS-SSIM; null is 11 from 176 pixels on (all five scales), else 3.

    Raises:
        ConfigError: ``rho`` outside [0, 1], scales or window out of their range, or images too small for them.
    """

    def __init__(
        self,
        *,
        image_size: int,
        value_range: float,
        rho: float = 0.15,
        scales: int | None = None,
        window_size: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= rho <= 1:
            raise ConfigError(f"rho must be between 0 and 1; got {rho}. IGD uses 0.15.")
        if window_size is None:
            window_size = 11 if image_size >= 176 else 3
        if scales is None:
            most = 5 if window_size == 11 else 4
            scales = min(most, max(1, (image_size // max(1, window_size)).bit_length()))
        self.ms_ssim = MSSSIM(scales=scales, window_size=window_size, value_range=value_range)
        if image_size // 2 ** (scales - 1) < window_size:
            raise ConfigError(
                f"image_size must be at least {window_size * 2 ** (scales - 1)} for {scales} scales and a window of "
                f"{window_size}; got {image_size}. Use fewer scales, a smaller window or larger images."
            )
        self.value_range = value_range
        self.rho = rho

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Error of each pair.

        Args:
            image: Shape (B, C, H, W).
            reconstruction: The same shape.

        Returns:
            Shape (B,), in [0, 1] while values stay in their range.

        Raises:
            ShapeError: unequal shapes, or images too small for the scales of MS-SSIM.
        """
        similarity = self.ms_ssim(image, reconstruction)
        return self._weigh(1 - similarity, self._distance(image, reconstruction, similarity.dtype).mean((1, 2, 3)))

    def with_map(self, image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """Error of each pair, and where it lies.

        Args:
            image: Shape (B, C, H, W).
            reconstruction: The same shape.

        Returns:
            Error (B,) as from :meth:`forward`, and its additive map (B, 1, H, W), averaged over channels.

        Raises:
            ShapeError: unequal shapes, or images too small for the scales of MS-SSIM.
        """
        similarity, dissimilarity = self.ms_ssim.with_map(image, reconstruction, want_map=True)
        distance = self._distance(image, reconstruction, similarity.dtype)
        error_map = self._weigh(cast(Tensor, dissimilarity), distance).clamp_min(0).mean(1, keepdim=True)
        return self._weigh(1 - similarity, distance.mean((1, 2, 3))), error_map

    def _distance(self, image: Tensor, reconstruction: Tensor, dtype: torch.dtype) -> Tensor:
        """L1 of each pixel as a share of the value range, (B, C, H, W)."""
        return (image.to(dtype) - reconstruction.to(dtype)).abs() / self.value_range

    def _weigh(self, dissimilarity: Tensor, distance: Tensor) -> Tensor:
        return (1 - self.rho) * dissimilarity + self.rho * distance


class PixelComparison(nn.Module):
    """:class:`ReconstructionError` between an image in [0, 1] and a standardised reconstruction.

    Args:
        image_size: Height and width of the images.
        rho: Weight of L1.
        space: Where they are compared; the value range goes with it.
        scales: See :class:`ReconstructionError`.
        window_size: See :class:`ReconstructionError`.

    Raises:
        ConfigError: ``rho`` outside [0, 1], or images too small.
    """

    def __init__(
        self,
        *,
        image_size: ImageSize,
        rho: float,
        space: PixelSpace = "standardized",
        scales: int | None = None,
        window_size: int | None = None,
    ) -> None:
        super().__init__()
        self.space = space
        value_range = STANDARDIZED_RANGE if space == "standardized" else 1.0
        self.error = ReconstructionError(
            image_size=min(height_width(image_size)),
            value_range=value_range,
            rho=rho,
            scales=scales,
            window_size=window_size,
        )

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        """Error of each image.

        Args:
            image: Shape (B, 1 or 3, H, W), in [0, 1].
            reconstruction: Shape (B, 3, H, W), standardised.

        Returns:
            Shape (B,).

        Raises:
            ShapeError: neither one nor three channels, another height or width, or images that are too small.
        """
        error: Tensor = self.error(*self._pair(image, reconstruction))
        return error

    def with_map(self, image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """Error of each image, and where it lies.

        Args:
            image: Shape (B, 1 or 3, H, W), in [0, 1].
            reconstruction: Shape (B, 3, H, W), standardised.

        Returns:
            Error (B,) and its map (B, 1, H, W).

        Raises:
            ShapeError: neither one nor three channels, another height or width, or images that are too small.
        """
        return self.error.with_map(*self._pair(image, reconstruction))

    def _pair(self, image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        if self.space == "standardized":
            return standardize(image), reconstruction
        return image.expand(-1, 3, -1, -1), destandardize(reconstruction.float())


def squared_error(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Summed squared error of each image: two tensors (B, C, H, W) to (B,)."""
    return ((image.float() - reconstruction.float()) ** 2).sum((1, 2, 3))


def residual_scores(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error as image score and map.

    Args:
        image: Shape (B, C, H, W).
        reconstruction: The same shape.

    Returns:
        Sum over channels and pixels (B,), and mean over channels (B, 1, H, W).
    """
    residual = (image.float() - reconstruction.float()) ** 2
    return residual.sum((1, 2, 3)), residual.mean(1, keepdim=True)


def squared_distance(code: Tensor, center: Tensor) -> Tensor:
    """Squared Euclidean distance, in float32.

    Args:
        code: Shape (B, D).
        center: Shape (D,).

    Returns:
        Shape (B,).
    """
    return ((code.float() - center) ** 2).sum(1)


def away_from_zero(center: Tensor) -> Tensor:
    """Move components with absolute value below 0.1 to 0.1 or -0.1; an exact 0 goes to 0.1.

    Args:
        center: Shape (D,).

    Returns:
        Shape (D,).
    """
    sign = torch.where(center < 0, -1.0, 1.0)
    return torch.where(center.abs() < CENTER_MARGIN, CENTER_MARGIN * sign, center)


def polynomial_decay(progress: float, *, power: float = 0.9) -> float:
    """Factor of a learning rate that falls to 0: ``(1 - progress) ** power`` for a progress in [0, 1]."""
    return float(max(0.0, 1 - progress) ** power)


def with_idle_weights(loss: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """Give weights that a step leaves alone a gradient of zero, for which distributed training waits.

    Args:
        loss: A scalar.
        weights: Of any shapes.

    Returns:
        The loss, of the same value as long as all weights are finite.
    """
    sums = [weight.sum() for weight in weights]
    return loss + 0.0 * torch.stack(sums).sum() if sums else loss
