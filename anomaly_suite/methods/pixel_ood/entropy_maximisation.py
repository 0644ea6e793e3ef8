"""Entropy maximisation: a segmenter is trained on to be sure of known pixels and as unsure as possible of outliers.

Paper: Chan, Rottmann and Gottschalk, "Entropy Maximization and Meta Classification for Out-of-Distribution Detection in Semantic
    Segmentation", ICCV 2021, arXiv:2012.06575 (Meta-OoD).
Reference: the authors' PyTorch release is described by our notes; no code was read.
Differs: our data modules paste outliers into scenes; where whole outlier images are given, as in the release, their background is void,
    not road. Adam keeps its state over epochs. The optional second stage, which sorts out found regions by hand-made measures, is not
    built: the published tables do not use it.
Axes: B batch, Y classes, H and W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Adam

from anomaly_suite.contract import OUTLIER, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pixel_ood.scores import entropy
from anomaly_suite.methods.pixel_ood.segmenter import SegmenterModule
from anomaly_suite.nn.size import ImageSize
from anomaly_suite.nn.sliding_window import Blend


def entropy_loss(logits: Tensor, target: Tensor, *, outlier_weight: float) -> Tensor:
    """Cross-entropy with the class of known pixels and with the uniform distribution for outliers, in float32.

    Args:
        logits: Shape (B, Y, H, W).
        target: Shape (B, H, W); void pixels add nothing to the sum, but count in its divisor.
        outlier_weight: lambda, in [0, 1].

    Returns:
        Scalar: the sum, divided by B Y H W, as released.
    """
    log_p = logits.float().log_softmax(1)
    known, outlier = target < OUTLIER, target == OUTLIER
    own = log_p.gather(1, target.masked_fill(~known, 0).unsqueeze(1)).squeeze(1)
    pixel = torch.where(known, (1 - outlier_weight) * own, torch.where(outlier, outlier_weight * log_p.mean(1), 0.0))
    return -pixel.sum() / log_p.numel()


class EntropyMaximisation(SegmenterModule):
    """Trains all weights of a segmenter, with the uniform distribution as target of outliers; entropy is the score.

    Needs scenes with outliers (target 254), or images of outliers alone, the rest of which is void.

    Args:
        outlier_weight: lambda, the weight of outliers; known pixels have 1 - lambda.
        lr: Learning rate of Adam, constant.
        backbone: ``wide_resnet38``, or a timm network that can be dilated.
        num_classes: Y, the classes of the training scenes.
        output_stride: Pixels for one cell of the deepest map, 8 or 16.
        width: Channels of the decoder.
        released_dilation: Of ResNets, dilate the first block of a stage as published weights need it.
        backbone_weights: ``imagenet``, a file, or null; not read with ``segmenter_weights``.
        segmenter_weights: A file of the whole network, a checkpoint of a DeepLabV3Plus, or the folder of its run.
        smoothing: Smooth the anomaly map with a Gaussian of 7 x 7 pixels.
        window: Height and width of the windows of evaluation; null takes whole images.
        stride: From one window to the next; null is two thirds of the window.
        blend: ``uniform`` or ``tapered`` mean of overlapping windows.

    Raises:
        ConfigError: an option out of its range.
    """

    fine_tunes = True

    def __init__(
        self,
        *,
        outlier_weight: float = 0.9,
        lr: float = 1e-5,
        backbone: str = "resnet101s",
        num_classes: int = 19,
        output_stride: int = 8,
        width: int = 256,
        released_dilation: bool = False,
        backbone_weights: str | None = "imagenet",
        segmenter_weights: str | None = None,
        smoothing: bool = False,
        window: ImageSize | None = None,
        stride: ImageSize | None = None,
        blend: Blend = "uniform",
    ) -> None:
        super().__init__(
            backbone=backbone, num_classes=num_classes, output_stride=output_stride, width=width,
            released_dilation=released_dilation, backbone_weights=backbone_weights, segmenter_weights=segmenter_weights,
            smoothing=smoothing, window=window, stride=stride, blend=blend,
        )  # fmt: skip
        self.save_hyperparameters()
        if not 0 <= outlier_weight <= 1 or lr <= 0:
            raise ConfigError(f"outlier_weight must be in [0, 1] and lr above 0; got {outlier_weight} and {lr}.")
        self.outlier_weight = outlier_weight
        self.lr = lr

    def score_map(self, logits: Tensor) -> Tensor:
        """Entropy of the classes as a share of the largest possible: (B, Y, H, W) to (B, 1, H, W)."""
        return entropy(logits)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy with classes, or with the uniform distribution."""
        target = self.target(batch)
        loss = entropy_loss(self.network(batch["image"]), target, outlier_weight=self.outlier_weight)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Adam:
        """Adam on all weights."""
        return Adam(self.parameters(), lr=self.lr)
