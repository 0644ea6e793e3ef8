"""Networks from clips of 16 frames to one feature vector each, one a file; they are never trained here."""

from anomaly_suite.nn.video.backbone import VideoBackbone
from anomaly_suite.nn.video.c3d import C3D
from anomaly_suite.nn.video.frame_average import FrameAverage
from anomaly_suite.nn.video.i3d_resnet50 import I3DResNet50
from anomaly_suite.nn.video.inception_i3d import InceptionI3D
from anomaly_suite.nn.video.motion_energy import MotionEnergy

__all__ = ["C3D", "FrameAverage", "I3DResNet50", "InceptionI3D", "MotionEnergy", "VideoBackbone"]
