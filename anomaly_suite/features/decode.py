"""From the frames of a video to clips of 16, scaled and read ahead of the network, so that memory does not grow with length.

Axes: N clips, H and W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from anomaly_suite.contract import SNIPPET_FRAMES
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.images import area_or_linear
from anomaly_suite.io.videos import Pixels

WHOLE = 0.9  # share of the frames a file announces below which it is damaged; some containers announce an estimate

T = TypeVar("T")


def read_clips(frames: Iterable[Pixels], *, size: tuple[int, int], block: int) -> Iterator[tuple[Pixels, int]]:
    """Cut a video into clips of 16 frames; the last frame fills up the last clip.

    Args:
        frames: RGB images (H, W, 3).
        size: Height and width to which they are scaled.
        block: Clips at a time.

    Yields:
        N clips, shape (N, 3, 16, H, W), N equal to ``block`` but for the last, and how many frames are in them.
    """
    scaled = (_scale(frame, size) for frame in frames)
    while images := list(itertools.islice(scaled, block * SNIPPET_FRAMES)):
        used = len(images)
        images += images[-1:] * (-used % SNIPPET_FRAMES)
        clips = np.stack(images).reshape(-1, SNIPPET_FRAMES, *images[0].shape)  # N 16 H W 3
        yield clips.transpose(0, 4, 1, 2, 3), used


def _scale(frame: Pixels, size: tuple[int, int]) -> Pixels:
    how = area_or_linear((frame.shape[0], frame.shape[1]), size)
    scaled: Pixels = cv2.resize(frame, size[::-1], interpolation=how)
    return scaled


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next of which is made in another thread meanwhile.

    Args:
        items: None of them is None.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def require_whole(path: Path, frames: int, announced: int) -> None:
    """Check that a video could be decoded to its end.

    Args:
        path: The video.
        frames: How many of its frames were decoded.
        announced: How many it announces; 0 or less if unknown.

    Raises:
        DatasetError: no frame was decoded, or less than nine in ten of those announced.
    """
    if frames == 0:
        raise DatasetError(f"'{path}' has no frame that can be decoded. Fetch the file again.")
    if frames < WHOLE * announced:
        raise DatasetError(
            f"'{path}' announces {announced} frames, and decoding ended after {frames}: it is truncated or damaged. "
            "Fetch the file again, or encode it anew if all its frames are there."
        )
