"""Deep Gamblers: a network that may keep its stake instead of betting on a class, and does so where it does not know.

Paper: Liu et al., "Deep Gamblers: Learning to Abstain with Portfolio Theory", NeurIPS 2019, arXiv:1907.00208; as a method for
    driving scenes in chapter 11 of Yu Tian's thesis.
Reference: described by our notes; no code was read.
Differs: as in the thesis, the last block of a trained segmenter is tuned, on scenes with pasted outliers; ``outlier_weight: 0``
    learns from known pixels alone, as the paper does. Images with and without outliers have the same weight, as in PEBAL.
    The logarithm of the outlier loss is not clamped, where PEBAL's release, which computes this method too, has no gradient below
    1e-7 (``outlier_clamp: 1e-7``).
Axes: B batch, Y classes, K = Y + 1 channels, the last for abstention, H and W pixels.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pixel_ood.abstention import (
    FineTunedSegmenter,
    OutlierForm,
    abstention_loss,
    check_outlier_clamp,
)
from anomaly_suite.methods.pixel_ood.scores import energy
from anomaly_suite.nn.deeplab import TrunkMode
from anomaly_suite.nn.size import ImageSize
from anomaly_suite.nn.sliding_window import Blend


class DeepGamblers(FineTunedSegmenter):
    """Bets on classes pay ``payoff``, abstention returns the stake; the probability of abstention is the score.

    Where the network is sure of no class by more than ``1 / payoff``, abstaining altogether is best.

    Args:
        payoff: o, above 1 and at most ``num_classes``.
        outlier_weight: Of the loss of pasted outliers; 0 learns from known pixels alone.
        outlier_form: See :func:`~anomaly_suite.methods.pixel_ood.abstention.abstention_out`.
        outlier_clamp: Smallest value inside its logarithm; the release has 1e-7, below which an outlier learns nothing. Null has none.
        score: ``abstention``, the probability of the further channel, or ``energy``, the free energy of the classes.
        trunk_mode: ``eval`` or ``train``, of everything but the last block.
        lr: First learning rate of Adam, which falls polynomially.
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
        ConfigError: a payoff out of its range.

    Source:
        Equation 5 of the paper, divided by o, which changes the loss by a constant.
    """

    def __init__(
        self,
        *,
        payoff: float = 4.5,
        outlier_weight: float = 0.1,
        outlier_form: OutlierForm = "released",
        outlier_clamp: float | None = None,
        score: Literal["abstention", "energy"] = "abstention",
        trunk_mode: TrunkMode = "eval",
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
            abstention=True, trunk_mode=trunk_mode, lr=lr, backbone=backbone, num_classes=num_classes, output_stride=output_stride, width=width,
            released_dilation=released_dilation, backbone_weights=backbone_weights, segmenter_weights=segmenter_weights,
            smoothing=smoothing, window=window, stride=stride, blend=blend,
        )  # fmt: skip
        self.save_hyperparameters()
        if not 1 < payoff <= self.num_classes:
            raise ConfigError(
                f"payoff must be above 1 and at most num_classes={self.num_classes}; got {payoff}. Small ones abstain easily."
            )
        if outlier_weight < 0:
            raise ConfigError(f"outlier_weight must be 0 or above; got {outlier_weight}.")
        check_outlier_clamp(outlier_clamp)
        self.payoff = payoff
        self.outlier_weight = outlier_weight
        self.outlier_form: OutlierForm = outlier_form
        self.outlier_clamp = outlier_clamp
        self.score = score
        self.scores_abstention = score == "abstention"

    def score_map(self, logits: Tensor) -> Tensor:
        """Probability of abstention, in [0, 1], or free energy: (B, K, H, W) to (B, 1, H, W)."""
        if self.score == "energy":
            return energy(logits[:, :-1])
        return logits.float().softmax(1)[:, -1:]

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The gambler's loss of logits (B, K, H, W) and targets (B, H, W)."""
        log_payoff = logits.new_tensor(math.log(self.payoff))
        loss = abstention_loss(
            logits,
            target,
            log_payoff,
            outlier_weight=self.outlier_weight,
            form=self.outlier_form,
            clamp=self.outlier_clamp,
        )
        return {"abstention": loss}
