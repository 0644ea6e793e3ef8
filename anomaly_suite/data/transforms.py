"""Resizing, cropping and transform steps for images and scenes, masks kept in step."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.data.steps import Steps
from anomaly_suite.errors import ConfigError, ShapeError

Size = int | tuple[int, int]
Pixels = npt.NDArray[np.uint8]


class Pipeline:
    """What happens to every image: resize, centre crop, then the steps, in this order.

    Args:
        image_size: Height and width in pixels (one number for both); None keeps the size. Images shrink by area averaging
            and grow bilinearly; masks take the nearest pixel.
        center_crop: Height and width that are cut out of the resized image.
        steps: Transforms of albumentations and torchvision.transforms.v2, see :class:`~anomaly_suite.data.steps.Steps`. They must leave
            8-bit images: a method normalises its own input.

    Raises:
        ConfigError: a step is no such transform, or has an option or value it does not take; or a crop that is larger
            than the image size.
    """

    def __init__(self, *, image_size: Size | None, center_crop: Size | None, steps: Sequence[Any]) -> None:
        self.image_size = _pair(image_size)
        self.center_crop = _pair(center_crop)
        if self.image_size:
            self.require_room(self.image_size, source="image_size")
        self.steps = list(steps)
        self._built = Steps(self.steps) if self.steps else None

    @property
    def step_names(self) -> list[str]:
        """Classes of the steps."""
        return [] if self._built is None else self._built.names

    def changes(self, height: int, width: int) -> bool:
        """Whether an image of this size would not come out as it is."""
        return bool(self.steps) or any(
            size not in (None, (height, width)) for size in (self.image_size, self.center_crop)
        )

    def require_room(self, size: tuple[int, int], *, source: str) -> None:
        """Check that the centre crop fits.

        Args:
            size: Height and width of what it is cut out of.
            source: What that is.

        Raises:
            ShapeError: it is smaller than the crop; a ConfigError too.
        """
        if self.center_crop and (size[0] < self.center_crop[0] or size[1] < self.center_crop[1]):
            raise CropError(
                f"center_crop {self.center_crop[0]} x {self.center_crop[1]} must fit into the image; {source} is {size[0]} x {size[1]} "
                "(H x W). Give a smaller center_crop, or an image_size of at least its size."
            )

    def __call__(
        self, image: Pixels, mask: Pixels | None, *, seed_parts: tuple[int, ...], source: str = "the image"
    ) -> tuple[Pixels, Pixels | None]:
        """Transform one image.

        Args:
            image: Shape (H, W, C).
            mask: Shape (H, W); None where there is none.
            seed_parts: Decide all random draws; see :func:`~anomaly_suite.io.seeds.derive_seed`.
            source: What the image is, for messages.

        Returns:
            Image and mask after resizing, cropping and all steps.

        Raises:
            ConfigError: the centre crop or a step cannot work on the image, or the steps leave something other than an 8-bit image.
        """
        height, width = image.shape[:2]
        if not self.changes(height, width):
            return image, mask
        if self.image_size is None:
            self.require_room((height, width), source=source)
        if self.image_size is not None:
            image, mask = resized(image, mask, self.image_size)
        if self.center_crop is not None:
            image, mask = _middle(image, self.center_crop), None if mask is None else _middle(mask, self.center_crop)
        if self._built is None:
            return image, mask
        try:
            found, marked = self._built(image, mask, seed_parts=seed_parts)
        except Exception as error:  # whatever a step leads to
            raise ConfigError(
                f"a transform step cannot work on {source}, {height} x {width} (H x W): {' '.join(str(error).split())}. "
                "Change the step, or the size of the images."
            ) from error
        if found.dtype != np.uint8:
            raise ConfigError(
                f"transform steps must leave 8-bit images; got {found.dtype}. "
                "Leave out steps such as Normalize or ToFloat: a method normalises its own input."
            )
        return found, marked


def resized(image: Pixels, mask: Pixels | None, size: tuple[int, int]) -> tuple[Pixels, Pixels | None]:
    """An image and its mask in another size.

    Images are averaged over areas where a side shrinks: the rule of :func:`~anomaly_suite.io.images.area_or_linear`, but where one side
    grows and the other shrinks it averages too. Masks take the nearest pixel.

    Args:
        image: Shape (H, W, C).
        mask: Shape (H, W); None where there is none.
        size: Height and width that they get.
    """
    height, width = image.shape[:2]
    if size == (height, width):
        return image, mask
    how = cv2.INTER_AREA if size[0] < height or size[1] < width else cv2.INTER_LINEAR
    found = cv2.resize(image, size[::-1], interpolation=how)
    found = found[..., None] if found.ndim < image.ndim else found
    return found, None if mask is None else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


def _middle(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    top, left = ((side - wanted) // 2 for side, wanted in zip(pixels.shape, size, strict=False))
    return np.ascontiguousarray(pixels[top : top + size[0], left : left + size[1]])


class CropError(ShapeError, ConfigError):
    """A crop does not fit: the image is too small, or the option too large."""


def _pair(size: Size | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, numbers.Integral) for side in sides):
        raise ConfigError(
            f"image_size and center_crop are a height and a width in pixels, or one number for both; got {size!r}."
        )
    if min(sides) < 1:
        raise ConfigError(f"image_size and center_crop must be positive; got {size}.")
    return sides[0], sides[1]
