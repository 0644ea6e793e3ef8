"""A fitted method as one graph: preparation, scores, calibration.

Axes: B batch, H and W pixels of a picture, h and w pixels that the network sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from anomaly_suite.contract import AnomalyModule, Preparation
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.exporting import plain
from anomaly_suite.nn.resample import Rule, resample

NAMES = ("anomaly_score", "normalized_score", "pred_label", "anomaly_map", "pred_mask")
"""Outputs in the order of the graph; those that a method or its calibration does not have are left out."""


class Resize(NamedTuple):
    """To h and w by a rule of :func:`~anomaly_suite.nn.resample.resample`."""

    size: tuple[int, int]
    rule: Rule


class Cut(NamedTuple):
    """Top, left, bottom and right, as shares of height and width."""

    frame: tuple[float, float, float, float]


class Crop(NamedTuple):
    """Height and width cut out of the middle."""

    size: tuple[int, int]


class Pad(NamedTuple):
    """Height and width reached by a black margin."""

    size: tuple[int, int]


Step = Resize | Cut | Crop | Pad


class PreparedGraph(nn.Module):
    """From pictures of any size to scores, decisions and maps.

    Args:
        model: A fitted method on images.
        steps: What happens to a picture first.
        channels: 3 for RGB, 1 for grey.
    """

    def __init__(self, model: AnomalyModule, steps: tuple[Step, ...], channels: Literal[1, 3]) -> None:
        super().__init__()
        self.model = model
        self.steps = steps
        self.channels = channels
        self.eval()  # as a whole: exporters put back the mode that they find

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score pictures.

        Args:
            image: uint8 (B, H, W, channels), RGB, all of one size.

        Returns:
            Those of :data:`NAMES` that :meth:`outputs` lists: float32 (B,), float32 (B,), bool (B,), float32 (B, 1, h, w), bool
            (B, 1, h, w).
        """
        score, anomaly_map = self.model(self.prepared(image))
        found = _decided(self.model, score.float())
        if anomaly_map is None:
            return found
        anomaly_map, calibration = anomaly_map.float(), self.model.calibration
        decided = (anomaly_map >= calibration.threshold("pixel"),) if calibration.is_fitted("pixel") else ()
        return (*found, anomaly_map, *decided)

    def prepared(self, image: Tensor) -> Tensor:
        """What the network sees of pictures.

        Args:
            image: uint8 (B, H, W, channels).

        Returns:
            float32 in [0, 1], shape (B, channels, h, w).
        """
        x = image.permute(0, 3, 1, 2).float()
        for step in self.steps:
            x = _apply(step, x)
        return x / 255

    def outputs(self, has_map: bool) -> list[str]:
        """Names of what :meth:`forward` returns.

        Args:
            has_map: Whether the method gives maps.
        """
        calibration = self.model.calibration
        there = {"anomaly_score": True, "anomaly_map": has_map}
        there |= dict.fromkeys(("normalized_score", "pred_label"), calibration.is_fitted("image"))
        there["pred_mask"] = has_map and calibration.is_fitted("pixel")
        return [name for name in NAMES if there[name]]

    @property
    def keeps_size(self) -> bool:
        """Whether the network sees pictures in their own size."""
        return not any(isinstance(step, Resize | Crop | Pad) for step in self.steps)


class FeatureGraph(nn.Module):
    """From snippet features of whole videos to scores and decisions.

    Args:
        model: A fitted method on snippet features.
    """

    def __init__(self, model: AnomalyModule) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, snippet_features: Tensor, length: Tensor) -> tuple[Tensor, ...]:
        """Score videos.

        Args:
            snippet_features: float32 (B, C, T, D): videos, crops, snippets, width.
            length: Snippets of each video, int64 (B,); what follows is padding.

        Returns:
            ``anomaly_score`` (B,); where calibrated ``normalized_score`` and ``pred_label`` (B,); ``snippet_scores`` (B, T).
        """
        score, snippets = self.model(snippet_features, length)
        return (*_decided(self.model, score.float()), snippets.float())

    def outputs(self) -> list[str]:
        """Names of what :meth:`forward` returns."""
        decided = ["normalized_score", "pred_label"] if self.model.calibration.is_fitted("image") else []
        return ["anomaly_score", *decided, "snippet_scores"]


def _decided(model: AnomalyModule, score: Tensor) -> tuple[Tensor, ...]:
    calibration = model.calibration
    if not calibration.is_fitted("image"):
        return (score,)
    return score, calibration.normalize(score), score >= calibration.threshold("image")


def _apply(step: Step, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    if isinstance(step, Resize):
        return resample(x, step.size, step.rule)
    if isinstance(step, Cut):
        top, left, bottom, right = step.frame
        return x[:, :, round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    if isinstance(step, Crop):
        top, left = (height - step.size[0]) // 2, (width - step.size[1]) // 2
        return x[:, :, top : top + step.size[0], left : left + step.size[1]]
    before = [(wanted - plain(side)) // 2 for wanted, side in zip(step.size, (height, width), strict=True)]
    after = [
        wanted - plain(side) - first for wanted, side, first in zip(step.size, (height, width), before, strict=True)
    ]
    return nn.functional.pad(x, (before[1], after[1], before[0], after[0]))


def graph_of(model: AnomalyModule, preparation: Preparation) -> PreparedGraph:
    """The graph of a method and what happens to pictures before it.

    Args:
        model: A fitted method on images.
        preparation: Of its data module.

    Raises:
        ConfigError: the preparation has steps that are no part of a graph.
    """
    steps = getattr(preparation, "graph_steps", None)
    if steps is None:
        raise ConfigError(
            f"export needs a preparation that can be written as a graph; got {type(preparation).__name__}, which has no graph_steps(). "
            "Export the model alone (to_onnx), and prepare pictures as before."
        )
    return PreparedGraph(model, tuple(_STEPS[kind](*values) for kind, *values in steps()), preparation.channels)


_STEPS: Mapping[str, Any] = {"resize": Resize, "cut": Cut, "crop": Crop, "pad": Pad}


def metadata_of(model: AnomalyModule, preparation: Preparation | None, more: Mapping[str, Any]) -> dict[str, str]:
    """What a file says of itself: text by name.

    Args:
        model: The method.
        preparation: Of its data module; None for a method on features.
        more: Further entries.
    """
    from anomaly_suite import __version__

    found = {
        "format": "anomaly_suite 1",
        "version": __version__,
        "method": type(model).__name__,
        "calibration": json.dumps(model.calibration.record),
        **more,
    }
    if preparation is not None:
        found["channels"], found["exif"] = preparation.channels, getattr(preparation, "exif", "apply")
        found["bit_depth"] = preparation.bit_depth() if hasattr(preparation, "bit_depth") else 16
    return {name: str(value) for name, value in found.items()}
