"""The DCGAN pair: strided convolutions down to a vector, transposed convolutions back to an image.

Source: Radford, Metz and Chintala, arXiv:1511.06434.
Axes: B batch, C channels, H and W pixels, Z latent width, h and w cells of the innermost grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from anomaly_suite.nn.size import ImageSize, height_width, require_image


def to_signed(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1], the range of tanh; any shape, such as (B, C, H, W)."""
    return 2 * image - 1


def to_unit(signed: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], any shape, the inverse of :func:`to_signed`, in float32."""
    return (signed.float() + 1) / 2


def default_widths(size: tuple[int, int]) -> tuple[int, ...]:
    """Channels of each level: 64, doubled up to 512, with as many levels as bring the longer side to 4 cells or fewer.

    Example:
        >>> default_widths((28, 28)), default_widths((64, 64))
        ((64, 128, 256), (64, 128, 256, 512))
    """
    levels = max(1, math.ceil(math.log2(max(size) / 4)))
    return tuple(min(64 * 2**level, 512) for level in range(levels))


def _padding(size: tuple[int, int], levels: int) -> tuple[int, int, int, int]:
    """Pixels (left, right, top, bottom) that make both sides divisible by ``2**levels``."""
    extra_h, extra_w = (-side % 2**levels for side in size)
    return extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2


def _grid(size: tuple[int, int], levels: int) -> tuple[int, int]:
    height, width = (-(-side // 2**levels) for side in size)
    return height, width


class DCGANEncoder(nn.Module):
    """Images in [-1, 1] to vectors.

    Args:
        in_channels: C.
        image_size: (H, W); sizes that do not halve evenly are padded with -1 (28 becomes 32).
        widths: Channels of each level, outermost first.
        out_features: Width of the vector.
        kernel: Side of the convolutions, 4 or 5.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        image_size: tuple[int, int],
        widths: Sequence[int],
        out_features: int,
        kernel: int = 4,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        self.padding = _padding(image_size, len(widths))
        edge = (kernel - 1) // 2
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], kernel, 2, edge), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, kernel, 2, edge, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
        self.levels = nn.Sequential(*layers)
        height, width = _grid(image_size, len(widths))
        self.head = nn.Linear(widths[-1] * height * width, out_features)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to (B, out_features).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        require_image(image, channels=self.in_channels, size=self.image_size)
        x = F.pad(image, self.padding, value=-1.0)
        x = self.levels(x)  # (B, widths[-1], h, w)
        vector: Tensor = self.head(x.flatten(1))
        return vector


class DCGANDecoder(nn.Module):
    """Vectors to images in [-1, 1]; the mirror of :class:`DCGANEncoder`, border cropped.

    The batch norm behind the linear layer has one mean a channel, not one a cell, as behind DCGAN's own first layer (a
    transposed convolution); it works on a single image too.

    Args:
        in_features: Z.
        out_channels: C.
        image_size: (H, W).
        widths: Channels of each level, outermost first, as for the encoder.
    """

    def __init__(
        self, *, in_features: int, out_channels: int, image_size: tuple[int, int], widths: Sequence[int]
    ) -> None:
        super().__init__()
        self.image_size = image_size
        left, _, top, _ = _padding(image_size, len(widths))
        self.corner = top, left
        height, width = _grid(image_size, len(widths))
        self.stem = nn.Sequential(
            nn.Linear(in_features, widths[-1] * height * width, bias=False),
            nn.Unflatten(1, (widths[-1], height, width)),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
        )
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(reversed(widths)):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
        self.levels = nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], out_channels, 4, 2, 1), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        """(B, Z) to (B, C, H, W) in [-1, 1]."""
        image: Tensor = self.levels(self.stem(latent))  # (B, C, padded H, padded W)
        (top, left), (height, width) = self.corner, self.image_size
        return image[:, :, top : top + height, left : left + width]


@torch.no_grad()
def dcgan_weights(net: nn.Module) -> None:
    """Draw the weights as DCGAN does: those of convolutions and linear layers from N(0, 0.02^2), scales of batch norms from N(1, 0.02^2).

    Biases and shifts are 0.
    """
    for layer in net.modules():
        if isinstance(layer, _ConvNd | nn.Linear | _BatchNorm) and layer.weight is not None:
            nn.init.normal_(layer.weight, 1.0 if isinstance(layer, _BatchNorm) else 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def dcgan_pair(
    *,
    in_channels: int,
    image_size: ImageSize,
    widths: Sequence[int] | None,
    latent_dim: int,
    out_features: int | None = None,
) -> tuple[DCGANEncoder, DCGANDecoder]:
    """An encoder and the decoder that mirrors it.

    Args:
        in_channels: C.
        image_size: Height and width.
        widths: Channels of each level, outermost first; None takes :func:`default_widths`.
        latent_dim: Z, what the decoder takes.
        out_features: What the encoder gives, where that is not Z.
    """
    size = height_width(image_size)
    widths = widths or default_widths(size)
    return (
        DCGANEncoder(in_channels=in_channels, image_size=size, widths=widths, out_features=out_features or latent_dim),
        DCGANDecoder(in_features=latent_dim, out_channels=in_channels, image_size=size, widths=widths),
    )
