"""Calibration: thresholds and score ranges, and the decisions that follow from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from anomaly_suite.contract.batch import Prediction
from anomaly_suite.errors import CheckpointError, ConfigError, NotFittedError
from anomaly_suite.tracing import untraced

Level = Literal["image", "pixel"]
"""Whole images (or videos), or single pixels."""

RECORD_BYTES = 2048
"""Room for the record in ``state_dict``; always the same, because copies of a model are updated tensor by tensor."""

_BELOW_HALF = 0.5 - 2.0**-25
"""The largest float32 under 0.5, so that 0.5 in ``normalized_score`` is reached by anomalous scores alone."""


class Calibration(nn.Module):
    """Thresholds and score ranges, saved in the checkpoint and applied by every evaluation step.

    Unfitted it adds nothing. ``record`` says, for each level that is fitted, ``threshold``, ``low`` and ``high`` and how they
    were chosen. In ``state_dict`` it is a tensor, JSON as bytes, so that whatever takes tensors alone takes a state (safetensors,
    exporters). It is extra state and no buffer: weight averaging would average buffers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.record: dict[str, dict[str, Any]] = {}

    def is_fitted(self, level: Level) -> bool:
        """Whether a threshold for this level has been set."""
        return level in self.record

    def set(self, level: Level, *, threshold: float, low: float, high: float, **how: str | int | float) -> None:
        """Set threshold and score range of one level.

        Args:
            level: Whole images or single pixels.
            threshold: Scores at or above it are anomalous.
            low: Smallest score seen; maps to 0 in ``normalized_score``.
            high: Largest score seen.
            how: How the threshold was chosen, for the record.

        Raises:
            ConfigError: a threshold that is NaN; ``how`` holds other things than text and numbers, or too much for a checkpoint.
        """
        if math.isnan(threshold):
            raise ConfigError(
                f"the {level} threshold must be a number; got {threshold}. Look for NaN among the scores it comes from."
            )
        entry = {"threshold": float(threshold), "low": float(low), "high": float(high), **how}
        if level not in get_args(Level):
            raise ConfigError(f"level must be {' or '.join(get_args(Level))}; got {level!r}. Give one of these.")
        _encoded({**self.record, level: entry})  # what could not be saved is refused here
        self.record[level] = entry

    def threshold(self, level: Level) -> float:
        """Scores of this level at or above it are anomalous.

        Raises:
            NotFittedError: nothing has been set.
        """
        if level not in self.record:
            raise NotFittedError(
                f"no {level} threshold has been calibrated. Validate with the Calibrate callback first."
            )
        return float(self.record[level]["threshold"])

    @untraced
    def forward(self, prediction: Prediction) -> Prediction:
        """Add ``pred_label``, ``normalized_score`` and ``pred_mask`` where calibrated; raw scores stay as they are."""
        out = prediction.copy()
        if self.is_fitted("image") and "anomaly_score" in prediction:
            out["pred_label"] = prediction["anomaly_score"] >= self.threshold("image")
            out["normalized_score"] = self.normalize(prediction["anomaly_score"])
        if self.is_fitted("pixel") and "anomaly_map" in prediction:
            out["pred_mask"] = prediction["anomaly_map"] >= self.threshold("pixel")
        return out

    def normalize(self, score: Tensor, level: Level = "image") -> Tensor:
        """Map raw scores to [0, 1]: 0 at the smallest seen and below, 0.5 at the threshold, towards 1 far above it.

        With ``u = (score - threshold) / width``, below the threshold ``0.5 + 0.5 u``, from it on ``1 - 0.5 / (1 + log2(1 + u))``:
        0.75 one width above the threshold, 0.83 three, 0.88 seven, 1 at infinity alone. The width is ``threshold - low``, the
        reach of the normals: ``high`` is no measure, since normals on their own end near the threshold and one outlier among
        anomalies would press all others together. The logarithm keeps scores that differ by 0.2 % apart in float32 however far they
        lie above the threshold, where ``u / (1 + u)`` is 1 from ten million widths on. A score is decided anomalous exactly where
        this is at least 0.5.

        Args:
            score: Any shape.
            level: Whose threshold and range are used.

        Returns:
            Shape of ``score``; its type, or float32 where that is an integer or a shorter float.

        Raises:
            NotFittedError: the level has no threshold.
        """
        middle, low, high = self.threshold(level), self.record[level]["low"], self.record[level]["high"]
        is_anomalous = score >= middle
        if math.isinf(middle):  # all or nothing is anomalous: order by the range alone
            middle = high if middle > 0 else low
        widths = (middle - low, high - middle, abs(middle))  # the first that there is; a range may have no width
        width = next((each for each in widths if 0 < each < math.inf), 1.0)
        double = torch.float32 if score.device.type == "mps" else torch.float64  # which MPS lacks
        u = (score.to(double) - middle) / width  # in float32, large differences would be infinite
        above = 1 - 0.5 / (1 + u.clamp(min=0).log1p() / math.log(2))
        below = (0.5 + 0.5 * u).clamp(0, _BELOW_HALF)
        kept = score.dtype if score.dtype in (torch.float32, torch.float64) else torch.float32
        return torch.where(is_anomalous, above, below).to(kept)

    @torch.inference_mode(False)
    def get_extra_state(self) -> Tensor:
        """The record, part of ``state_dict``: JSON, filled up with spaces, shape (``RECORD_BYTES``,), uint8."""
        return torch.tensor(list(_encoded(self.record)), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor | Mapping[str, dict[str, Any]]) -> None:
        """Restore the record, from a mapping too, as checkpoints once held it.

        Raises:
            CheckpointError: a tensor that is no record.
        """
        self.record = dict(_decoded(state) if isinstance(state, Tensor) else state)


def _encoded(record: Mapping[str, dict[str, Any]]) -> bytes:
    try:
        text = json.dumps(record)
    except TypeError as error:
        raise ConfigError(
            f"how a threshold was chosen must be text and plain numbers; got {record} ({error}). Convert it, by float() or str()."
        ) from error
    if len(text) > RECORD_BYTES:
        raise ConfigError(
            f"how thresholds were chosen must take at most {RECORD_BYTES} characters; got {len(text)}. Shorten it."
        )
    return text.ljust(RECORD_BYTES).encode()


def _decoded(state: Tensor) -> dict[str, dict[str, Any]]:
    try:  # a program that converts all weights converts these, too, and numbers below 256 are exact in every precision
        record = json.loads(bytes(state.flatten().to("cpu", torch.uint8).tolist()))
    except ValueError as error:
        record = error
    if not isinstance(record, dict):
        raise CheckpointError(
            f"calibration._extra_state must hold the record of thresholds as JSON; got {tuple(state.shape)} {state.dtype} "
            f"({record}). Leave it out (strict=False) and calibrate anew."
        )
    return record
