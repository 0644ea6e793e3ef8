"""Feature maps of any timm network whose last strides are replaced by dilation.

Axes: B batch, C channels, K class channels, H and W pixels, h and w cells.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.backbones import FeatureExtractor


class DilatedFeatures(FeatureExtractor):
    """Feature maps of a timm network whose last strides are replaced by dilation.

    Args:
        name: Any convolutional timm model that has ``output_stride``.
        output_stride: Pixels for one cell of the deepest map.
        low_stride: Pixels for one cell of the low-level map.
        middle: Also give the map of the stage before the last.
        released_dilation: Of ResNets: the first 3x3 convolutions of a dilated stage have its dilation, as in networks trained on
            driving scenes; timm leaves the stage before's.

    Raises:
        ConfigError: no such network, or none that can be built so.
    """

    def __init__(
        self, name: str, *, output_stride: int, low_stride: int, middle: bool = False, released_dilation: bool = False
    ) -> None:
        self.output_stride = output_stride  # before the base class, which builds the network
        super().__init__(name, layers=_levels(name, output_stride, low_stride, middle))
        if released_dilation:
            self._dilate_first_blocks()

    def _build(self, *, pretrained: bool) -> Any:
        return timm.create_model(
            self.name,
            pretrained=pretrained,
            features_only=True,
            out_indices=self.layers,
            output_stride=self.output_stride,
        )

    def _dilate_first_blocks(self) -> None:
        stages = dict(self.net.named_children())
        if not {"layer3", "layer4"} <= stages.keys():
            raise ConfigError(
                f"released_dilation is about ResNets; got backbone={self.name}. Set it to false, or use one such as resnet101s."
            )
        for stage, stride in (("layer3", 16), ("layer4", 32)):
            dilation = max(1, stride // self.output_stride)
            for conv in stages[stage][0].modules():
                if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                    conv.dilation, conv.padding = (dilation, dilation), (dilation, dilation)


def _levels(name: str, output_stride: int, low_stride: int, middle: bool) -> list[int] | None:
    """Indices of the low-level, perhaps the middle, and the deepest map; None leaves an unknown name to the base class."""
    if not timm.is_model(name):
        return None
    try:
        with torch.device("meta"):  # only the list of feature maps is wanted, no weights
            strides = timm.create_model(name, features_only=True, output_stride=output_stride).feature_info.reduction()
    except (TypeError, AttributeError, AssertionError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"backbone must be a network that timm can dilate to output_stride={output_stride}; {name} cannot be built so. Use a "
            "convolutional one such as resnet101s or tf_efficientnet_lite0."
        ) from error
    if low_stride not in strides[:-2] or strides[-1] != output_stride:
        raise ConfigError(
            f"backbone {name} must have a map of stride {low_stride} and a deepest map of stride {output_stride}; its maps have "
            f"strides {strides}. Change low_stride or output_stride, or use another backbone."
        )
    return [strides.index(low_stride), *([len(strides) - 2] if middle else []), len(strides) - 1]
