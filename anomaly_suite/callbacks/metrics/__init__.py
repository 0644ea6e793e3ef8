"""Metrics of validation and test: one level a file, and one result file for all of them."""

from anomaly_suite.callbacks.metrics.anomaly_metrics import AnomalyMetrics
from anomaly_suite.callbacks.metrics.components import ComponentMetrics
from anomaly_suite.callbacks.metrics.frames import FrameMetrics
from anomaly_suite.callbacks.metrics.localisation import LocalisationMetrics
from anomaly_suite.callbacks.metrics.segmentation import SegmentationMetrics

__all__ = ["AnomalyMetrics", "ComponentMetrics", "FrameMetrics", "LocalisationMetrics", "SegmentationMetrics"]
