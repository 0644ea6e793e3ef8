"""How many bits the values of images of more than 8 bits use, found over all images that are to have one scale."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anomaly_suite.io.images import brightest

DEPTHS = (8, 10, 12, 14, 16)
"""What cameras write. One of these leaves room above the brightest pixel, as one bit more or less would not."""

THREADS = 4  # that decode images at a time
EVERY = 10.0  # seconds between two lines about how far it is


def depth_of(paths: Sequence[Path], *, tell: Callable[[str], None]) -> tuple[int, Path, int]:
    """The least of 8, 10, 12, 14 and 16 bits that holds every pixel; images are read until one needs all 16.

    Args:
        paths: Images of more than 8 bits, at least one.
        tell: Is told how far it is, where that takes long.

    Returns:
        The bits, the first image with the highest value that was read, and this value.

    Raises:
        ImageReadError: an image cannot be read; says why.
    """
    best, high, spoken = paths[0], -1, time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(paths), 8 * THREADS):
            part = paths[first : first + 8 * THREADS]
            for path, value in zip(part, pool.map(brightest, part), strict=True):
                if value > high:
                    best, high = path, value
            if high >= 2 ** DEPTHS[-2]:
                break
            if time.monotonic() - spoken > EVERY:
                spoken = time.monotonic()
                tell(f"bit_depth: auto has read {first + len(part)} of {len(paths)} images of more than 8 bits.")
    return next(depth for depth in DEPTHS if high < 2**depth), best, high
