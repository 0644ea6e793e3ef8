"""The LeNets of Deep SVDD: an encoder that cannot map every image to one point by itself, and its mirror.

Paper: Ruff et al., "Deep One-Class Classification", ICML 2018; the decoder is that of the released pre-training.
Axes: B batch, C channels, H and W pixels, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.size import require_image

BN_EPS = 1e-4
CODE_GRID = 4  # the code is decoded from 4 x 4 cells
GREY_WIDTHS = (8, 4)
COLOUR_WIDTHS = (32, 64, 128)


def global_contrast_normalization(image: Tensor) -> Tensor:
    """Shift every image (B, C, H, W) to mean 0 over channels and pixels, and scale it to mean absolute value 1."""
    centred = image - image.mean((1, 2, 3), keepdim=True)
    scale = centred.abs().mean((1, 2, 3), keepdim=True)
    return centred / scale.clamp_min(1e-5)  # an image of one colour stays near 0: its rounding errors are below 1e-7


class LeNetEncoder(nn.Module):
    """Convolutions without biases or affine batch norms, which could produce the centre from any image.

    Args:
        in_channels: C.
        image_size: (H, W).
        widths: Channels after each convolution; every one halves the image.

    Raises:
        ConfigError: an image too small to be halved so often.
    """

    def __init__(self, *, in_channels: int, image_size: tuple[int, int], widths: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        layers: list[nn.Module] = []
        for before, after in pairwise((in_channels, *widths)):
            layers += [
                nn.Conv2d(before, after, 5, padding=2, bias=False),
                nn.BatchNorm2d(after, eps=BN_EPS, affine=False),
                nn.LeakyReLU(),
                nn.MaxPool2d(2),
            ]
        self.levels = nn.Sequential(*layers, nn.Flatten())
        height, width = (side // 2 ** len(widths) for side in image_size)
        if min(height, width) < 1:
            raise ConfigError(
                f"image_size must be at least {2 ** len(widths)} for {len(widths)} poolings; got {image_size}. Give fewer widths."
            )
        self.out_features = widths[-1] * height * width

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, ``out_features``).

        Raises:
            ShapeError: images of another shape than the network was built for.
        """
        require_image(image, channels=self.in_channels, size=self.image_size)
        features: Tensor = self.levels(image)
        return features


class LeNetDecoder(nn.Module):
    """The mirror of :class:`LeNetEncoder` and its linear layer, for pre-training.

    Each level is an activation, nearest upsampling and a transposed convolution. The grids end at the image size and are
    even before that: 4, 8, 14, 28 for MNIST (the 16 that 8 is doubled to loses its border in the convolution), 4, 4, 8, 16,
    32 for CIFAR10.

    Args:
        out_channels: C.
        image_size: (H, W).
        widths: Those of the encoder.
        latent_dim: D, a multiple of 16.
        normalize_code: Batch norm on the code, as the release does for colour images.

    Raises:
        ConfigError: a ``latent_dim`` that is not a multiple of 16.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        image_size: tuple[int, int],
        widths: Sequence[int],
        latent_dim: int,
        normalize_code: bool,
    ) -> None:
        super().__init__()
        if latent_dim % CODE_GRID**2:
            raise ConfigError(f"latent_dim must be a multiple of 16 to be decoded; got {latent_dim}. Round it up.")
        self.image_size = image_size
        self.normalize = nn.BatchNorm1d(latent_dim, eps=BN_EPS, affine=False) if normalize_code else None
        rows, columns = (mirrored_grids(side, len(widths) + 1) for side in image_size)
        self.before = [(row[0], column[0]) for row, column in zip(rows, columns, strict=True)]
        channels = (latent_dim // CODE_GRID**2, *reversed(widths), out_channels)
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 5, padding=(row[1], column[1]), bias=False)
            for (before, after), row, column in zip(pairwise(channels), rows, columns, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=BN_EPS, affine=False) for width in reversed(widths))

    def forward(self, code: Tensor) -> Tensor:
        """Codes (B, D) to images (B, C, H, W) in [0, 1].

        Raises:
            ShapeError: a training batch of one colour image, whose code cannot be normalised.
        """
        if self.normalize is not None:
            if self.training and len(code) == 1:
                raise ShapeError(
                    "pre-training on colour images needs at least 2 images in every training batch; got 1. "
                    "Choose a train_batch_size that does not leave a single image over, or drop the last batch."
                )
            code = self.normalize(code)
        x = code.view(code.shape[0], -1, CODE_GRID, CODE_GRID)
        for index, (size, convolution) in enumerate(zip(self.before, self.convolutions, strict=True)):
            x = self.norms[index - 1](x) if index else x
            x = convolution(F.interpolate(F.leaky_relu(x), size=size, mode="nearest"))
        height, width = self.image_size
        return torch.sigmoid(x[:, :, :height, :width])  # an odd size comes out one too large


def build_lenets(
    *,
    channels: int,
    image_size: tuple[int, int],
    widths: Sequence[int] | None,
    latent_dim: int,
    with_decoder: bool,
    initialization: Literal["torch", "xavier"] = "torch",
) -> tuple[LeNetEncoder, LeNetDecoder | None]:
    """An encoder, and the decoder of codes that a linear layer makes of its features.

    Args:
        channels: C of the images.
        image_size: (H, W).
        widths: Channels after each convolution of the encoder; None takes the paper's for grey or for colour images.
        latent_dim: D.
        with_decoder: Also build a decoder; None stands in its place otherwise.
        initialization: Of all convolutions: torch's, or uniform after Xavier with the gain of leaky ReLU.

    Raises:
        ConfigError: sizes that do not fit.
    """
    widths = widths or (GREY_WIDTHS if channels == 1 else COLOUR_WIDTHS)
    encoder, decoder = LeNetEncoder(in_channels=channels, image_size=image_size, widths=widths), None
    if with_decoder:
        decoder = LeNetDecoder(
            out_channels=channels,
            image_size=image_size,
            widths=widths,
            latent_dim=latent_dim,
            normalize_code=channels > 1,
        )
    if initialization == "xavier":
        for layer in nn.ModuleList(filter(None, (encoder, decoder))).modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("leaky_relu"))
    return encoder, decoder


def mirrored_grids(side: int, count: int) -> list[tuple[int, int]]:
    """Size before each of ``count`` transposed convolutions along one axis, and their paddings (2 keeps a size).

    Example:
        >>> mirrored_grids(28, 3)
        [(8, 2), (16, 3), (28, 2)]
        >>> mirrored_grids(32, 4)
        [(4, 2), (8, 2), (16, 2), (32, 2)]
    """
    after = [side]
    while len(after) < count:
        after.insert(0, 2 * math.ceil(after[0] / 4))
    before = [after[0], *(2 * size for size in after[:-1])]
    return [(wide, 2 + (wide - size) // 2) for wide, size in zip(before, after, strict=True)]
