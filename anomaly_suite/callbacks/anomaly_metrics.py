"""Moved to ``callbacks.metrics.anomaly_metrics``."""

from anomaly_suite.callbacks.metrics.anomaly_metrics import AnomalyMetrics

__all__ = ["AnomalyMetrics"]
