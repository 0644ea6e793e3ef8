"""What all predictors share: from pictures, as a caller gives them, to results, a batch at a time. No torch."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from anomaly_suite.deploy.inputs import Given, pictures_of
from anomaly_suite.errors import ConfigError, DatasetError, ImageReadError
from anomaly_suite.io.pictures import OnError, Picture, Pixels, check_on_error, with_channels
from anomaly_suite.io.videos import FrameReader

log = logging.getLogger(__name__)


class Predicted(NamedTuple):
    """What is said of one picture.

    Attributes:
        name: Its path, ``clip.mp4/000012`` for a frame, or ``picture 3`` for the fourth of a list of arrays.
        anomaly_score: Raw.
        normalized_score: In [0, 1], 0.5 at the threshold; None without a calibration.
        is_anomalous: The decision; None without a calibration.
        anomaly_map: Raw float32 scores of the pixels that the network saw, shape (H, W); None where the method has none.
        mask: Which of them are anomalous, bool, shape (H, W); None without a map or a calibration for pixels.
    """

    name: str
    anomaly_score: float
    normalized_score: float | None = None
    is_anomalous: bool | None = None
    anomaly_map: npt.NDArray[np.float32] | None = None
    mask: npt.NDArray[np.bool_] | None = None


class PicturePredictor:
    """Scores pictures; a subclass writes :meth:`read`, :meth:`prepared` and :meth:`score`.

    Args:
        channels: Of the pictures that it takes: 3 for RGB, 1 for grey.
        batch_size: Pictures scored at once.

    Raises:
        ConfigError: a batch size under 1.
    """

    def __init__(self, channels: Literal[1, 3], batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1; got {batch_size}.")
        self.channels: Literal[1, 3] = channels
        self.batch_size = batch_size

    def read(self, picture: Picture) -> Pixels:
        """Decode a picture that is a file, shape (H, W, channels).

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read(picture).")

    def prepared(self, pixels: Pixels, source: str) -> Pixels:
        """What is given to :meth:`score` of a decoded picture."""
        return pixels

    def score(self, names: Sequence[str], pixels: Sequence[Pixels]) -> Iterator[Predicted]:
        """Results of prepared pictures of one shape.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define score(names, pixels).")

    def __call__(self, inputs: Any, *, on_error: OnError = "raise") -> list[Predicted]:
        """Score pictures; of very many, :meth:`stream` keeps no results.

        Args:
            inputs: See :func:`~anomaly_suite.deploy.inputs.pictures_of`.
            on_error: ``raise`` stops at a file that cannot be read, ``skip`` logs it and goes on.

        Returns:
            One entry a picture, in order.

        Raises:
            ImageReadError: a picture cannot be read.
            DatasetError: a video cannot be read.
            ShapeError: what is given is no picture.
            ConfigError: another ``on_error``.
        """
        return list(self.stream(inputs, on_error=on_error))

    def stream(self, inputs: Any, *, on_error: OnError = "raise") -> Iterator[Predicted]:
        """The same, one after another: at most a batch is in memory.

        Args:
            inputs: See :meth:`__call__`.
            on_error: See :meth:`__call__`.

        Yields:
            One entry a picture, in order.
        """
        check_on_error(on_error)
        frames = FrameReader()
        ready = (
            (given.name, pixels)
            for given in pictures_of(inputs)
            if (pixels := self._taken(given, frames, on_error)) is not None
        )
        # Pictures of one size share a batch, where they keep their size.
        for _, alike in itertools.groupby(ready, key=lambda pair: pair[1].shape):
            while batch := list(itertools.islice(alike, self.batch_size)):
                yield from self.score(*zip(*batch, strict=True))

    def _taken(self, given: Given, frames: FrameReader, on_error: OnError) -> Pixels | None:
        try:
            if given.pixels is not None:
                pixels = given.pixels
            elif given.picture is not None and given.picture.frame is not None:
                pixels = frames.read(given.picture.path, given.picture.frame)
            else:
                pixels = self.read(given.picture)  # type: ignore[arg-type] # it is one of the two
        except (ImageReadError, DatasetError, FileNotFoundError) as error:
            if on_error == "raise":
                raise
            log.warning("left out: %s", error)
            return None
        return self.prepared(with_channels(pixels, self.channels), f"'{given.name}'")


def results(names: Sequence[str], columns: dict[str, npt.NDArray[Any]]) -> Iterator[Predicted]:
    """Rows of what a network gave.

    Args:
        names: Of the pictures.
        columns: ``anomaly_score`` (B,), and those that there are of ``normalized_score`` and ``pred_label`` (B,), ``anomaly_map`` and
            ``pred_mask`` (B, 1, H, W).
    """
    for row, name in enumerate(names):
        found = {key: values[row] for key, values in columns.items()}
        score, decided = found.get("normalized_score"), found.get("pred_label")
        anomaly_map, mask = found.get("anomaly_map"), found.get("pred_mask")
        yield Predicted(
            name,
            float(found["anomaly_score"]),
            None if score is None else float(score),
            None if decided is None else bool(decided),
            None if anomaly_map is None else anomaly_map[0],
            None if mask is None else mask[0],
        )
