"""What methods on driving scenes share: a DeepLabv3+, whole-image or sliding-window inference, its weights.

Axes: B batch, C channels, Y classes, K class channels (Y, or Y + 1 with abstention, which is last), H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.blur import gaussian_blur
from anomaly_suite.nn.deeplab import DeepLabNetwork
from anomaly_suite.nn.own_segmenter import OwnSegmenter
from anomaly_suite.nn.size import ImageSize, height_width

OUTLIER = 254  # target of a pasted outlier
VOID = 255  # target of a pixel without a class
PIXELS_AT_ONCE = 2**21  # of all images of one pass of the network: one of 2048 x 1024, which bounds the memory
BLUR_SIGMA = 1.0
BLUR_RADIUS = 3  # a kernel of 7 x 7

Blend = Literal["uniform", "tapered"]


class Detection(NamedTuple):
    """``anomaly_score`` (B,), ``anomaly_map`` (B, 1, H, W), the most probable class and its probability, (B, H, W) both."""

    anomaly_score: Tensor
    anomaly_map: Tensor
    pred_target: Tensor
    confidence: Tensor


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every ``stride`` pixels, the last one moved back to end with the side.

    Example:
        >>> window_starts(1024, 800, 534)
        [0, 224]
        >>> window_starts(600, 800, 534)
        [0]
    """
    return [*range(0, max(side - window, 0), stride), max(side - window, 0)]


def sliding_windows(
    function: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    blend: Blend = "uniform",
) -> Tensor:
    """Apply a function to overlapping windows and average what it returns.

    The windows of an image are taken one after another, so that the memory depends on their size. Where the weights of a pixel
    come from several windows, they sum to one. A window longer than a side of the image is cut to it: a window that covers the
    image gives what the function gives on the whole image, to the last bit.

    Args:
        function: Images (B, C, h, w) to maps (B, D, h, w).
        image: Shape (B, C, H, W).
        window: Height and width.
        stride: Pixels from one window to the next, down and to the right.
        blend: ``uniform`` weighs every pixel of a window alike, ``tapered`` in proportion to its distance to the border, down
            and to the right.

    Returns:
        Shape (B, D, H, W), float32.
    """
    size = (image.shape[2], image.shape[3])
    sides, down, right = _grid(size, window, stride)
    if len(down) == len(right) == 1:
        return function(image).float()
    rows, columns = (
        _weights(starts, side, full, blend, image.device)
        for starts, side, full in zip((down, right), sides, size, strict=True)
    )
    total: Tensor | None = None
    for top, row in zip(down, rows, strict=True):
        for left, column in zip(right, columns, strict=True):
            place = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
            part = function(image[place]).float()
            if total is None:
                total = part.new_zeros(part.shape[0], part.shape[1], *size)
            total[place].addcmul_(part, row[:, None] * column)
    assert total is not None
    return total


