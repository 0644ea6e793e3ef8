"""Moved to ``anomaly_suite.nn.video``."""

from anomaly_suite.nn.video import C3D, FrameAverage, I3DResNet50, InceptionI3D, MotionEnergy, VideoBackbone

__all__ = ["C3D", "FrameAverage", "I3DResNet50", "InceptionI3D", "MotionEnergy", "VideoBackbone"]
