"""Weak video: training knows which videos hold an anomaly, but not when; asked is when, one score a snippet and frame."""

from anomaly_suite.methods.weak_video.deep_mil import DeepMIL

__all__ = ["DeepMIL"]
