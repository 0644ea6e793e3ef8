"""How many bits the pixels of a data set's images use: one number, decided once over its training images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from anomaly_suite.errors import ConfigError
from anomaly_suite.io.image_headers import is_deep
from anomaly_suite.io.images import brightest

Bits = Literal["auto"] | int

DEPTHS = (8, 10, 12, 14, 16)
"""What cameras write. One of these leaves room above the brightest training pixel, as one bit more or less would not."""

THREADS = 4  # that decode images at a time, while their depth is sought
EVERY = 10.0  # seconds between two lines about how far that is


class BitDepth:
    """The bits that values of images of more than 8 bits use; 8-bit images are read as they are.

    ``auto`` is the least of 8, 10, 12, 14 and 16 bits that holds the brightest pixel of all training images, and 16 where none of them
    has more than 8. It is decided when it is first asked for; only images of more than 8 bits are decoded, until one needs all 16.
    Every process decides over the same images, and so alike.

    Args:
        given: A number from 8 to 16, or ``auto``.

    Raises:
        ConfigError: something else.
    """

    def __init__(self, given: Bits = "auto") -> None:
        if given != "auto" and (isinstance(given, bool) or given not in range(8, 17)):
            raise ConfigError(f"bit_depth must be auto or a whole number from 8 to 16; got {given!r}. Leave it auto.")
        self.given = given
        self.decided: int | None = None if given == "auto" else int(given)
        self._training: Sequence[Path] = ()
        self._others: Sequence[Path] = ()

    def look_at(self, training: Sequence[Path], others: Sequence[Path]) -> None:
        """Give the images of the data set: those that decide, and those for validation and testing."""
        self._training, self._others = training, others

    def bits(self) -> int:
        """The number, decided now if need be.

        Raises:
            ImageReadError: an image cannot be read; says why.
        """
        if self.decided is None:
            self.decided = self._decide()
            self._training = self._others = ()
        return self.decided

    def take_over(self, bits: int) -> None:
        """Go on with what a run was trained with; a number that was given stays, and a difference is told."""
        if self.given == "auto":
            self.decided = bits
        elif self.given != bits:
            rank_zero_warn(
                f"bit_depth is {self.given}, but the checkpoint was trained with {bits}: images of more than 8 bits have another brightness "
                f"than in training. Set bit_depth: auto or {bits}."
            )

    def _decide(self) -> int:
        deep = [path for path in self._training if is_deep(path)]
        if not deep:
            odd = next((path for path in self._others if is_deep(path)), None)
            if odd is not None:
                rank_zero_warn(
                    f"'{odd}' has more than 8 bits, and no training image has: its values are taken for 16 bits. "
                    "Set bit_depth if they use fewer."
                )
            return DEPTHS[-1]
        path, high = _brightest(deep)
        bits = next(depth for depth in DEPTHS if high < 2**depth)
        rank_zero_info(
            f"bit_depth: auto is {bits}: {len(deep)} training images have more than 8 bits, and '{path}' holds values up to {high}."
        )
        return bits


def _brightest(paths: Sequence[Path]) -> tuple[Path, int]:
    """The first image with the highest value, or the first that uses all 16 bits."""
    best, spoken = (paths[0], -1), time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(paths), 8 * THREADS):
            part = paths[first : first + 8 * THREADS]
            for path, high in zip(part, pool.map(brightest, part), strict=True):
                if high > best[1]:
                    best = path, high
            if best[1] >= 2 ** DEPTHS[-2]:
                break
            if time.monotonic() - spoken > EVERY:
                spoken = time.monotonic()
                rank_zero_info(f"bit_depth: auto has read {first + len(part)} of {len(paths)} images.")
    return best
