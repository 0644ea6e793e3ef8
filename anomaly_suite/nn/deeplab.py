"""DeepLabv3+ for driving scenes, on WideResNet38 or on any timm network that can be dilated.

Papers: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, arXiv:1802.02611; the two published networks,
    WideResNet38 and ResNet101, differ as the options of :class:`DeepLabNetwork` say.
Tensors have the names of the released checkpoints (those of ResNet101 are translated), so that these load by name.

Axes: B batch, C channels, K class channels, H and W pixels, h and w cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, WeightsError
from anomaly_suite.nn.backbones import FeatureExtractor, read_tensors
from anomaly_suite.nn.encoders import standardize
from anomaly_suite.nn.wide_resnet38 import WideResNet38

WIDE = "wide_resnet38"
LOW_WIDTH = 48  # channels of the low-level map in the decoder
AUXILIARY_WIDTH = 512
RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
OUTPUT_STRIDES = tuple(RATES)
WIDE_LOW_LEVEL = {2: "mod2", 4: "mod3"}  # by stride

TrunkMode = Literal["eval", "train"]

# Beginnings of names in other files of the same network, and ours.
RENAMED = {
    "trunk.net.": "",
    "trunk.": "",
    "layer0.7.": "bn1.",
    "layer0.": "conv1.",
    "final1.": "final.",
    "final2.0.": "final.6.",
}
AUXILIARY = ("aux.", "dsn.")
LAST = "final.6.weight"  # (K, C, 1, 1)


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


class ASPP(nn.Module):
    """Five views of the deepest map side by side: image mean, 1x1, and three dilated 3x3 convolutions.

    Args:
        in_channels: C of the deepest map.
        width: C of each view.
        rates: Dilation of the 3x3 convolutions.
    """

    def __init__(self, in_channels: int, *, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        views = [_conv_norm_relu(in_channels, width, 1), *(_conv_norm_relu(in_channels, width, 3, r) for r in rates)]
        self.features = nn.ModuleList(views)
        self.img_conv = _conv_norm_relu(in_channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 5 * width, h, w), the image mean first.

        In training, the mean of a single image is normalised by running statistics: it has one value a channel.
        """
        if self.training:
            self.img_conv.train(len(x) > 1)
        mean = self.img_conv(x.mean((2, 3), keepdim=True))
        return torch.cat([_resize(mean, x.shape[2:]), *(view(x) for view in self.features)], 1)


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
        reduction = _conv_norm_relu if normed else _bare
        self.bot_fine = reduction(channels[0], LOW_WIDTH, 1)
        self.bot_aspp = reduction(5 * width, width, 1)
        self.final = nn.Sequential(
            *_conv_norm_relu(width + LOW_WIDTH, width, 3),
            *_conv_norm_relu(width, width, 3),
            nn.Conv2d(width, num_classes, 1, bias=not wide if last_bias is None else last_bias),
        )
        self.aux: nn.Sequential | None = None
        if auxiliary:
            self.aux = nn.Sequential(
                *_conv_norm_relu(channels[1], AUXILIARY_WIDTH, 3),
                nn.Dropout2d(0.1),
                nn.Conv2d(AUXILIARY_WIDTH, num_classes, 1),
            )
        for child in (self.aspp, self.bot_fine, self.bot_aspp, self.final, self.aux):
            for module in child.modules() if child is not None else ():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

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
        """What the decoder gives to ``final``: (B, C, H, W) to (B, 48 + width, h, w) at the scale of the low-level map."""
        return self._decode(self._maps(image))

    def penultimate(self, z: Tensor) -> Tensor:
        """(B, 48 + width, h, w) of :meth:`features` to (B, width, h, w) before the last convolution, not negative."""
        out: Tensor = self.final[:-1](z)
        return out

    def logits(self, z: Tensor, size: Sequence[int]) -> Tensor:
        """(B, 48 + width, h, w) of :meth:`features` to float32 logits (B, K, H, W) for a ``size`` of (H, W)."""
        return _resize(self.final(z).float(), size)

    def with_feature(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 logits (B, K, H, W), and the features (B, width, h, w) before the last convolution, in one pass."""
        feature = self.penultimate(self.features(image))
        return self.resize(self.last(feature).float(), image), feature

    def resize(self, maps: Tensor, image: Tensor) -> Tensor:
        """Maps (B, K, h, w) in the size of an image."""
        return _resize(maps, image.shape[2:])

    def logits_and_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K, H, W), and those (B, Y, H, W) of the auxiliary classifier, if there is one, in one pass."""
        maps = self._maps(image)
        aux = None if self.aux is None else _resize(self.aux(maps[1]).float(), image.shape[2:])
        return self.logits(self._decode(maps), image.shape[2:]), aux

    def _maps(self, image: Tensor) -> list[Tensor]:
        """The low-level map, the auxiliary classifier's where there is one, and the deepest."""
        if isinstance(self.trunk, WideResNet38):
            image = standardize(image)  # a timm trunk does so for itself
        return cast(list[Tensor], self.trunk(image))

    def _decode(self, maps: Sequence[Tensor]) -> Tensor:
        fine = self.bot_fine(maps[0])
        coarse = self.bot_aspp(self.aspp(maps[-1]))
        return torch.cat([fine, _resize(coarse, fine.shape[2:])], 1)

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
            mode: Of everything else: ``eval`` keeps its buffers and uses no dropout whatever ``train()`` says; ``train`` imitates
                released code, where the weights rest but the statistics of batch norms move and dropout is at work.
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
            found = _named(weights, ["mod1.conv1.weight"])
            _require(found, own, self.trunk, weights)
            self.trunk.load_state_dict({key: found[key] for key in own if key in found}, strict=False)

    def load_weights(self, weights: str) -> None:
        """Replace the weights of the whole network, less those of the auxiliary classifier.

        Args:
            weights: A file of its tensors, or the checkpoint of a module that keeps the same network, whatever stands before their
                names. For a network with an abstention channel also one without it, whose weights stay as they are.

        Raises:
            WeightsError: no such file, an unreadable one, another number of classes, or tensors that do not fit.
        """
        own = {_own_name(key): key for key in self.state_dict() if not key.startswith(AUXILIARY)}
        found = _named(weights, ["final.0.weight", "final1.0.weight"])
        rows = self.last.out_channels
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
        _require(found, own, self, weights)
        extra = sorted(name for name in found.keys() - own.keys() if not name.startswith(AUXILIARY))
        if extra:
            raise WeightsError(
                f"the network in {weights} must be built like this {self.backbone}, but has {extra[0]} too. Use the same backbone "
                "and options in both configurations."
            )
        self.load_state_dict({key: found[name] for name, key in own.items() if name in found}, strict=False)


def _named(weights: str, anchors: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of a file by our names; ``anchors`` are names, one of which tells what stands before all of them."""
    tensors = read_tensors(weights)
    prefixes = {key.removesuffix(anchor) for anchor in anchors for key in tensors if f".{key}".endswith(f".{anchor}")}
    if len(prefixes) != 1:
        raise WeightsError(
            f"{weights} must hold one network with a tensor named {' or '.join(anchors)}; it holds {len(prefixes)}. Give the "
            "checkpoint of such a network."
        )
    (prefix,) = prefixes
    return {_own_name(key.removeprefix(prefix)): value for key, value in tensors.items() if key.startswith(prefix)}


def _own_name(name: str) -> str:
    for theirs, ours in RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _require(found: Mapping[str, Tensor], own: Mapping[str, str], module: nn.Module, weights: str) -> None:
    """Refuse tensors that are missing or of another shape."""
    state = module.state_dict()
    for name, key in own.items():
        if name not in found and name.endswith("num_batches_tracked"):  # absent from old files and never used
            continue
        if name not in found or found[name].shape != state[key].shape:
            there = tuple(found[name].shape) if name in found else "missing"
            raise WeightsError(
                f"the network in {weights} must be built like the one it is loaded into, but {name} is {there} there and "
                f"{tuple(state[key].shape)} here. Use the same backbone and options in both configurations."
            )


def _wide_levels(low_stride: int, auxiliary: bool, released_dilation: bool) -> list[str]:
    if low_stride not in WIDE_LOW_LEVEL or released_dilation:
        raise ConfigError(
            f"wide_resnet38 takes low_stride 2 or 4 and no released_dilation; got {low_stride} and {released_dilation}."
        )
    return [WIDE_LOW_LEVEL[low_stride], *(["mod6"] if auxiliary else []), "mod7"]


def _bare(in_channels: int, out_channels: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, side, bias=False)


def _conv_norm_relu(in_channels: int, out_channels: int, side: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (side // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, side, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