def _grid(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> tuple[list[int], list[int], list[int]]:
    """Sides of the windows of an image, where they begin from the top, and where from the left."""
    sides = [min(side, most) for side, most in zip(size, window, strict=True)]
    down, right = (window_starts(*each) for each in zip(size, sides, stride, strict=True))
    return sides, down, right


def _weights(starts: list[int], side: int, full: int, blend: Blend, device: torch.device) -> list[Tensor]:
    """Weights (side,) of each window along one axis; those of a pixel sum to one, and so do their products over both axes."""
    place = torch.arange(side, device=device)
    taper = torch.minimum(place, place.flip(0)) + 1.0 if blend == "tapered" else torch.ones(side, device=device)
    total = torch.zeros(full, device=device)
    for start in starts:
        total[start : start + side] += taper
    return [taper / total[start : start + side] for start in starts]


class SegmenterModule(AnomalyModule):
    """A detector of unknown objects on a segmentation network. A method writes ``__init__`` and :meth:`score_map`.

    A method that scores more than logits overrides :meth:`evidence`; one that trains writes ``training_step``, too.

    Args:
        backbone: ``wide_resnet38``, or a timm network that can be dilated; ``resnet101s`` is the published ResNet101.
        num_classes: Y, the classes of the training scenes; 19 for Cityscapes.
        output_stride: Pixels for one cell of the deepest map, 8 or 16.
        width: Channels of the decoder; the published networks have 256.
        released_dilation: Of ResNets, dilate the first block of a stage as published weights need it; timm's ImageNet
            weights need no dilation.
        auxiliary: Build the auxiliary classifier.
        backbone_weights: ``imagenet`` for timm's, a file of the backbone's tensors, or null; not read with
            ``segmenter_weights``.
        segmenter_weights: A file of the whole network's tensors, a checkpoint of a DeepLabV3Plus, or the folder of its run; null
            trains from the backbone's weights.
        smoothing: Smooth the anomaly map with a Gaussian of 7 x 7 pixels and deviation 1, borders reflected.
        window: Height and width of the windows of evaluation, one number or two; null takes whole images.
        stride: From one window to the next; null is two thirds of the window, rounded up.
        blend: How overlapping windows are averaged, see :func:`sliding_windows`.
        network: For methods, not for users: makes another network than a DeepLabv3+ of a number of classes.

    Raises:
        ConfigError: a network that cannot be built, or a stride that leaves pixels out.
    """

    def __init__(
        self,
        *,
        backbone: str = "resnet101s",
        num_classes: int = 19,
        output_stride: int = 8,
        width: int = 256,
        released_dilation: bool = False,
        auxiliary: bool = False,
        backbone_weights: str | None = "imagenet",
        segmenter_weights: str | None = None,
        smoothing: bool = False,
        window: ImageSize | None = None,
        stride: ImageSize | None = None,
        blend: Blend = "uniform",
        network: Callable[..., OwnSegmenter] | None = None,
    ) -> None:
        super().__init__()
        self.window = None if window is None else height_width(window)
        self.stride: tuple[int, int] | None = None
        if self.window is not None:
            down, right = self.window
            self.stride = (-(-2 * down // 3), -(-2 * right // 3)) if stride is None else height_width(stride)
            if not all(1 <= step <= side for step, side in zip(self.stride, self.window, strict=True)):
                raise ConfigError(
                    f"stride must be between 1 and window={self.window}; got {self.stride}. Two thirds of it is usual."
                )
        elif stride is not None:
            raise ConfigError(f"stride={stride} needs a window. Set window, or leave stride out.")
        self.network: DeepLabNetwork | OwnSegmenter
        if network is not None:
            self.network = network(num_classes=num_classes)
        else:
            self.network = DeepLabNetwork(
                backbone=backbone,
                num_classes=num_classes,
                output_stride=output_stride,
                width=width,
                released_dilation=released_dilation,
                auxiliary=auxiliary,
            )
        self.num_classes = num_classes
        self.backbone_weights = backbone_weights
        self.segmenter_weights = segmenter_weights
        self.smoothing = smoothing
        self.blend: Blend = blend

    def load_pretrained(self) -> None:
        """Load the segmenter, or the backbone if there is none."""
        if self.segmenter_weights is None:
            self.network.load_backbone(self.backbone_weights)
        else:
            self.network.load_weights(self.segmenter_weights)

    def evidence(self, image: Tensor) -> Tensor:
        """What one pass of the network says of images or windows, (B, C, H, W) to (B, K or more, H, W).

        The class logits come first. A method that scores features appends maps of its own.
        """
        logits: Tensor = self.network(image)
        return logits

    def score_map(self, evidence: Tensor) -> Tensor:
        """Score pixels.

        Args:
            evidence: See :meth:`segment`.

        Returns:
            Shape (B, 1, H, W), float32; higher is more anomalous.
        """
        raise NotImplementedError(f"{type(self).__name__} must define score_map(evidence).")

    def segment(self, image: Tensor) -> Tensor:
        """:meth:`evidence` of whole images, put together from windows where there are any.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Shape (B, K or more, H, W), float32: logits, and what the method appends.
        """
        if self.window is None or self.stride is None:
            return self.evidence(image).float()
        return sliding_windows(self.evidence, image, window=self.window, stride=self.stride, blend=self.blend)

    def places(self, size: tuple[int, int]) -> list[tuple[Any, slice, slice]]:
        """Where in an image of this height and width the network looks, one window after another; all of it without windows."""
        sides, down, right = _grid(size, self.window or size, self.stride or size)
        return [(..., slice(top, top + sides[0]), slice(left, left + sides[1])) for top in down for left in right]

    def detect(self, image: Tensor) -> Detection:
        """Score images and classify their pixels in one pass, a few images at once.

        Args:
            image: Shape (B, C, H, W), in [0, 1].
        """
        at_once = max(1, PIXELS_AT_ONCE // (image.shape[2] * image.shape[3]))
        parts = [self._detect(some) for some in torch.split(image, at_once)]
        return Detection(*(torch.cat(kind) for kind in zip(*parts, strict=True))) if len(parts) > 1 else parts[0]

    def _detect(self, image: Tensor) -> Detection:
        evidence = self.segment(image)
        with torch.autocast(image.device.type, enabled=False):
            anomaly_map = self.score_map(evidence).float()
        if self.smoothing:
            anomaly_map = gaussian_blur(anomaly_map, sigma=BLUR_SIGMA, radius=BLUR_RADIUS)
        logits = evidence[:, : self.num_classes]
        largest, pred_target = logits.max(1)
        confidence = (largest - logits.logsumexp(1)).exp()
        return Detection(anomaly_map.flatten(1).amax(1), anomaly_map, pred_target, confidence)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1]; C 1 or 3.

        Returns:
            ``anomaly_score`` (B,), the highest of its pixels, and ``anomaly_map`` (B, 1, H, W), both float32.
        """
        return self.detect(image)[:2]

    def predict(self, batch: Batch) -> Prediction:
        """Scores, maps, and the class of every pixel with its probability."""
        found = self.detect(batch["image"])
        return {
            "anomaly_score": found.anomaly_score,
            "anomaly_map": found.anomaly_map,
            "pred_target": found.pred_target,
            "confidence": found.confidence,
        }

    def target(self, batch: Batch) -> Tensor:
        """The classes (B, H, W) of a training batch.

        Raises:
            ShapeError: the batch has no target, or one with a class that the network does not have.
        """
        if "target" not in batch:
            raise ShapeError(
                f"{type(self).__name__} learns from a class for every pixel; the batch has {', '.join(map(str, batch))}. Use a data "
                "module of driving scenes, or give 'target' (B, H, W)."
            )
        target = batch["target"]
        most = int(target.masked_fill(target >= OUTLIER, 0).max())
        if most >= self.num_classes or int(target.min()) < 0:
            raise ShapeError(
                f"target must hold classes 0 to {self.num_classes - 1}, {OUTLIER} for outliers and {VOID} for void; got "
                f"{most if most >= self.num_classes else int(target.min())}. Set num_classes to the data, or map the labels."
            )
        return target
