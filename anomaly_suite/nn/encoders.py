"""Encoders that pre-training hands on: one class builds them, and loads them from any pre-training checkpoint.

A method of the family ``pretraining`` keeps what it trains as ``self.encoder``, an :class:`ImageEncoder`; a method that takes
``encoder_weights`` builds the same one and gives it the checkpoint's path.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from anomaly_suite.errors import ShapeError, WeightsError
from anomaly_suite.nn.backbones import FeatureExtractor
from anomaly_suite.nn.infomax import InfomaxEncoder
from anomaly_suite.nn.residual import ResidualEncoder
from anomaly_suite.nn.size import ImageSize, height_width
from anomaly_suite.nn.weights import first_mismatch, match_by_name, read_tensors, read_with_options

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STANDARDIZED_RANGE = 4.7579
"""Largest less smallest value of standardised images: 2.640 less -2.118."""

IN_CHECKPOINT = "encoder."

INFOMAX = {"infomax": True, "infomax_released": False}
"""Encoders of deep infomax, and whether their convolutions are padded, with stride 2."""


class ImageEncoder(nn.Module):
    """Images to vectors: a small residual network, that of deep infomax, or the averaged last feature map of any timm network.

    Args:
        name: ``residual`` for :class:`~anomaly_suite.nn.residual.ResidualEncoder` with 8 times ``width`` outputs; ``infomax`` and
            ``infomax_released`` for :class:`~anomaly_suite.nn.infomax.InfomaxEncoder` with ``width`` outputs; or the name of a timm
            network.
        image_size: Height and width; a timm network takes any.
        width: Channels of the first convolution of ``residual`` and ``infomax``.

    Raises:
        ConfigError: no such timm network, one without feature maps, or an image size that the network does not have.
    """

    def __init__(self, name: str, *, image_size: ImageSize, width: int = 64) -> None:
        super().__init__()
        self.name, self.frozen = name, False
        self.net: ResidualEncoder | InfomaxEncoder | FeatureExtractor
        size = height_width(image_size)
        if name in INFOMAX:
            self.net = InfomaxEncoder(image_size=size, width=width, padded=INFOMAX[name])
            self.out_features = self.net.out_features
        elif name == "residual":
            self.net = ResidualEncoder(in_channels=3, image_size=size, width=width, out_features=8 * width)
            self.out_features = 8 * width
        else:
            self.net = FeatureExtractor(name, layers=[-1])
            self.out_features = self.net.channels[-1]

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1], C 1 or 3, to (B, ``out_features``); each network standardises for itself.

        A single training image uses running statistics: where a map is one cell, it has none of its own.

        Raises:
            ShapeError: neither one nor three channels, or another size than ``image_size`` where the network has one.
        """
        if self.training:
            self.net.train(len(image) > 1)
        if isinstance(self.net, ResidualEncoder):
            return cast(Tensor, self.net(standardize(image)))
        if isinstance(self.net, InfomaxEncoder):
            return cast(Tensor, self.net(image))
        return cast(list[Tensor], self.net(image))[-1].mean((2, 3))

    def freeze(self) -> None:
        """Keep weights and batch-norm statistics as they are from now on, also after ``train()``."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Change the mode, unless frozen."""
        return super().train(mode and not self.frozen)

    def load_weights(self, weights: str | None, *, option: str = "encoder_weights") -> None:
        """Replace the random weights.

        Args:
            weights: A checkpoint of a pre-training, or of any module that keeps the same encoder as ``self.encoder``; for a
                timm network also ``imagenet`` or a file of its tensors. None keeps the random weights.
            option: Which asked for them, for messages.

        Raises:
            WeightsError: no such file, an unreadable one, or one that does not fit.
        """
        if weights is None:
            return
        tensors = {} if weights == "imagenet" else read_tensors(weights)
        if isinstance(self.net, FeatureExtractor) and not any(
            key.startswith(f"{IN_CHECKPOINT}net.") for key in tensors
        ):
            self.net.load_weights(weights)
            return
        tensors = {
            key.removeprefix(IN_CHECKPOINT): value for key, value in tensors.items() if key.startswith(IN_CHECKPOINT)
        }
        if not tensors:
            raise WeightsError(
                f"the {self.name} encoder takes its weights from a checkpoint with an encoder; got {weights!r}, which has none. "
                f"Pre-train one ({'FSADNet' if self.name in INFOMAX else 'KnowledgeDistillation'}), or set {option} to null."
            )
        state = self.state_dict()
        differ = (key for key in (*state, *tensors) if _shape(tensors.get(key)) != _shape(state.get(key)))
        if (key := next(differ, None)) is not None:
            raise WeightsError(
                f"{option}: the encoder in {weights} must be built like the one it is loaded into, but {key} is {_shape(tensors.get(key))} there "
                f"and {_shape(state.get(key))} here. Use the same encoder, image_size and width in both configurations."
            )
        _require_sound(tensors, weights, option)
        self.load_state_dict(tensors)


