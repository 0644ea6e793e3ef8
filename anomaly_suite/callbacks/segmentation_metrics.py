"""Moved to ``callbacks.metrics.segmentation``."""

from anomaly_suite.callbacks.metrics.segmentation import SegmentationMetrics

__all__ = ["SegmentationMetrics"]
