"""C3D, the network of DeepMIL's features.

Paper: Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015.
Differs: subtracts the mean colour of Sports-1M where the original subtracts a mean clip, which no conversion contains.
Axes: N clips, T frames of a clip, H and W pixels, D feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ShapeError
from anomaly_suite.nn.video.backbone import VideoBackbone


class C3D(VideoBackbone):
    """The 4096-d feature of DeepMIL: eight 3x3x3 convolutions and the first linear layer after them, ``fc6``.

    Tensors are named as in the Caffe model and its PyTorch conversion ``c3d.pickle`` (``conv1`` to ``conv5b``, ``fc6``; ``fc7``
    and ``fc8`` are not needed). Takes clips of 16 frames of 112 x 112 pixels and no others.
    """

    feature_dim = 4096
    resize = (128, 171)
    crop = (112, 112)
    normalization = "x - (90.25, 97.66, 101.41) in the order blue, green, red, x from 0 to 255"
    classifier = ("fc7.", "fc8.")

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 3, padding=1)
        self.conv2 = nn.Conv3d(64, 128, 3, padding=1)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.fc6 = nn.Linear(512 * 4 * 4, self.feature_dim)
        mean = torch.tensor([90.25, 97.66, 101.41]).view(3, 1, 1, 1)  # of Sports-1M, for OpenCV's order of colours
        self.register_buffer("mean", mean, persistent=False)
        self.freeze()

    def normalize(self, clip: Tensor) -> Tensor:
        """RGB in [0, 1] to blue, green, red in 0..255 less the mean colour, shape (N, 3, T, H, W) unchanged."""
        return clip.flip(1) * 255 - self.mean

    def features(self, clip: Tensor) -> Tensor:
        """What follows the ReLU after fc6.

        Args:
            clip: Shape (N, 3, 16, 112, 112).

        Returns:
            Shape (N, 4096), not negative.

        Raises:
            ShapeError: another number of frames, or another size.
        """
        if clip.shape[2:] != (16, *self.crop):
            raise ShapeError(
                f"C3D takes clips of 16 frames of 112 x 112 pixels; got {tuple(clip.shape)}. Resize the frames, or take an I3D network."
            )
        x = F.max_pool3d(F.relu(self.conv1(clip)), (1, 2, 2))  # N 64 16 56 56
        x = F.max_pool3d(F.relu(self.conv2(x)), 2)  # N 128 8 28 28
        x = F.max_pool3d(F.relu(self.conv3b(F.relu(self.conv3a(x)))), 2)  # N 256 4 14 14
        x = F.max_pool3d(F.relu(self.conv4b(F.relu(self.conv4a(x)))), 2)  # N 512 2 7 7
        x = F.max_pool3d(F.relu(self.conv5b(F.relu(self.conv5a(x)))), 2, padding=(0, 1, 1))  # N 512 1 4 4
        return F.relu(self.fc6(x.flatten(1)))
