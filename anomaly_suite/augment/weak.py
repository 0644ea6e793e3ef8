"""Weak augmentations: the views of SimCLR, which leave an image what it is.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020; strengths as in CCD (Tian
et al., MICCAI 2021). Never a vertical flip or a quarter turn: these would change what strong augmentations are told by.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.augment.colour import Jitter, greyscale, jitter
from anomaly_suite.augment.draws import Draws, between
from anomaly_suite.tracing import untraced

RATIO = (3 / 4, 4 / 3)  # of the sides of a crop
JITTER: Jitter = (0.4, 0.4, 0.4, 0.1)
JITTER_SHARE, GREY_SHARE, BLUR_SHARE, FLIP_SHARE = 0.8, 0.2, 0.5, 0.5  # of images
BLUR_SIDE = 0.1  # of the image that the kernel covers
BLUR_SIGMA = (0.1, 2.0)  # px


class WeakAugmentation(NamedTuple):
    """Random resized crop, horizontal flip, colour jitter, grey, blur: every image of a batch by draws of its own.

    A crop's area and the logarithm of its ratio are uniform; sides are cut to those of the image where they exceed them.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the area that a crop has."""
    flip: bool = True
    colour: bool = True
    """Hue, saturation and grey; brightness and contrast change without it too."""
    blur: bool = True

    @untraced
    def __call__(self, image: Tensor, draws: Draws) -> Tensor:
        """One view of every image.

        Args:
            image: Shape (B, C, H, W), in [0, 1].
            draws: Source of all draws.

        Returns:
            Shape and type of ``image``, in [0, 1].
        """
        wide = image if image.dtype == torch.float64 else image.float()  # CPUs sample no grids in half precision
        uniform = draws(len(image), 13)
        view = self._crop(wide, uniform[:, :5])
        jittered = jitter(view, uniform[:, 5:9], JITTER if self.colour else (*JITTER[:2], 0.0, 0.0))
        view = torch.where(_rows(uniform[:, 9] < JITTER_SHARE), jittered, view)
        if self.colour and image.shape[1] == 3:
            view = torch.where(_rows(uniform[:, 10] < GREY_SHARE), greyscale(view), view)
        if self.blur:
            rows = (uniform[:, 11] < BLUR_SHARE).nonzero().squeeze(1)
            view = view.index_copy(0, rows, blurred(view[rows], between(uniform[rows, 12], *BLUR_SIGMA)))
        return view.clamp(0, 1).to(image.dtype)

    def _crop(self, image: Tensor, uniform: Tensor) -> Tensor:
        area = between(uniform[:, 0], *self.crop_scale)
        ratio = between(uniform[:, 1], math.log(RATIO[0]), math.log(RATIO[1])).exp()
        height, width = (area / ratio).sqrt().clamp_max(1), (area * ratio).sqrt().clamp_max(1)  # shares of the sides
        down, right = (1 - height) * (2 * uniform[:, 2] - 1), (1 - width) * (2 * uniform[:, 3] - 1)
        mirror = torch.where(uniform[:, 4] < FLIP_SHARE, -1.0, 1.0) if self.flip else torch.ones_like(width)
        zero = torch.zeros_like(width)
        rows = [width * mirror, zero, right, zero, height, down]
        matrix = torch.stack(rows, 1).view(-1, 2, 3).to(image.dtype)
        grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mirrored(image: Tensor, draws: Draws) -> Tensor:
    """Images (B, C, H, W), half of them flipped horizontally."""
    return torch.where(_rows(draws(len(image), 1)[:, 0] < FLIP_SHARE), image.flip(3), image)


def _rows(chosen: Tensor) -> Tensor:
    return chosen.view(-1, 1, 1, 1)


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Smooth images (B, C, H, W), each by a standard deviation (B,) of its own."""
    count, channels, height, width = image.shape
    for dim, side in ((2, height), (3, width)):
        reach = min(max(1, round(BLUR_SIDE * side) // 2), side - 1)
        offset = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
        kernel = torch.softmax(-(offset**2) / (2 * sigma.to(image.dtype).unsqueeze(1) ** 2), 1)
        kernel = kernel.repeat_interleave(channels, 0).unsqueeze(1).unsqueeze(5 - dim)  # (B * C, 1, K, 1) or (.., 1, K)
        padding = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        flat = F.pad(image.reshape(1, count * channels, height, width), padding, mode="reflect")
        image = (
            F.conv2d(flat, kernel, groups=max(1, count * channels)).view(count, channels, height, width)
            if count
            else image
        )
    return image
