"""What happens to a picture before a network sees it: decoding, cutting, resizing, steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anomaly_suite.data.transforms import Pipeline, Pixels
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.images import read_image

Frame = tuple[float, float, float, float]
"""Top, left, bottom and right of what is cut out of every image before anything else, as shares of its height and width."""


class PicturePreparation:
    """Reads and prepares the pictures of a data set of files, and new ones alike.

    Args:
        pipeline: What happens to every picture.
        channels: 3 for RGB, 1 for grey.
        bits: Says how many bits pictures of more than 8 bits use; None for all 16.
        exif: See :func:`~anomaly_suite.io.images.read_image`.
        frame: What is cut out of picture and mask first; None for all.
        seed: Random steps of the pipeline depend on it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        channels: Literal[1, 3] = 3,
        bits: Callable[[], int] | None = None,
        exif: Exif = "apply",
        frame: Frame | None = None,
        seed: int = 0,
    ) -> None:
        self.pipeline = pipeline
        self.channels: Literal[1, 3] = channels
        self._bits = bits
        self.exif: Exif = exif
        self.frame = frame
        self.seed = seed

    def bit_depth(self) -> int:
        """How many bits pictures of more than 8 bits use."""
        return 16 if self._bits is None else self._bits()

    def read(self, path: Path) -> Pixels:
        """Decode a picture, shape (H, W, channels).

        Raises:
            ImageReadError: it cannot be read; says why.
        """
        return read_image(path, channels=self.channels, bit_depth=self.bit_depth(), exif=self.exif)

    def graph_steps(self) -> list[tuple[Any, ...]]:
        """The same as names and sizes, for those who write it down as a graph.

        Returns:
            ``("cut", frame)``, ``("resize", (h, w), "opencv")`` and ``("crop", (h, w))``, those that there are, in this order.

        Raises:
            ConfigError: there are transform steps, which are Python.
        """
        pipeline = self.pipeline
        if pipeline.steps:
            names = ", ".join(pipeline.step_names)
            raise ConfigError(
                f"transform steps cannot be written into an exported file; the run has {names}. Export a run without transform, or "
                "apply these steps to the pictures first."
            )
        found: list[tuple[Any, ...]] = [] if self.frame is None else [("cut", self.frame)]
        found += [("resize", pipeline.image_size, "opencv")] if pipeline.image_size else []
        return found + ([("crop", pipeline.center_crop)] if pipeline.center_crop else [])

    def __call__(self, picture: Pixels, *, source: str) -> Pixels:
        """Cut, resize and transform a picture that belongs to no data set: random steps draw the same for each.

        Args:
            picture: Shape (H, W, channels).
            source: What it is, for messages.

        Raises:
            ShapeError: it is too small for the crop.
            ConfigError: a step cannot work on it.
        """
        return self.with_mask(picture, None, seed_parts=(self.seed, 0, 0), source=source)[0]

    def with_mask(
        self, picture: Pixels, mask: Pixels | None, *, seed_parts: tuple[int, ...], source: str
    ) -> tuple[Pixels, Pixels | None]:
        """The same for a picture and its mask; see :class:`~anomaly_suite.data.transforms.Pipeline`."""
        if self.frame is not None:
            picture, mask = _cut(picture, self.frame), None if mask is None else _cut(mask, self.frame)
        return self.pipeline(picture, mask, seed_parts=seed_parts, source=source)


def _cut(pixels: Pixels, frame: Frame) -> Pixels:
    height, width = pixels.shape[:2]
    top, left, bottom, right = (round(share * side) for share, side in zip(frame, (height, width) * 2, strict=True))
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def as_image(pixels: Pixels) -> torch.Tensor:
    """Images as methods take them.

    Args:
        pixels: 8 bits, shape (B, H, W, C).

    Returns:
        float32 in [0, 1], shape (B, C, H, W), channels last in memory.
    """
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
