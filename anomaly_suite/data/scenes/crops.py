"""Training crops of driving scenes: flip, scale, crop and colour, image and target together. Axes: H and W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from anomaly_suite.contract import VOID
from anomaly_suite.data.preparation import as_image
from anomaly_suite.data.transforms import Pipeline, Pixels, Size
from anomaly_suite.errors import ConfigError

PADDING = (0.485, 0.456, 0.406)
"""Colour around images smaller than the crop: the ImageNet mean, so that standardised it is 0."""


class CropScenes:
    """Flip, scale, crop and colour a training scene, image and target together.

    Args:
        size: Height and width of the crop; None for the size that the scene comes in.
        flip: Probability of a mirror image.
        scales: Factors of which one is drawn.
        scale_range: Smallest and largest factor, drawn uniformly; replaces ``scales``.
        steps: Steps of albumentations or torchvision v2 on what was cut out, before it is padded.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(
        self,
        *,
        size: Size | None,
        flip: float,
        scales: Sequence[float],
        scale_range: tuple[float, float] | None,
        steps: Sequence[Any],
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"crop_size must be positive; got {size}.")
        if not 0 <= flip <= 1:
            raise ConfigError(f"flip is a probability in [0, 1]; got {flip}.")
        if not scales or min(scales) <= 0:
            raise ConfigError(f"scales needs factors above 0; got {list(scales)}. Use [1.0] to keep the size.")
        check_range("scale_range", scale_range)
        self.flip = flip
        self.scales = list(scales)
        self.scale_range = scale_range
        self.pipeline = Pipeline(image_size=None, center_crop=None, steps=steps)

    def __call__(
        self,
        image: Pixels,
        target: Pixels,
        *,
        rng: np.random.Generator,
        seed_parts: tuple[int, ...],
        source: str = "the scene",
    ) -> tuple[Tensor, Tensor]:
        """Transform one scene.

        Args:
            image: Shape (H, W, 3).
            target: Shape (H, W).
            rng: Source of flip, scale and place.
            seed_parts: Decide the draws of the steps.
            source: What the scene is, for messages.

        Returns:
            Float image (3, h, w) in [0, 1] and long target (h, w). Where the scaled scene is smaller than the crop it lies
            in the middle, surrounded by the ImageNet mean and 255.

        Raises:
            ConfigError: a step changes the size, or cannot work on the scene.
        """
        size = self.size or target.shape
        if rng.random() < self.flip:
            image, target = cv2.flip(image, 1), cv2.flip(target, 1)
        factor = rng.choice(self.scales) if self.scale_range is None else rng.uniform(*self.scale_range)
        if factor != 1:
            height, width = (max(1, round(factor * length)) for length in target.shape)
            nearest = cv2.resize(target, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            image, target = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), nearest
        first = [int(rng.integers(max(length - room, 0) + 1)) for length, room in zip(target.shape, size, strict=True)]
        cut = tuple(slice(start, start + room) for start, room in zip(first, size, strict=True))
        image, target = np.ascontiguousarray(image[cut]), np.ascontiguousarray(target[cut])
        shape = target.shape
        image, coloured = self.pipeline(image, target, seed_parts=seed_parts, source=source)
        if coloured is None or coloured.shape != shape:
            raise ConfigError("train_transform must keep the size of what it gets. Use crop_size and scales instead.")
        place = tuple(
            slice((room - length) // 2, (room - length) // 2 + length) for length, room in zip(shape, size, strict=True)
        )
        padded = torch.tensor(PADDING).view(3, 1, 1).repeat(1, *size)
        padded[:, place[0], place[1]] = as_image(image[None])[0]
        whole = torch.full(size, VOID)
        whole[place] = torch.from_numpy(coloured).long()
        return padded, whole


def check_range(name: str, value: tuple[float, float] | None) -> None:
    """Check an option that is a smallest and a largest factor.

    Raises:
        ConfigError: it is not.
    """
    if value is not None and not 0 < value[0] <= value[1]:
        raise ConfigError(f"{name} is a smallest and a largest factor above 0; got {list(value)}.")
