"""The convolutional autoencoder with a pooled code: four convolutions down to a vector, six transposed ones back to the image.

Source: Khazaie, MSc thesis, ch. 3 (four convolutions and global average pooling; a linear layer and six transposed convolutions);
    kernels, widths and slopes follow the released code of OLED, of the same authors.
Axes: B batch, C channels, H and W pixels, Z latent width, h and w cells of the innermost grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anomaly_suite.nn.layout import channels_last
from anomaly_suite.nn.size import ImageSize, height_width, require_image

NEGATIVE_SLOPE = 0.2  # of the leaky rectifiers
HALVINGS = 2  # the first two convolutions have stride 2

Output = Literal["tanh", "leaky_relu", "linear"]
"""What ends the decoder. A tanh that saturates at the background's value passes no gradient: on mostly black images a small training may stay black."""

Pool = Literal["mean", "flatten"]
"""How a grid becomes a code: its mean, or a linear layer on all of it, which keeps where things are."""


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (-(-side // 2**HALVINGS) for side in size)
    return height, width


def glorot_normal(net: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers from Glorot's normal distribution; biases are 0."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


@contextmanager
def running_statistics_kept(net: nn.Module) -> Iterator[None]:
    """Within it, batch norms in training mode normalise by the batch and leave their running statistics as they are."""
    norms = [part for part in net.modules() if isinstance(part, _NormBase) and part.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class PooledEncoder(nn.Module):
    """Images to codes; the last layer is linear.

    Args:
        in_channels: C.
        image_size: Height and width.
        widths: Channels of the first three convolutions, of which the first two halve.
        latent_dim: Z.
        pool: See :data:`Pool`.
    """

    def __init__(
        self, *, in_channels: int, image_size: ImageSize, widths: Sequence[int], latent_dim: int, pool: Pool = "mean"
    ) -> None:
        super().__init__()
        self.in_channels, self.image_size = in_channels, height_width(image_size)
        layers: list[nn.Module] = []
        for place, (before, after) in enumerate(pairwise((in_channels, *widths))):
            stride = 2 if place < HALVINGS else 1
            layers += [nn.Conv2d(before, after, 5, stride, 2), nn.BatchNorm2d(after), nn.LeakyReLU(NEGATIVE_SLOPE)]
        self.levels = nn.Sequential(*layers, nn.Conv2d(widths[-1], latent_dim, 5, 1, 2))
        height, width = _grid(self.image_size)
        self.head: nn.Module = nn.Identity()
        self.pool: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        if pool == "flatten":
            self.pool, self.head = nn.Flatten(), nn.Linear(latent_dim * height * width, latent_dim)
        glorot_normal(self)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to (B, Z).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        require_image(image, channels=self.in_channels, size=self.image_size)
        self.lay_out()
        code: Tensor = self.head(self.pool(self.levels(image)))  # B Z h w, then B Z
        return code

    def lay_out(self) -> None:
        """Weights with channels last."""
        channels_last(self)


class PooledDecoder(nn.Module):
    """Codes to images in [-1, 1], which ``tanh`` alone keeps to; sizes that are no multiple of 4 are cut from the middle (30 of 32).

    Args:
        latent_dim: Z.
        out_channels: C.
        image_size: Height and width.
        widths: As for the encoder, outermost first.
        output: See :data:`Output`.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        out_channels: int,
        image_size: ImageSize,
        widths: Sequence[int],
        output: Output = "tanh",
    ) -> None:
        super().__init__()
        self.image_size = height_width(image_size)
        first, second, third = widths
        height, width = _grid(self.image_size)
        self.corner = tuple(
            (cells * 2**HALVINGS - side) // 2 for cells, side in zip((height, width), self.image_size, strict=True)
        )
        self.stem = nn.Sequential(
            nn.Linear(latent_dim, third * height * width), nn.Unflatten(1, (third, height, width))
        )
        layers: list[nn.Module] = []
        for before, after, doubles in (
            (third, third, False),
            (third, third, True),
            (third, second, False),
            (second, first, True),
            (first, max(1, first // 2), False),
        ):
            kernel, stride, padding = (4, 2, 1) if doubles else (5, 1, 2)
            layers += [nn.ConvTranspose2d(before, after, kernel, stride, padding), nn.LeakyReLU(NEGATIVE_SLOPE)]
        ends: dict[str, nn.Module] = {
            "tanh": nn.Tanh(), "linear": nn.Identity(), "leaky_relu": nn.LeakyReLU(NEGATIVE_SLOPE)
        }  # fmt: skip
        self.levels = nn.Sequential(
            *layers, nn.ConvTranspose2d(max(1, first // 2), out_channels, 5, 1, 2), ends[output]
        )
        glorot_normal(self)

    def forward(self, code: Tensor) -> Tensor:
        """(B, Z) to (B, C, H, W) in [-1, 1]."""
        self.lay_out()
        image: Tensor = self.levels(self.stem(code))
        (top, left), (height, width) = self.corner, self.image_size
        return image[:, :, top : top + height, left : left + width]

    def lay_out(self) -> None:
        """Weights with channels last."""
        channels_last(self)
