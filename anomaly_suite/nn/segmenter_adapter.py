"""An adapter for any segmentation network: logits, features and weights as the methods of driving scenes need them.

Axes: B batch, C channels, K class channels, D features, H and W pixels, h and w cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.nn.encoders import standardize
from anomaly_suite.nn.weights import read_tensors

OUTPUTS = ("out", "logits")  # keys of mappings, as torchvision and transformers return them


class SegmenterAdapter(nn.Module):
    """A network of any kind that gives logits for pixels, used as it is and not trained.

    Args:
        network: Images (B, C, H, W) to logits (B, K, h, w), or a mapping that has them under ``out`` or ``logits``. Logits of
            another size than the image are enlarged bilinearly.
        num_classes: K, or K - 1 with an abstention channel.
        feature_layer: Dotted name of the layer whose input are the features (B, D, h, w), usually the last convolution;
            needed for :meth:`with_feature` alone.
        standardized: Give the network images of zero mean and unit deviation by ImageNet's statistics, not images in [0, 1].

    Raises:
        ConfigError: ``network`` has no such layer.
    """

    def __init__(
        self, network: nn.Module, *, num_classes: int, feature_layer: str | None = None, standardized: bool = True
    ) -> None:
        super().__init__()
        if feature_layer is not None and feature_layer not in dict(network.named_modules()):
            names = ", ".join([name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)][-5:])
            raise ConfigError(
                f"feature_layer must name a layer of {type(network).__name__}; got {feature_layer!r}. Its last convolutions are "
                f"{names or 'none'}."
            )
        self.network = network
        self.num_classes = num_classes
        self.feature_layer = feature_layer
        self.standardized = standardized
        self.abstains = False

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W), in [0, 1], to float32 logits (B, K, H, W).

        Raises:
            ShapeError: the network returns something else than logits of its classes.
        """
        output: Any = self.network(standardize(image) if self.standardized else image)
        if isinstance(output, Mapping):
            output = next((output[key] for key in OUTPUTS if key in output), None)
        channels = self.num_classes + self.abstains
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[1] != channels:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ShapeError(
                f"segmenter must return logits (B, {channels}, h, w), or a mapping that has them under {' or '.join(OUTPUTS)}; got "
                f"{shape}. Set num_classes to what it was trained with, or wrap it."
            )
        return self.resize(output.float(), image)

    def with_feature(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features of images in one pass.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Logits (B, K, H, W) in float32, and the input (B, D, h, w) of ``feature_layer``.

        Raises:
            ConfigError: no ``feature_layer``.
            ShapeError: the input of the layer is no map.
        """
        if self.feature_layer is None:
            raise ConfigError(
                "feature_layer must name the layer whose input are the features; got None. Set feature_layer to the last convolution."
            )
        seen: list[Tensor] = []
        layer = self.network.get_submodule(self.feature_layer)
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self(image)
        finally:
            handle.remove()
        if not seen or seen[-1].ndim != 4:
            shape = tuple(seen[-1].shape) if seen else "nothing"
            raise ShapeError(f"feature_layer {self.feature_layer!r} must see a map (B, D, h, w); it saw {shape}.")
        return logits, seen[-1]

    def resize(self, maps: Tensor, image: Tensor) -> Tensor:
        """Maps (B, K, h, w) in the size of an image."""
        size = image.shape[2:]
        return maps if maps.shape[2:] == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    def extend_head(self) -> None:
        """Expect one channel more, the last, for abstention."""
        self.abstains = True

    def load_weights(self, weights: str) -> None:
        """Load a file of the network's tensors, which must be complete.

        Raises:
            WeightsError: no such file, an unreadable one, or one that does not fit.
        """
        try:
            self.network.load_state_dict(read_tensors(weights))
        except RuntimeError as error:
            said = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"segmenter_weights: {weights} does not fit the segmenter. {said} Give the weights that this network was trained to."
            ) from error

    def load_backbone(self, weights: str | None) -> None:
        """Do nothing: the network comes with its weights."""


OwnSegmenter = SegmenterAdapter
"""The former name."""
