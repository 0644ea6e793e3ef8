"""Weak video: training knows which videos hold an anomaly, but not when; asked is when, one score a snippet and frame."""

from anomaly_suite.methods.weak_video.ctmil import CTMIL
from anomaly_suite.methods.weak_video.deep_mil import DeepMIL
from anomaly_suite.methods.weak_video.rtfm import RTFM

__all__ = ["CTMIL", "RTFM", "DeepMIL"]
