"""The autoencoder of the Gaussian descriptor family: any image encoder, one linear layer, the residual decoder.

Source: Chen et al., IGD, AAAI 2022, with the decoder of the released code.
Axes: B batch, C channels, H and W pixels, D latent width.
"""

from __future__ import annotations

from torch import Tensor, nn

from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.residual import ResidualDecoder
from anomaly_suite.nn.size import ImageSize, height_width


class DescriptorAutoencoder(nn.Module):
    """Images in [0, 1] to latent vectors and reconstructions of the standardised images.

    Args:
        encoder: ``residual`` or the name of a timm network.
        image_size: Height and width of the images.
        latent_dim: D.
        width: Channels at full resolution of the residual networks.
        freeze_encoder: Train only the linear layer and the decoder.

    Raises:
        ConfigError: no such timm network, or an image size that the decoder does not have.
    """

    def __init__(
        self, *, encoder: str, image_size: ImageSize, latent_dim: int, width: int, freeze_encoder: bool
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(encoder, image_size=image_size, width=width)
        if freeze_encoder:
            self.encoder.freeze()
        self.projection = nn.Linear(self.encoder.out_features, latent_dim)
        self.decoder = ResidualDecoder(
            in_features=latent_dim, out_channels=3, image_size=height_width(image_size), width=width
        )

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1], C 1 or 3, to (B, D)."""
        latent: Tensor = self.projection(self.encoder(image))
        return latent

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [0, 1], C 1 or 3, to the latent vector (B, D) and the reconstruction (B, 3, H, W), standardised."""
        latent = self.encode(image)
        return latent, self.decoder(latent)
