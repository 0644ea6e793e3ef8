"""Any timm network as a source of feature maps, with weights that arrive only when asked for.

Axes: B batch, C channels, H and W pixels, h and w cells of one map.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError, did_you_mean
from anomaly_suite.nn.layout import channels_last
from anomaly_suite.nn.weights import first_mismatch, match_by_name, read_tensors

STRIDES = (4, 8, 16)
"""Maps taken by default: stages 1, 2 and 3 of a ResNet."""


class FeatureExtractor(nn.Module):
    """Feature maps of a timm network, built with random weights; nothing is downloaded before :meth:`load_weights`.

    Weights and images are kept in channels-last memory order: a quarter faster than the contiguous order on a CPU
    (resnet18, 256 px, one thread), and the native order of GPU convolutions in half precision.

    Args:
        name: Any timm model with ``features_only``.
        layers: Which of its feature maps, by index, negative from the end; null takes those of stride 4, 8 and 16.
        normalization: ``imagenet`` standardises images in [0, 1] by the mean and deviation that the network's ImageNet
            weights were trained with; ``none`` takes images as they are.
        seed: Seed of the random weights; null draws from the global generator.
        frozen: For a network that stays in evaluation mode: its convolutions do the work of the batch normalisations
            that directly follow them. A tenth faster (resnet18, 256 px, one thread), with the same tensors by the same
            names, and the same maps up to rounding.

    Raises:
        ConfigError: unknown name, a network without feature maps, or layers that it does not have.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        layers: Sequence[int] | None = None,
        normalization: Literal["imagenet", "none"] = "imagenet",
        seed: int | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.layers = _choose_layers(name, layers)
        with _seeded(seed) if seed is not None else contextlib.nullcontext():
            self.net = self._build(pretrained=False)
        self.lay_out()
        if frozen:
            _fold_norms(self.net)
        self.channels: tuple[int, ...] = tuple(self.net.feature_info.channels())
        self._channels_last_output = getattr(self.net, "output_fmt", None) == "NHWC"
        standardise = normalization == "imagenet"
        for key, neutral in (("mean", 0.0), ("std", 1.0)):
            value = self.net.pretrained_cfg[key] if standardise else (neutral,) * 3
            self.register_buffer(key, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def _build(self, *, pretrained: bool) -> Any:
        return timm.create_model(self.name, pretrained=pretrained, features_only=True, out_indices=self.layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of a batch.

        Args:
            image: Shape (B, 3, H, W), or (B, 1, H, W), whose channel is repeated.

        Returns:
            One tensor (B, C, h, w) a layer, shallowest first.

        Raises:
            ShapeError: neither one nor three channels.
        """
        if image.shape[1] not in (1, 3):
            raise ShapeError(
                f"the backbone {self.name} takes images of 1 or 3 channels; got {tuple(image.shape)}. Convert them to grey or RGB."
            )
        x = (image.expand(-1, 3, -1, -1) - self.mean).div_(self.std)
        self.lay_out()
        features: list[Tensor] = self.net(x.contiguous(memory_format=torch.channels_last))
        return [x.permute(0, 3, 1, 2) for x in features] if self._channels_last_output else features

    def lay_out(self) -> None:
        """Weights with channels last, as forward gives the image."""
        channels_last(self.net)

    def load_weights(self, weights: str | None) -> None:
        """Replace the random weights.

        Args:
            weights: ``imagenet`` downloads timm's weights; anything else is a file of tensors (``torch.save`` or
                safetensors). Its names may carry the prefixes of a training program; a file whose names are altogether
                different fits if it holds the tensors of the full timm model in the same order with the same shapes.
                None keeps the random weights.

        Raises:
            WeightsError: no such file, an unreadable one, one that does not fit, or a download that failed.
        """
        if weights is None:
            return
        tensors = self._download() if weights == "imagenet" else read_tensors(weights)
        state = self.net.state_dict()
        found = match_by_name(tensors, state)
        fault = first_mismatch(found, state)
        if fault and not found and (renamed := self._by_order(tensors)) is not None:
            found = match_by_name(renamed, state)
            fault = first_mismatch(found, state)
        if fault:
            raise WeightsError(
                f"the weights in {weights} must fit the backbone {self.name}, but {fault}. "
                "Give a file of this network, or name the backbone that the file was made for."
            )
        self.net.load_state_dict(state | found)

    def _download(self) -> dict[str, Tensor]:
        try:
            with _seeded(0):  # the weights drawn before the download must not disturb the run's own random numbers
                return dict(self._build(pretrained=True).state_dict())
        except Exception as error:  # timm and the hub raise many unrelated classes
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(
                f"ImageNet weights of {self.name} could not be had through timm ({reason}). "
                "Give a local file, or weights: null for random weights."
            ) from error

    def _by_order(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors under timm's names, or None unless every shape agrees with the full model's."""
        with torch.device("meta"):
            full = timm.create_model(self.name).state_dict()
        shapes = [value.shape for value in full.values()]
        if shapes != [value.shape for value in tensors.values()]:
            return None
        return dict(zip(full, tensors.values(), strict=True))


class _NormedConv2d(nn.Conv2d):
    """A convolution that does the work of the batch normalisation after it."""

    norm: tuple[nn.BatchNorm2d]  # in a tuple, or its tensors would be listed under this module too

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise (B, C, H, W)."""
        # From the tensors as they are now: they can be loaded, moved and averaged like any others.
        (norm,) = self.norm
        scale = norm.weight * torch.rsqrt(norm.get_buffer("running_var") + norm.eps)
        mean = norm.get_buffer("running_mean")
        bias = norm.bias - (mean if self.bias is None else mean - self.bias) * scale
        normed: Tensor = self._conv_forward(x, self.weight * scale.view(-1, 1, 1, 1), bias)
        return normed


class _DoneNorm2d(nn.Module):
    """What is left of a batch normalisation whose work is done before it: its tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """Nothing is left to do."""
        return x


def _fold_norms(net: nn.Module) -> None:
    """Let convolutions do the work of the batch normalisations that alone read their output."""
    try:
        nodes = torch.fx.Tracer().trace(net).nodes
    except Exception:  # control flow that depends on data raises many classes; such a network stays as it is
        return
    modules = dict(net.named_modules())
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        source = node.args[0] if node.op == "call_module" else None
        if not isinstance(source, torch.fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        conv, norm = modules[str(source.target)], modules[str(node.target)]
        plain = type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats
        if plain and calls[source.target] == calls[node.target] == 1:
            conv.__class__, norm.__class__ = _NormedConv2d, _DoneNorm2d
            conv.norm = (norm,)


def _choose_layers(name: str, layers: Sequence[int] | None) -> tuple[int, ...]:
    if not timm.is_model(name):
        raise ConfigError(f"backbone must be a timm model; got {name!r}.{did_you_mean(name, timm.list_models())}")
    try:
        with torch.device("meta"):  # only the list of feature maps is wanted, no weights
            strides = timm.create_model(name, features_only=True, pretrained=False).feature_info.reduction()
    except (RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"backbone must offer feature maps; timm's {name} does not ({error}). Use a convolutional one such as resnet18."
        ) from error
    if layers is None:
        if not set(STRIDES) <= set(strides):
            raise ConfigError(
                f"backbone {name} has feature maps of stride {strides}, not 4, 8 and 16. Choose them by index with layers."
            )
        return tuple(strides.index(stride) for stride in STRIDES)
    count = len(strides)
    if not layers or any(not -count <= layer < count for layer in layers):
        raise ConfigError(
            f"layers must name some of the {count} feature maps of {name} by an index from 0 to {count - 1}; got {list(layers)}."
        )
    return tuple(sorted({layer % count for layer in layers}))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers on the CPU from a seed, the global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
