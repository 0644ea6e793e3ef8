"""DeepLabv3+ for driving scenes, on WideResNet38 or on any timm network that can be dilated.

Papers: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, arXiv:1802.02611; the two published networks,
    WideResNet38 and ResNet101, differ as the options of :class:`DeepLabNetwork` say.
Tensors have the names of the released checkpoints (those of ResNet101 are translated), so that these load by name.

Axes: B batch, C channels, K class channels, H and W pixels, h and w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, WeightsError
from anomaly_suite.nn.deeplab.aspp import ASPP
from anomaly_suite.nn.deeplab.blocks import conv_norm_relu, resize
from anomaly_suite.nn.deeplab.dilated import DilatedFeatures
from anomaly_suite.nn.deeplab.weights import AUXILIARY, named_tensors, own_name, require_fit
from anomaly_suite.nn.deeplab.wide_resnet38 import WideResNet38
from anomaly_suite.nn.encoders import standardize

WIDE = "wide_resnet38"
LOW_WIDTH = 48  # channels of the low-level map in the decoder
AUXILIARY_WIDTH = 512
RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
OUTPUT_STRIDES = tuple(RATES)
WIDE_LOW_LEVEL = {2: "mod2", 4: "mod3"}  # by stride
LAST = "final.6.weight"  # (K, C, 1, 1)

TrunkMode = Literal["eval", "train"]


class DeepLabNetwork(nn.Module):
    """Images to class logits: trunk, ASPP, decoder, and the block ``final`` that anomaly methods fine-tune.

    ``final`` is one module: 3x3, norm, ReLU, 3x3, norm, ReLU, 1x1; with ``width`` 256 and no bias, 1,296,128 weights for 19
    classes. Nothing is downloaded before :meth:`load_backbone`. All resizing is bilinear with aligned corners.

    Args:
        backbone: ``wide_resnet38``, or a timm network; ``resnet101s`` is the published ResNet101.
        num_classes: Y.
        output_stride: Pixels for one cell of the deepest map, 8 or 16; 8 for ``wide_resnet38``.
        width: Channels of ASPP's views and of the decoder.
        low_stride: Of the low-level map. Null, here and below, takes what was published: 2 for ``wide_resnet38``, else 4.
        normed: Whether both 1x1 reductions, of ASPP and of the low-level map, are normalised and rectified; null: not for
            ``wide_resnet38``.
        last_bias: Whether the last convolution has a bias; null: not for ``wide_resnet38``.
        released_dilation: See :class:`DilatedFeatures`; needed for the published weights of ResNet101.
        auxiliary: Build a second classifier on the stage before the last, for training.

    Raises:
        ConfigError: a backbone that is unknown or cannot be built so, or a number out of its range.
    """

    def __init__(
        self,
        *,
        backbone: str = "resnet101s",
        num_classes: int = 19,
        output_stride: int = 8,
        width: int = 256,
        low_stride: int | None = None,
        normed: bool | None = None,
        last_bias: bool | None = None,
        released_dilation: bool = False,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        wide = backbone == WIDE
        if output_stride not in (OUTPUT_STRIDES[:1] if wide else OUTPUT_STRIDES):
            raise ConfigError(
                f"output_stride must be {'8 for wide_resnet38' if wide else '8 or 16'}; got {output_stride}."
            )
        for name, value in (("num_classes", num_classes), ("width", width)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")
        self.backbone = backbone
        self.num_classes = num_classes
        self.abstains = False
        self.abstention_loaded = False  # by load_weights, from a file that has it
        self.trunk_mode: TrunkMode | None = None
        normed = not wide if normed is None else normed
        self.trunk: WideResNet38 | DilatedFeatures
        if wide:
            self.trunk = WideResNet38(_wide_levels(low_stride or 2, auxiliary, released_dilation))
        else:
            self.trunk = DilatedFeatures(
                backbone,
                output_stride=output_stride,
                low_stride=low_stride or 4,
                middle=auxiliary,
                released_dilation=released_dilation,
            )
        channels = self.trunk.channels
        self.aspp = ASPP(channels[-1], width=width, rates=RATES[output_stride])
        reduction = conv_norm_relu if normed else _bare_conv
        self.bot_fine = reduction(channels[0], LOW_WIDTH, 1)
        self.bot_aspp = reduction(5 * width, width, 1)
        self.final = nn.Sequential(
            *conv_norm_relu(width + LOW_WIDTH, width, 3),
            *conv_norm_relu(width, width, 3),
            nn.Conv2d(width, num_classes, 1, bias=not wide if last_bias is None else last_bias),
        )
        self.aux: nn.Sequential | None = None
        if auxiliary:
            self.aux = nn.Sequential(
                *conv_norm_relu(channels[1], AUXILIARY_WIDTH, 3),
                nn.Dropout2d(0.1),
                nn.Conv2d(AUXILIARY_WIDTH, num_classes, 1),
            )
        for child in (self.aspp, self.bot_fine, self.bot_aspp, self.final, self.aux):
            if child is not None:
                _initialise(child)

    def forward(self, image: Tensor) -> Tensor:
        """Classify pixels.

        Args:
            image: Shape (B, 3, H, W) or (B, 1, H, W), in [0, 1].

        Returns:
            Logits (B, K, H, W) in float32; K is Y, or Y + 1 with the abstention channel last.

        Raises:
            ShapeError: neither one nor three channels.
        """
        return self.logits(self.features(image), image.shape[2:])

    def features(self, image: Tensor) -> Tensor:
        """Output of the decoder, input of ``final``: (B, C, H, W) to (B, 48 + width, h, w) at the scale of the low-level map."""
        return self._decode(self._maps(image))

    def penultimate(self, z: Tensor) -> Tensor:
        """(B, 48 + width, h, w) of :meth:`features` to (B, width, h, w) before the last convolution, not negative."""
        out: Tensor = self.final[:-1](z)
        return out

    def logits(self, z: Tensor, size: Sequence[int]) -> Tensor:
        """(B, 48 + width, h, w) of :meth:`features` to float32 logits (B, K, H, W) for a ``size`` of (H, W)."""
        return resize(self.final(z).float(), size)

    def with_feature(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 logits (B, K, H, W), and the features (B, width, h, w) before the last convolution, in one pass."""
        feature = self.penultimate(self.features(image))
        return self.resize(self.last(feature).float(), image), feature

    def resize(self, maps: Tensor, image: Tensor) -> Tensor:
        """Maps (B, K, h, w) in the size of an image."""
        return resize(maps, image.shape[2:])

    def logits_and_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K, H, W), and those (B, Y, H, W) of the auxiliary classifier, if there is one, in one pass."""
        maps = self._maps(image)
        aux = None if self.aux is None else resize(self.aux(maps[1]).float(), image.shape[2:])
        return self.logits(self._decode(maps), image.shape[2:]), aux

    def _maps(self, image: Tensor) -> list[Tensor]:
        """The low-level map, the auxiliary classifier's where there is one, and the deepest."""
        if isinstance(self.trunk, WideResNet38):
            image = standardize(image)  # a timm trunk does so for itself
        return cast(list[Tensor], self.trunk(image))

    def _decode(self, maps: Sequence[Tensor]) -> Tensor:
        fine = self.bot_fine(maps[0])
        coarse = self.bot_aspp(self.aspp(maps[-1]))
        return torch.cat([fine, resize(coarse, fine.shape[2:])], 1)

    @property
    def last(self) -> nn.Conv2d:
        """The last convolution: :meth:`penultimate` to K channels."""
        return cast(nn.Conv2d, self.final[-1])

    # Fine-tuning -------------------------------------------------------------------------------------------------

    def extend_head(self) -> None:
        """Append an abstention channel; the logits of the classes stay as they are.

        Its weights are Kaiming-normal (deviation 0.088 for a ``width`` of 256) and its bias, where the others have one, is 0.

        Raises:
            ConfigError: there is one already.
        """
        if self.abstains:
            raise ConfigError("the network has an abstention channel already. Extend it once.")
        last = self.last
        wider = nn.Conv2d(last.in_channels, last.out_channels + 1, 1, bias=last.bias is not None)
        wider.to(last.weight)
        nn.init.kaiming_normal_(wider.weight)
        with torch.no_grad():
            wider.weight[:-1] = last.weight
            if wider.bias is not None and last.bias is not None:
                wider.bias[:-1] = last.bias
                wider.bias[-1] = 0
        self.final[-1] = wider
        self.abstains = True

    def freeze_trunk(self, mode: TrunkMode = "eval") -> None:
        """Train ``final`` alone from now on.

        Args:
            mode: Of everything else: ``eval`` keeps it in evaluation mode, also after ``train()``: buffers stay as they are, nothing is
                dropped. ``train`` imitates released code: the weights stay as they are, but the running statistics of batch
                norms change and dropout is active.
        """
        self.requires_grad_(False)
        self.final.requires_grad_(True)
        self.trunk_mode = mode
        self.train(self.training)

    def train(self, mode: bool = True) -> DeepLabNetwork:
        """Change the mode, of ``final`` alone where the rest is frozen."""
        super().train(mode)
        if self.trunk_mode == "eval":
            for child in self.children():
                child.train(mode and child is self.final)
        return self

    # Weights -----------------------------------------------------------------------------------------------------

    def load_backbone(self, weights: str | None) -> None:
        """Replace the random weights of the trunk.

        Args:
            weights: ``imagenet`` for timm's, a file of the backbone's tensors, or null.

        Raises:
            WeightsError: no such file, an unreadable one, one that does not fit, or a download that failed.
        """
        if isinstance(self.trunk, DilatedFeatures):
            self.trunk.load_weights(weights)
        elif weights == "imagenet":
            raise WeightsError(
                "timm has no ImageNet weights for wide_resnet38; got backbone_weights='imagenet'. Give a file, or null for random "
                "weights."
            )
        elif weights is not None:
            own = {key: key for key in self.trunk.state_dict()}
            found = named_tensors(weights, ["mod1.conv1.weight"])
            require_fit(found, own, self.trunk, weights)
            self.trunk.load_state_dict({key: found[key] for key in own if key in found}, strict=False)

    def load_weights(self, weights: str) -> None:
        """Replace the weights of the whole network, less those of the auxiliary classifier.

        Args:
            weights: A file of its tensors, or the checkpoint of a module that keeps the same network, under any prefix. For a network with an abstention channel also one without it, whose weights stay as they are.

        Raises:
            WeightsError: no such file, an unreadable one, another number of classes, or tensors that do not fit.
        """
        own = {own_name(key): key for key in self.state_dict() if not key.startswith(AUXILIARY)}
        found = named_tensors(weights, ["final.0.weight", "final1.0.weight"])
        rows = self.last.out_channels
        self.abstention_loaded = self.abstains and LAST in found and len(found[LAST]) == rows
        if LAST in found and (classes := len(found[LAST])) != rows:
            if not (self.abstains and classes == self.num_classes):
                raise WeightsError(
                    f"num_classes={self.num_classes} needs {rows} channels of logits{' with abstention' * self.abstains}; the "
                    f"network in {weights} has {classes}. Set num_classes to what it was trained with, not counting abstention."
                )
            kept = self.last.state_dict()
            for key in kept:
                if (name := f"final.6.{key}") in found:
                    found[name] = torch.cat([found[name].to(kept[key]), kept[key][classes:]])
        require_fit(found, own, self, weights)
        extra = sorted(name for name in found.keys() - own.keys() if not name.startswith(AUXILIARY))
        if extra:
            raise WeightsError(
                f"the network in {weights} must be built like this {self.backbone}, but has {extra[0]} too. Use the same backbone "
                "and options in both configurations."
            )
        self.load_state_dict({key: found[name] for name, key in own.items() if name in found}, strict=False)


def _bare_conv(in_channels: int, out_channels: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, side, bias=False)


def _initialise(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _wide_levels(low_stride: int, auxiliary: bool, released_dilation: bool) -> list[str]:
    if low_stride not in WIDE_LOW_LEVEL or released_dilation:
        raise ConfigError(
            f"wide_resnet38 takes low_stride 2 or 4 and no released_dilation; got {low_stride} and {released_dilation}."
        )
    return [WIDE_LOW_LEVEL[low_stride], *(["mod6"] if auxiliary else []), "mod7"]
