"""Hand-made motion features, for tests and as a baseline without weights.

Axes: N clips, T frames of a clip, H and W pixels, D feature width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.nn.video.backbone import VideoBackbone


class MotionEnergy(VideoBackbone):
    """256 hand-made features of motion, without weights: where in the picture does how much change.

    Of the grey frames I (from 0 to 255) eight energies, all in squared grey levels, with D_k(t) = I(t + k) - I(t), and E the
    mean of I(t) and I(t + 1):

    - 0, 1, 2: the squares of D_1, D_2 and D_4, change over 1, 2 and 4 frames;
    - 3: the square of D_1(t + 1) - D_1(t), change of the change;
    - 4, 5: the squares of the derivatives of D_1 along x and along y, edges of what changes;
    - 6, 7: the sizes of D_1 times the derivative of E along x and along y, motion across vertical and horizontal edges.

    Each is averaged over time and over the pixels of every cell of an 8 x 12 grid. The 4 largest cells of each grid row are
    kept, largest first: 8 energies x 8 rows x 4 = 256 values in this order. So a feature knows how high in the picture
    something moves, which for a fixed camera is how far away, but not how far left or right.

    Source: ours.
    """

    feature_dim = 256
    resize = (120, 180)
    crop = (120, 180)
    normalization = "grey = 0.299 red + 0.587 green + 0.114 blue, from 0 to 255"

    GRID: ClassVar = (8, 12)
    KEPT: ClassVar = 4

    def normalize(self, clip: Tensor) -> Tensor:
        """RGB (N, 3, T, H, W) in [0, 1] to grey (N, T, H, W) in [0, 255]."""
        red, green, blue = (clip * 255).unbind(1)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def features(self, clip: Tensor) -> Tensor:
        """Grey clips (N, T, H, W), of any number of frames from 5 on, to (N, 256)."""
        change = clip[:, 1:] - clip[:, :-1]
        change_y, change_x = torch.gradient(change, dim=(2, 3))
        edge_y, edge_x = torch.gradient((clip[:, 1:] + clip[:, :-1]) / 2, dim=(2, 3))
        energies = (
            change.square(),
            (clip[:, 2:] - clip[:, :-2]).square(),
            (clip[:, 4:] - clip[:, :-4]).square(),
            (change[:, 1:] - change[:, :-1]).square(),
            change_x.square(),
            change_y.square(),
            (change * edge_x).abs(),
            (change * edge_y).abs(),
        )
        energy = torch.stack([each.mean(1) for each in energies], 1)  # N 8 H W
        cells = F.adaptive_avg_pool2d(energy, self.GRID)  # N 8 8 12
        return cells.topk(self.KEPT, dim=3).values.flatten(1)  # N 256
