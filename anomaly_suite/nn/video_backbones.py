"""Moved to ``anomaly_suite.nn.video``."""

from anomaly_suite.nn.video import (  # noqa: F401
    C3D,
    FrameAverage,
    I3DResNet50,
    InceptionI3D,
    MotionEnergy,
    VideoBackbone,
)
