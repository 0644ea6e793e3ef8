"""ColorScale: which score has which colour, the same in all pictures of a stage.

Axes: B images, H and W pixels.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from anomaly_suite.contract import Calibration

log = logging.getLogger(__name__)

WAIT = timedelta(minutes=5)  # for what process zero says
NEAR = 0.07  # share of the scale between two numbers that are written


class Tick(NamedTuple):
    """A number on the scale: its place from 0 to 1, what is written there, and whether it is the threshold."""

    place: float
    text: str
    is_threshold: bool = False


class ColorScale:
    """Maps scores to [0, 1] by :meth:`Calibration.normalize <anomaly_suite.contract.Calibration.normalize>` for pixels.

    Args:
        calibration: Fitted for pixels.
        calibrated: Whether its threshold decides, so that it is marked; or is only the middle of a range, see :meth:`spanning`.
    """

    def __init__(self, calibration: Calibration, *, calibrated: bool) -> None:
        self.calibration = calibration
        self.calibrated = calibrated

    @classmethod
    def spanning(cls, low: float, high: float) -> ColorScale:
        """A scale for scores without a threshold: linear up to the middle of a range, and room above the range.

        Args:
            low: Smallest score expected; what lies below has its colour.
            high: Largest score expected.
        """
        calibration = Calibration()
        calibration.set("pixel", threshold=(low + high) / 2, low=low, high=high)
        return cls(calibration, calibrated=False)

    def __call__(self, score: Tensor) -> Tensor:
        """Places on the scale, 0 to 1, in the shape of ``score``; NaN and infinity have the highest."""
        return self.calibration.normalize(score, "pixel").nan_to_num(nan=1.0).clamp(0, 1)

    def ticks(self) -> list[Tick]:
        """The numbers to write beside it, from the lowest place up: the low end, the threshold or middle, and two above."""
        threshold, low, high = (self.calibration.record["pixel"][name] for name in ("threshold", "low", "high"))
        if math.isfinite(threshold):
            width = next(
                each for each in (threshold - low, high - threshold, abs(threshold), 1.0) if 0 < each < math.inf
            )
            scores = [threshold - width, threshold, threshold + width, threshold + 15 * width]
        else:  # all or nothing is anomalous
            scores = [low, high]
        places = self(torch.tensor(scores, dtype=torch.float64)).tolist()
        found = [
            Tick(place, f"{score:.4g}", self.calibrated and score == threshold)
            for place, score in zip(places, scores, strict=True)
        ]
        return [found[0], *(after for before, after in itertools.pairwise(found) if after.place - before.place > NEAR)]


def range_of(score: Tensor) -> tuple[float, float]:
    """Smallest and largest of the scores, of any shape, that are finite; 0 and 1 where none is."""
    finite = score[score.isfinite()].double()
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def said_by_first(trainer: Trainer, name: str, span: tuple[float, float]) -> tuple[float, float]:
    """The range that process zero found; no gathering, so processes that never ask are not missed.

    Process zero has a batch whenever any process has one, as samplers deal out samples in turn; the others wait for it.

    Args:
        trainer: Whose processes.
        name: Of the range, new each time and the same in all processes.
        span: What this process found; taken where process zero says nothing.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return span
    store: Any = torch.distributed.distributed_c10d._get_default_store()
    if trainer.is_global_zero:
        store.set(name, json.dumps(span))
        return span
    try:
        store.wait([name], WAIT)
    except RuntimeError:  # DistStoreError among them
        log.warning("process %d had no word of process 0 about %s and goes by its own.", trainer.global_rank, name)
        return span
    low, high = json.loads(store.get(name))
    return float(low), float(high)
