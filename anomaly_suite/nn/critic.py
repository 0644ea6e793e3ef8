"""The critic of interpolated codes: from a decoded image it predicts how far its code was interpolated.

Source: Berthelot et al., "Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer", ICLR 2019,
    with the residual network that IGD (Chen et al., AAAI 2022) has for it.
Axes: B batch, D width of a code, H and W pixels.
"""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor
from torch.func import functional_call

from anomaly_suite.nn.residual import ResidualEncoder
from anomaly_suite.nn.size import ImageSize, height_width

ALPHA_MAX = 0.5
"""Largest interpolation coefficient: beyond it the other code is the nearer one."""


def interpolate(latent: Tensor, alpha: Tensor) -> Tensor:
    """``alpha * z + (1 - alpha) * z'`` with the next code of the batch as z'.

    Args:
        latent: Shape (B, D).
        alpha: Shape (B,).

    Returns:
        Shape (B, D).
    """
    weight = alpha.unsqueeze(1).to(latent.dtype)
    return weight * latent + (1 - weight) * latent.roll(-1, 0)


class InterpolationCritic(ResidualEncoder):
    """Images of three channels to predicted interpolation coefficients.

    Args:
        image_size: Height and width.
        width: Channels at full resolution.
        norm: ``layer`` as published, or ``group``, with far fewer weights at 256 pixels.
        activation: After the linear layer: ``none``, ``sigmoid``, or ``half_sigmoid``, whose range is that of the coefficients.

    Raises:
        ConfigError: an image size that the residual networks do not have.
    """

    def __init__(
        self,
        image_size: ImageSize,
        *,
        width: int,
        norm: Literal["layer", "group"] = "layer",
        activation: Literal["none", "sigmoid", "half_sigmoid"] = "none",
    ) -> None:
        size = height_width(image_size)
        super().__init__(in_channels=3, image_size=size, width=width, out_features=1, norm=norm)
        self.activation = activation

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B,), in float32."""
        predicted = super().forward(image).float().squeeze(1)
        if self.activation == "none":
            return predicted
        return predicted.sigmoid() * (ALPHA_MAX if self.activation == "half_sigmoid" else 1.0)

    def with_fixed_weights(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B,) as :meth:`forward`, but the gradient reaches the image alone."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return cast(Tensor, functional_call(self, weights, (image,)))
