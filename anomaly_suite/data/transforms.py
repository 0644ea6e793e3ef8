"""Resizing, cropping and albumentations steps for images and scenes, masks kept in step."""

from __future__ import annotations

import inspect
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import ConfigError, ShapeError, did_you_mean
from anomaly_suite.io.seeds import derive_seed

Step = Mapping[str, Any]
Size = int | tuple[int, int]
Pixels = npt.NDArray[np.uint8]


class Pipeline:
    """What happens to every image: resize, centre crop, then the steps, in this order.

    Args:
        image_size: Height and width in pixels (one number for both); None keeps the size. Images shrink by area averaging
            and grow bilinearly; masks take the nearest pixel.
        center_crop: Height and width that are cut out of the resized image.
        steps: Albumentations transforms, ``{"class": "HorizontalFlip", "p": 0.5}``; one that holds others has them under
            ``transforms``. They must leave 8-bit images: a method normalises its own input.

    Raises:
        ConfigError: a step is not a transform of albumentations, or has an option or value it does not take; or a crop that is larger
            than the image size.
    """

    def __init__(self, *, image_size: Size | None, center_crop: Size | None, steps: Sequence[Step]) -> None:
        self.image_size = _pair(image_size)
        self.center_crop = _pair(center_crop)
        if self.image_size:
            self.require_room(self.image_size, source="image_size")
        self.steps = list(steps)
        self._compose: Any = None
        if self.steps:
            self.prepare()

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

    def prepare(self) -> None:
        """Build the albumentations pipeline; importing it takes seconds, so better once than in every worker."""
        if self._compose is not None:
            return
        albumentations = _albumentations()
        steps = []
        if self.image_size:
            # Its rule is that of io.images.area_or_linear, but where one side grows and the other shrinks it averages too.
            steps.append(albumentations.Resize(*self.image_size, area_for_downscale="image"))
        if self.center_crop:
            steps.append(albumentations.CenterCrop(*self.center_crop))
        self._compose = albumentations.Compose(steps + [build_step(step) for step in self.steps])

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
        self.prepare()
        if self.steps:
            self._compose.set_random_seed(derive_seed(*seed_parts))
        try:
            out = self._compose(image=image) if mask is None else self._compose(image=image, mask=mask)
        except Exception as error:  # whatever a step of albumentations leads to
            raise ConfigError(
                f"a transform step cannot work on {source}, {height} x {width} (H x W): {' '.join(str(error).split())}. "
                "Change the step, or the size of the images."
            ) from error
        if out["image"].dtype != np.uint8:
            raise ConfigError(
                f"transform steps must leave 8-bit images; got {out['image'].dtype}. "
                "Leave out steps such as Normalize or ToFloat: a method normalises its own input."
            )
        return out["image"], out.get("mask")


class CropError(ShapeError, ConfigError):
    """A crop does not fit: the image is too small, or the option too large."""


def build_step(step: Step) -> Any:
    """One albumentations transform from its mapping; see :class:`Pipeline`.

    Raises:
        ConfigError: albumentations has no such transform, or it does not take an option or its value.
    """
    albumentations = _albumentations()
    options = {key: value for key, value in step.items() if key != "class"}
    name = str(step.get("class"))
    kinds = (albumentations.BasicTransform, albumentations.BaseCompose)
    known = [key for key, value in vars(albumentations).items() if inspect.isclass(value) and issubclass(value, kinds)]
    if name not in known:
        raise ConfigError(
            f"a transform step needs 'class', the name of an albumentations transform; got {dict(step)}.{did_you_mean(name, known)}"
        )
    transform = getattr(albumentations, name)
    accepted = list(inspect.signature(transform).parameters)
    for key in options:
        if key not in accepted:
            raise ConfigError(f"{name} takes {', '.join(accepted)}; got {key!r}.{did_you_mean(key, accepted)}")
    if "transforms" in options:
        options["transforms"] = [build_step(inner) for inner in options["transforms"]]
    try:
        return transform(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name} cannot be built from {options}: {' '.join(str(error).split())}") from error


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    import albumentations

    return albumentations


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
