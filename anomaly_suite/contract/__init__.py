"""What flows between the parts: Batch, Prediction, AnomalyModule, AnomalyDataModule, Calibration.

A data module yields a :class:`Batch`, a method turns it into a :class:`Prediction`, callbacks read both. Any loader that
yields a mapping, an ``(image, label)`` or an ``(image, label, mask)`` tuple works as well, because every step passes its
batch through :func:`as_batch`.
"""

from anomaly_suite.contract.batch import (
    VARIANTS,
    Batch,
    Prediction,
    Reconstruction,
    as_batch,
    as_prediction,
    check_key_map,
)
from anomaly_suite.contract.calibration import Calibration, Level
from anomaly_suite.contract.data_module import AnomalyDataModule, FrameTruth, Listed, Preparation, Splits, Validation
from anomaly_suite.contract.keys import KeyMap
from anomaly_suite.contract.module import AnomalyModule
from anomaly_suite.contract.sampler import BalancedSampler, ShardSampler
from anomaly_suite.contract.scenes import OUTLIER, VOID, have_scored, highest_scored
from anomaly_suite.contract.videos import SEGMENTS, SNIPPET_FRAMES, frame_scores, pool_segments, snippet_count

__all__ = [
    "OUTLIER",
    "SEGMENTS",
    "SNIPPET_FRAMES",
    "VARIANTS",
    "VOID",
    "AnomalyDataModule",
    "AnomalyModule",
    "BalancedSampler",
    "Batch",
    "Calibration",
    "FrameTruth",
    "KeyMap",
    "Level",
    "Listed",
    "Prediction",
    "Preparation",
    "Reconstruction",
    "ShardSampler",
    "Splits",
    "Validation",
    "as_batch",
    "as_prediction",
    "check_key_map",
    "frame_scores",
    "have_scored",
    "highest_scored",
    "pool_segments",
    "snippet_count",
]
