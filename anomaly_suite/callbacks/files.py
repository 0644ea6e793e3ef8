"""Moved to ``callbacks.base``, ``callbacks.processes`` and ``io``."""

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, calibration_of, labels_of, output_folder
from anomaly_suite.callbacks.processes import gather_rows, in_any_process
from anomaly_suite.io.atomic import replacing
from anomaly_suite.io.naming import MirroredNames, free_name, tree_parts

__all__ = [
    "MirroredNames",
    "Stage",
    "StageCallback",
    "Step",
    "calibration_of",
    "free_name",
    "gather_rows",
    "in_any_process",
    "labels_of",
    "output_folder",
    "replacing",
    "tree_parts",
]
