"""NewPictures: pictures without labels and frames of videos, prepared as a run's test images are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from anomaly_suite.contract import Preparation
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.preparation import as_image
from anomaly_suite.data.transforms import Pixels
from anomaly_suite.errors import DatasetError, ImageReadError, ShapeError
from anomaly_suite.io.pictures import OnError, Picture, check_on_error, with_channels
from anomaly_suite.io.videos import FrameReader

log = logging.getLogger(__name__)


class NewPictures(BatchedDataset):
    """Pictures and frames of videos, without labels. A frame is decoded when its turn comes; nothing is kept.

    Args:
        pictures: Where they are.
        preparation: What happens to each before the network sees it.
        on_error: ``raise`` stops at a picture that cannot be read; ``skip`` leaves it out, and says so in the batch.
    """

    def __init__(self, pictures: Sequence[Picture], preparation: Preparation, *, on_error: OnError = "raise") -> None:
        check_on_error(on_error)
        self.pictures = pictures
        self.preparation = preparation
        self.on_error: OnError = on_error
        self._frames = FrameReader()

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices: list[int]) -> Any:
        """Those of some pictures that can be read.

        Returns:
            ``image`` float32 in [0, 1] (B, C, H, W) and ``image_path``, of B pictures; under ``unreadable`` a sentence for each of the
            others, and nothing else where that is all of them.

        Raises:
            ImageReadError: a picture cannot be read, and is not to be skipped.
            DatasetError: the same of a video.
            ShapeError: pictures of several sizes, where they keep their size.
        """
        found: list[tuple[str, Pixels]] = []
        unreadable: list[str] = []
        for picture in (self.pictures[index] for index in indices):
            try:
                found.append((picture.name, self.read(picture)))
            except (ImageReadError, DatasetError, FileNotFoundError) as error:
                if self.on_error == "raise":
                    raise
                log.warning("left out: %s", error)
                unreadable.append(str(error))
        batch: dict[str, Any] = {}
        if found:
            names, pixels = zip(*found, strict=True)
            batch = {"image": stacked(pixels, names), "image_path": list(names)}
        return {**batch, "unreadable": unreadable} if unreadable else batch

    def read(self, picture: Picture) -> Pixels:
        """One of them, prepared, shape (H, W, C).

        Raises:
            ImageReadError: it cannot be read.
            DatasetError: its video cannot be read.
        """
        if picture.frame is None:
            pixels = self.preparation.read(picture.path)
        else:
            pixels = with_channels(self._frames.read(picture.path, picture.frame), self.preparation.channels)
        return self.preparation(pixels, source=f"'{picture.name}'")

    def __getstate__(self) -> dict[str, Any]:
        """Without the video that is open: a worker opens its own."""
        return {**self.__dict__, "_frames": FrameReader()}


def stacked(pixels: Sequence[Pixels], names: Sequence[str]) -> torch.Tensor:
    """A batch for a network.

    Args:
        pixels: Of shape (H, W, C), 8 bits each.
        names: What they are, for messages.

    Returns:
        float32 in [0, 1], shape (B, C, H, W), channels last in memory.

    Raises:
        ShapeError: several sizes.
    """
    for name, each in zip(names, pixels, strict=True):
        if each.shape != pixels[0].shape:
            raise ShapeError(
                f"'{names[0]}' is {pixels[0].shape[:2]} and '{name}' is {each.shape[:2]} (H, W), and the run keeps the size of its images. "
                "Score them one at a time: --data.eval_batch_size 1."
            )
    return as_image(np.stack(pixels))
