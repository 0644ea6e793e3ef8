"""Weak video: training knows which videos hold an anomaly, but not when; asked is when, one score per snippet and frame.

The family's data are under ``anomaly_suite.data.videos``: methods are named after what they know in training, data after what it is.
"""

from anomaly_suite.methods.weak_video.ar_net import ARNet
from anomaly_suite.methods.weak_video.claws import CLAWS
from anomaly_suite.methods.weak_video.ctmil import CTMIL
from anomaly_suite.methods.weak_video.deep_mil import DeepMIL
from anomaly_suite.methods.weak_video.gcn_anomaly import GCNAnomaly
from anomaly_suite.methods.weak_video.mist import MIST
from anomaly_suite.methods.weak_video.rtfm import RTFM
from anomaly_suite.methods.weak_video.ur_dmu import URDMU

__all__ = ["CLAWS", "CTMIL", "MIST", "RTFM", "URDMU", "ARNet", "DeepMIL", "GCNAnomaly"]
