"""What methods on driving scenes share: a DeepLabv3+, whole-image or sliding-window inference, its weights.

Axes: B batch, C channels, Y classes, K class channels (Y, or Y + 1 with abstention, which is last), H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from anomaly_suite.contract import OUTLIER, VOID, AnomalyModule, Batch, Prediction
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.nn.blur import gaussian_blur
from anomaly_suite.nn.deeplab import DeepLabNetwork
from anomaly_suite.nn.exporting import portions
from anomaly_suite.nn.segmenter_adapter import SegmenterAdapter
from anomaly_suite.nn.size import ImageSize, height_width
from anomaly_suite.nn.sliding_window import Blend, Place, sliding_windows, window_places
from anomaly_suite.tracing import untraced

PIXELS_AT_ONCE = 2**21  # of all images of one pass of the network: one of 2048 x 1024, which bounds the memory
BLUR_SIGMA = 1.0
BLUR_RADIUS = 3  # a kernel of 7 x 7


class Detection(NamedTuple):
    """``anomaly_score`` (B,), ``anomaly_map`` (B, 1, H, W), the most probable class and its probability, (B, H, W) both."""

    anomaly_score: Tensor
    anomaly_map: Tensor
    pred_target: Tensor
    confidence: Tensor


class SegmenterModule(AnomalyModule):
    """A detector of unknown objects on a segmentation network. A method writes ``__init__`` and :meth:`score_map`.

    A method that scores more than logits overrides :meth:`network_output`; one that trains also writes ``training_step``.

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
        blend: How overlapping windows are averaged, see :func:`~anomaly_suite.nn.sliding_window.sliding_windows`.
        network: For methods, not for users: builds, for a number of classes, another network than a DeepLabv3+.

    Raises:
        ConfigError: a network that cannot be built, or a stride that leaves pixels out.
    """

    image_channels: tuple[int, ...] | None = (1, 3)

    num_classes: int
    reads_labels = True  # of pixels, and of pasted outliers
    whole_weights: ClassVar[tuple[str, ...]] = ("segmenter_weights",)

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
        network: Callable[..., SegmenterAdapter] | None = None,
    ) -> None:
        super().__init__()
        self.window, self.stride = _window_and_stride(window, stride)
        deeplab = partial(
            DeepLabNetwork, backbone=backbone, output_stride=output_stride, width=width,
            released_dilation=released_dilation, auxiliary=auxiliary,
        )  # fmt: skip
        self.network: DeepLabNetwork | SegmenterAdapter = (network or deeplab)(num_classes=num_classes)
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

    def network_output(self, image: Tensor) -> Tensor:
        """Logits of images or windows in one pass of the network, first the classes, and what a method appends to score it.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Shape (B, K or more, H, W).
        """
        logits: Tensor = self.network(image)
        return logits

    def score_map(self, logits: Tensor) -> Tensor:
        """Score pixels.

        Args:
            logits: What :meth:`segment` returns, shape (B, K or more, H, W).

        Returns:
            Shape (B, 1, H, W), float32; higher is more anomalous.

        Raises:
            NotImplementedError: the method does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define score_map(logits).")

    def segment(self, image: Tensor) -> Tensor:
        """:meth:`network_output` of whole images, blended from windows where there are any.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Shape (B, K or more, H, W), float32: logits, and what the method appends.
        """
        if self.window is None or self.stride is None:
            return self.network_output(image).float()
        return sliding_windows(self.network_output, image, window=self.window, stride=self.stride, blend=self.blend)

    def places(self, size: tuple[int, int]) -> list[Place]:
        """Windows of an image of this height and width, as indices; the whole image where there are no windows."""
        return window_places(size, self.window or size, self.stride or size)

    def detect(self, image: Tensor) -> Detection:
        """Score images and classify their pixels in one pass, a few images at once.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Scores, maps, classes and probabilities of all images.
        """
        at_once = max(1, PIXELS_AT_ONCE // (image.shape[2] * image.shape[3]))
        parts = [self._detect(some) for some in portions(image, at_once)]
        return Detection(*(torch.cat(kind) for kind in zip(*parts, strict=True))) if len(parts) > 1 else parts[0]

    def _detect(self, image: Tensor) -> Detection:
        output = self.segment(image)
        with torch.autocast(image.device.type, enabled=False):
            anomaly_map = self.score_map(output).float()
        if self.smoothing:
            anomaly_map = gaussian_blur(anomaly_map, sigma=BLUR_SIGMA, radius=BLUR_RADIUS)
        logits = output[:, : self.num_classes]
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

    @untraced  # its checks need the values
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


def _window_and_stride(
    window: ImageSize | None, stride: ImageSize | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    if window is None:
        if stride is not None:
            raise ConfigError(f"stride={stride} needs a window. Set window, or leave stride out.")
        return None, None
    sides = down, right = height_width(window)
    steps = (-(-2 * down // 3), -(-2 * right // 3)) if stride is None else height_width(stride)
    if not all(1 <= step <= side for step, side in zip(steps, sides, strict=True)):
        raise ConfigError(f"stride must be between 1 and window={sides}; got {steps}. Two thirds of it is usual.")
    return sides, steps
