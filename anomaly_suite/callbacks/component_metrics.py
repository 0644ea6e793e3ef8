"""Moved to ``callbacks.metrics.components``."""

from anomaly_suite.callbacks.metrics.components import ComponentMetrics

__all__ = ["ComponentMetrics"]
