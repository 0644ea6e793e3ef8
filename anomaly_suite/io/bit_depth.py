"""How many bits the values of images of more than 8 bits use, found over all images that are to have one scale."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_suite.io.images import stored_values

DEPTHS = range(8, 17)

THREADS = 4  # that decode images at a time
EVERY = 10.0  # seconds between two lines about how far it is
RARE = 1e-3  # share of the pixels


class Depth(NamedTuple):
    """The bits that all pixels need, an image with the highest value, this value, and the bits that all but one pixel in 1,000 need."""

    bits: int
    path: Path
    high: int
    usual: int


def depth_of(paths: Sequence[Path], *, tell: Callable[[str], None]) -> Depth:
    """How many bits, 8 to 16, the values of images need; images are read until one needs all 16.

    Args:
        paths: Images of more than 8 bits, at least one.
        tell: Is told how far it is, where that takes long.

    Raises:
        ImageReadError: an image cannot be read; says why.
    """
    best, high, spoken = paths[0], -1, time.monotonic()
    above = np.zeros(len(DEPTHS), np.int64)  # pixels that need more bits than each depth
    size = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(paths), 8 * THREADS):
            part = paths[first : first + 8 * THREADS]
            for path, (value, counts, pixels) in zip(part, pool.map(_measured, part), strict=True):
                if value > high:
                    best, high = path, value
                above, size = above + counts, size + pixels
            if high >= 2 ** DEPTHS[-2]:
                break
            if time.monotonic() - spoken > EVERY:
                spoken = time.monotonic()
                tell(f"bit_depth: auto has read {first + len(part)} of {len(paths)} images of more than 8 bits.")
    return Depth(_least(above, 0), best, high, _least(above, RARE * size))


def _measured(path: Path) -> tuple[int, list[int], int]:
    values = stored_values(path)
    high = int(values.max())
    return high, [int(np.count_nonzero(values >> bits)) if high >> bits else 0 for bits in DEPTHS], values.size


def _least(above: np.ndarray, allowed: float) -> int:
    return next(bits for bits, count in zip(DEPTHS, above.tolist(), strict=True) if count <= allowed)
