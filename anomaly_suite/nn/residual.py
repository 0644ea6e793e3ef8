"""Pre-activation residual networks of the WGAN-GP family: image to vector and back.

Source: Gulrajani et al., arXiv:1704.00028 (blocks), as used by f-AnoGAN and by the released code of IGD, whose "copy the
    channels four times and move depth to space" is nearest-neighbour upsampling.
Differs: a 3 x 3 convolution next to a change of resolution is computed as one 4 x 4 convolution of stride 2 with weights
    derived from the 3 x 3 ones: the same function at less than half the cost (``benchmarks/igd.py``). For the same reason
    the shortcut's 1 x 1 convolution runs on the smaller side, where it commutes with copying and averaging pixels.
Axes: B batch, C channels, H and W pixels, Z vector width, h and w cells of the innermost grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.size import require_divisible, require_image

Norm = Literal["batch", "layer", "group"]
"""``batch`` over the batch, ``layer`` over channels and pixels with one weight an element, ``group`` the same statistics
with one weight a channel: the two last treat each image alone, as a gradient penalty needs it."""

INNER_SIDE = 4
"""Cells of the shorter side of the innermost grid."""

MAX_BLOCKS = 4
"""Halvings by residual blocks; what an image has more is done by single convolutions at either end."""


class DownConv(nn.Conv2d):
    """3 x 3 convolution, then 2 x 2 mean pooling: (B, C, H, W) to (B, C', H/2, W/2)."""

    spread: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.register_buffer("spread", _spread([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]) / 4, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), even sides, to (B, C', H/2, W/2)."""
        weight = (self.weight.flatten(2) @ self.spread).view(*self.weight.shape[:2], 4, 4)
        return F.conv2d(x, weight, self.bias, stride=2, padding=1)


class UpConv(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then a 3 x 3 convolution: (B, C, H, W) to (B, C', 2H, 2W)."""

    spread: Tensor

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        self.register_buffer("spread", _spread([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2H, 2W)."""
        weight = (self.weight.flatten(2) @ self.spread).view(*self.weight.shape[:2], 4, 4)
        return F.conv_transpose2d(x, weight.transpose(0, 1), self.bias, stride=2, padding=1)


def _spread(rows: list[list[int]]) -> Tensor:
    """Matrix (9, 16) from 3 x 3 weights to 4 x 4 ones, from what happens along one axis (4, 3)."""
    axis = torch.tensor(rows, dtype=torch.float32)
    return torch.kron(axis, axis).t().contiguous()


class DownBlock(nn.Module):
    """Norm, ReLU, convolution, norm, ReLU, convolution, mean pooling; beside it mean pooling and a 1 x 1 convolution.

    Args:
        in_channels: C.
        out_channels: C'.
        size: (H, W) of the input.
        norm: Kind of both norms.
    """

    def __init__(self, in_channels: int, out_channels: int, *, size: tuple[int, int], norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _norm(norm, in_channels, size),
            nn.ReLU(),
            nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False),
            _norm(norm, in_channels, size),
            nn.ReLU(),
            DownConv(in_channels, out_channels),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/2, W/2)."""
        out: Tensor = self.shortcut(x) + self.residual(x)
        return out


class UpBlock(nn.Module):
    """Batch norm, ReLU, upsampling, convolution, norm, ReLU, convolution; beside it upsampling and a 1 x 1 convolution.

    Args:
        in_channels: C.
        out_channels: C'.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            UpConv(in_channels, out_channels, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2H, 2W)."""
        out: Tensor = self.shortcut(x) + self.residual(x)
        return out


class ResidualEncoder(nn.Module):
    """Images to vectors: convolution, down blocks, linear layer. With ``out_features=1`` and layer norm, a critic.

    At 256 pixels a 5 x 5 convolution of stride 2 comes first and a 3 x 3 one of stride 2 last; at 128 only the first.

    Args:
        in_channels: C.
        image_size: (H, W); the shorter side 8, 16, ... 256, the other divisible as often.
        width: Channels of the first convolution; blocks end with 2, 4, 8 and 8 times as many.
        out_features: Z.
        norm: Kind of all norms.
        channels: Instead of ``width``, those of the first convolution and of every block; the image is halved once a block, and
            may have any size that can be.

    Raises:
        ConfigError: another image size.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        image_size: tuple[int, int],
        width: int = 64,
        out_features: int = 512,
        norm: Norm = "batch",
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        channels, ends = _plan(image_size, width, channels)
        width = channels[0]
        stem = (
            nn.Conv2d(in_channels, width, 5, stride=2, padding=2)
            if ends
            else nn.Conv2d(in_channels, width, 3, padding=1)
        )
        layers: list[nn.Module] = [stem]
        rows, columns = (side // 2 if ends else side for side in image_size)
        for before, after in pairwise(channels):
            layers.append(DownBlock(before, after, size=(rows, columns), norm=norm))
            rows, columns = rows // 2, columns // 2
        if ends == 2:
            layers.append(nn.Conv2d(channels[-1], channels[-1], 3, stride=2, padding=1))
            rows, columns = rows // 2, columns // 2
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.trunk_features = channels[-1] * rows * columns
        self.head = nn.Linear(self.trunk_features, out_features)
        self.out_features = out_features

    def features(self, image: Tensor) -> Tensor:
        """What the linear layer sees: (B, C, H, W) to (B, ``trunk_features``).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        require_image(image, channels=self.in_channels, size=self.image_size)
        features: Tensor = self.trunk(image)
        return features

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) to (B, Z).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        out: Tensor = self.head(self.features(image))
        return out


class ResidualDecoder(nn.Module):
    """Vectors to images: linear layer, up blocks, batch norm, ReLU, convolution. The output is unbounded.

    At 256 pixels one upsampling with a 3 x 3 convolution comes first, and one with a 5 x 5 convolution last; at 128 only the
    last.

    Args:
        in_features: Z.
        out_channels: C.
        image_size: (H, W), as for the encoder.
        width: Channels after the last block, as for the encoder.
        channels: Instead of ``width``, outermost first, as for the encoder.

    Raises:
        ConfigError: another image size.
    """

    def __init__(
        self,
        *,
        in_features: int,
        out_channels: int,
        image_size: tuple[int, int],
        width: int = 64,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        channels, ends = _plan(image_size, width, channels)
        channels = channels[::-1]
        rows, columns = (side // 2 ** (len(channels) - 1 + ends) for side in image_size)
        layers: list[nn.Module] = [
            nn.Linear(in_features, channels[0] * rows * columns),
            nn.Unflatten(1, (channels[0], rows, columns)),
        ]
        if ends == 2:
            layers.append(UpConv(channels[0], channels[0]))
        layers += [UpBlock(before, after) for before, after in pairwise(channels)]
        layers += [nn.BatchNorm2d(channels[-1]), nn.ReLU()]
        if ends:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(channels[-1], out_channels, 5, padding=2)]
        else:
            layers.append(nn.Conv2d(channels[-1], out_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, Z) to (B, C, H, W)."""
        image: Tensor = self.layers(latent)
        return image


@torch.no_grad()
def glorot_weights(net: nn.Module) -> None:
    """Draw the weights as the released code of WGAN-GP does: uniform after Glorot, biases 0.

    Convolutions of 3 x 3 and 5 x 5, but for the first of an encoder, get twice the variance (He's).

    Args:
        net: An encoder or decoder of this file, or a module that holds such.
    """
    stems = {id(part.trunk[0]) for part in net.modules() if isinstance(part, ResidualEncoder)}
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            plain = isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1) or id(layer) in stems
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if plain else math.sqrt(2))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _plan(size: tuple[int, int], width: int, channels: Sequence[int] | None) -> tuple[Sequence[int], int]:
    """Channels of the outermost convolution and of every block, and single convolutions that change the resolution."""
    if channels is not None:
        require_divisible(size, len(channels) - 1)
        return channels, 0
    levels = (min(size) // INNER_SIDE).bit_length() - 1
    if not 1 <= levels <= MAX_BLOCKS + 2 or min(size) != INNER_SIDE * 2**levels or max(size) % 2**levels:
        raise ConfigError(
            f"image_size must have a shorter side of 8, 16, 32, 64, 128 or 256 pixels, and a longer one divisible as often; "
            f"got {size}. Resize the images (28-pixel sets to 32)."
        )
    blocks = min(levels, MAX_BLOCKS)
    return [width * min(2**level, 8) for level in range(blocks + 1)], levels - blocks


def _norm(kind: Norm, channels: int, size: tuple[int, int]) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.LayerNorm((channels, *size)) if kind == "layer" else nn.GroupNorm(1, channels)
