"""How many bits the pixels of a data set's images use: one number, decided once over its training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from anomaly_suite.errors import ConfigError
from anomaly_suite.io.bit_depth import DEPTHS, depth_of
from anomaly_suite.io.image_headers import is_deep

Bits = Literal["auto"] | int


class BitDepth:
    """The bits that values of images of more than 8 bits use; 8-bit images are read as they are.

    ``auto`` is as many bits as the brightest pixel of all training images needs, so that none of them is cut off, and 16 where none has
    more than 8. It is decided when it is first asked for; only images of more than 8 bits are decoded, until one needs all 16.
    Every process decides over the same images, and so alike.

    Args:
        given: A number from 8 to 16, or ``auto``.

    Raises:
        ConfigError: something else.
    """

    def __init__(self, given: Bits = "auto") -> None:
        if given != "auto" and (isinstance(given, bool) or given not in DEPTHS):
            raise ConfigError(f"bit_depth must be auto or a whole number from 8 to 16; got {given!r}. Leave it auto.")
        self.given = given
        self.decided: int | None = None if given == "auto" else int(given)
        self.is_known = given != "auto"
        """Whether a number or an image says it, so that others may go by it: 8-bit images say nothing about deeper ones."""
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
            self.decided, self.is_known = bits, True
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
        found = depth_of(deep, tell=rank_zero_info)
        self.is_known = True
        spare = f" 999 of 1,000 pixels need {found.usual}: bit_depth: {found.usual} gives more contrast and makes brighter ones white."
        rank_zero_info(
            f"bit_depth: auto is {found.bits}: {len(deep)} training images have more than 8 bits, and '{found.path}' holds values up to "
            f"{found.high}.{spare if found.usual < found.bits else ''}"
        )
        return found.bits
