"""OnnxPredictor: an exported file scores pictures with onnxruntime, numpy and OpenCV alone; torch is not imported."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from anomaly_suite.deploy.streams import PicturePredictor, Predicted, results
from anomaly_suite.errors import ConfigError, WeightsError
from anomaly_suite.io.image_headers import Exif
from anomaly_suite.io.images import read_image
from anomaly_suite.io.pictures import Picture, Pixels


class OnnxPredictor(PicturePredictor):
    """What ``anomaly-suite export --format onnx`` wrote, ready to score: the interface of :class:`anomaly_suite.Predictor`.

    Example:
        >>> OnnxPredictor("model.onnx")("new/part.png")[0].is_anomalous  # doctest: +SKIP
        True

    Args:
        path: The file.
        providers: Where onnxruntime computes, in order of preference; None takes all that it has.
        threads: Threads of an operator; None leaves it to onnxruntime.
        batch_size: Pictures of one size scored at once.

    Raises:
        WeightsError: the file is missing, is no ONNX model, or one that this package did not write.
        ConfigError: onnxruntime is not installed, or lacks a provider.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        batch_size: int = 32,
    ) -> None:
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise ConfigError(
                "OnnxPredictor needs onnxruntime, which is not installed. Install onnxruntime."
            ) from error
        known = onnxruntime.get_available_providers()
        if odd := [name for name in providers or () if name not in known]:
            raise ConfigError(
                f"providers must be of {', '.join(known)}; got {odd[0]!r}. Install the onnxruntime that has it."
            )
        if not Path(path).is_file():
            raise WeightsError(
                f"an exported model must be a file; there is no '{path}'. Write one with anomaly-suite export."
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is about operators
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers or known))
        except Exception as error:  # onnxruntime has its own
            raise WeightsError(
                f"'{path}' cannot be read as ONNX ({' '.join(str(error).split())[:200]}). Write it again with anomaly-suite export."
            ) from error
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        """What the file says of itself: method, version, calibration and what the export was given."""
        if not self.metadata.get("format", "").startswith("anomaly_suite "):
            raise WeightsError(
                f"'{path}' was not written by anomaly-suite export: it does not say how pictures are prepared. Export the run again."
            )
        super().__init__(cast(Any, int(self.metadata["channels"])), batch_size)
        self._outputs = [output.name for output in self.session.get_outputs()]

    def read(self, picture: Picture) -> Pixels:
        """Decode a file as the run's were."""
        exif = cast(Exif, self.metadata["exif"])
        return read_image(picture.path, channels=self.channels, bit_depth=int(self.metadata["bit_depth"]), exif=exif)

    def score(self, names: Sequence[str], pixels: Sequence[Pixels]) -> Iterator[Predicted]:
        """See :class:`~anomaly_suite.deploy.streams.PicturePredictor`."""
        found = self.session.run(self._outputs, {"image": np.stack(pixels)})
        return results(names, dict(zip(self._outputs, found, strict=True)))