def load_backbone(backbone: FeatureExtractor, weights: str | None, encoder_weights: str | None) -> None:
    """Give a backbone the encoder of a pre-training where there is one, else its weights.

    Args:
        backbone: Of a method that takes feature maps of the same network, of any layers.
        weights: Option of that name; see :meth:`~anomaly_suite.nn.backbones.FeatureExtractor.load_weights`.
        encoder_weights: Option of that name: a checkpoint, or run folder, of a pre-training; None takes ``weights``.

    Raises:
        WeightsError: no such file, an unreadable one, one without an encoder, or one that does not fit.
    """
    if encoder_weights is None:
        backbone.load_weights(weights)
        return
    start = f"{IN_CHECKPOINT}net."
    given, options = read_with_options(encoder_weights)
    tensors = {key.removeprefix(start): value for key, value in given.items() if key.startswith(start)}
    state = backbone.net.state_dict()
    found = match_by_name(tensors, state)
    fault = first_mismatch(found, state) if tensors else "no encoder is"
    named = str(options.get("encoder", backbone.name))
    if fault is None and _plain(named) != _plain(backbone.name):  # a deeper network has all the tensors of one like it
        fault = f"it is {named}"
    if fault is not None:
        raise WeightsError(
            f"encoder_weights must be the checkpoint of a pre-training whose encoder is {backbone.name}, or its run; got "
            f"{encoder_weights!r}, where {fault}. Use the same network in both, or set encoder_weights to null."
        )
    _require_sound(found, encoder_weights, "encoder_weights")
    backbone.net.load_state_dict(state | found)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | str:
    return "missing" if tensor is None else tuple(tensor.shape)


def _plain(name: str) -> str:
    """A timm network without the tag of its weights."""
    return name.partition(".")[0]


def _require_sound(tensors: Mapping[str, Tensor], source: str, option: str) -> None:
    """Refuse weights that are not numbers.

    Raises:
        WeightsError: a tensor is not finite.
    """
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(
                f"{option}: the encoder in {source} must hold finite numbers; {key} does not. Its training has diverged: train it again, at a "
                "smaller learning rate."
            )


def standardize(image: Tensor) -> Tensor:
    """[0, 1] to zero mean and unit deviation by ImageNet's statistics; a grey channel is repeated.

    Args:
        image: Shape (B, 1, H, W) or (B, 3, H, W).

    Returns:
        Shape (B, 3, H, W), between -2.118 and 2.640.

    Raises:
        ShapeError: neither one nor three channels.
    """
    if image.shape[1] not in (1, 3):
        raise ShapeError(f"images need 1 or 3 channels; got {tuple(image.shape)}. Convert them to grey or RGB.")
    mean = image.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = image.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (image - mean) / std


def destandardize(image: Tensor) -> Tensor:
    """The inverse of :func:`standardize` on three channels.

    Args:
        image: Shape (B, 3, H, W), standardised.

    Returns:
        Shape (B, 3, H, W), in [0, 1] where the image was.
    """
    mean = image.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = image.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return image * std + mean
