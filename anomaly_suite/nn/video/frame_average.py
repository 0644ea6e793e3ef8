"""An image network frame by frame, for videos without a video network.

Axes: N clips, T frames of a clip, H and W pixels, D feature width.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from anomaly_suite.nn.backbones import FeatureExtractor
from anomaly_suite.nn.video.backbone import VideoBackbone


class FrameAverage(VideoBackbone):
    """Any timm image network: the last feature map, averaged over its cells and over the frames. Blind to motion.

    Frames are scaled to the input size of the network's ImageNet weights over 0.875, and cut to it: 256 and 224 for most.

    Args:
        backbone: Name of the timm network.

    Raises:
        ConfigError: an unknown network, or one without feature maps.
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.net = FeatureExtractor(backbone, layers=[-1], frozen=True)
        self.feature_dim = self.net.channels[-1]
        height, width = self.net.net.pretrained_cfg["input_size"][1:]
        self.crop = (height, width)
        self.resize = (round(height / 0.875), round(width / 0.875))
        mean, std = (self.net.net.pretrained_cfg[key] for key in ("mean", "std"))
        self.normalization = f"(x / 255 - {tuple(mean)}) / {tuple(std)}, x from 0 to 255"
        self.freeze()

    def load_weights(self, weights: str) -> None:
        """Load a local file or, for ``imagenet``, timm's own; see :meth:`~anomaly_suite.nn.backbones.FeatureExtractor.load_weights`."""
        self.net.load_weights(weights)

    def normalize(self, clip: Tensor) -> Tensor:
        """The clip as it is, shape (N, 3, T, H, W): the image network standardises it."""
        return clip

    def features(self, clip: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W), of any number of frames, to (N, D)."""
        frames = clip.transpose(1, 2)  # N T 3 H W
        features = self.net(frames.flatten(0, 1))[-1].mean((2, 3))  # NT D
        return cast(Tensor, features.unflatten(0, frames.shape[:2]).mean(1))
