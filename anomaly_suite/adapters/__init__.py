"""Models of other packages as methods of this one. Each needs its package, which is imported when a model is built."""

from anomaly_suite.adapters.anomalib_model import AnomalibModel

__all__ = ["AnomalibModel"]
