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

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pixel_ood.scores import entropy
from anomaly_suite.methods.pixel_ood.segmenter import OUTLIER, SegmenterModule


class EntropyMaximisation(SegmenterModule):
    """Trains all weights of a segmenter, with the uniform distribution as target of outliers; entropy is the score.

    Needs scenes with outliers (target 254), or images of outliers alone, the rest of which is void.

    Args:
        outlier_weight: lambda: outliers have this weight, known pixels one less it.
        lr: Learning rate of Adam, constant.
        segmenter: Options of :class:`~anomaly_suite.methods.pixel_ood.segmenter.SegmenterModule`.

    Raises:
        ConfigError: an option out of its range.
    """

    fine_tunes = True  # SegmentationMetrics then also reports the mIoU from which the training starts

    def __init__(self, *, outlier_weight: float = 0.9, lr: float = 1e-5, **segmenter: Any) -> None:
        super().__init__(auxiliary=False, network=None, **segmenter)
        self.save_hyperparameters()
        if not 0 <= outlier_weight <= 1 or lr <= 0:
            raise ConfigError(f"outlier_weight must be in [0, 1] and lr above 0; got {outlier_weight} and {lr}.")
        self.outlier_weight = outlier_weight
        self.lr = lr

    def score_map(self, evidence: Tensor) -> Tensor:
        """Entropy of the classes as a share of the largest possible: (B, Y, H, W) to (B, 1, H, W)."""
        return entropy(evidence)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy with classes, or with the uniform distribution."""
        target = self.target(batch)
        loss = entropy_loss(self.network(batch["image"]), target, outlier_weight=self.outlier_weight)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Adam:
        """Adam on all weights."""
        return Adam(self.parameters(), lr=self.lr)


def entropy_loss(logits: Tensor, target: Tensor, *, outlier_weight: float) -> Tensor:
    """Cross-entropy with the class of known pixels and with the uniform distribution for outliers, in float32.

    Args:
        logits: Shape (B, Y, H, W).
        target: Shape (B, H, W); void pixels count nothing, but stay in the number that the sum is divided by.
        outlier_weight: lambda, in [0, 1].

    Returns:
        Scalar: the sum, divided by B Y H W, as released.
    """
    log_p = logits.float().log_softmax(1)
    known, outlier = target < OUTLIER, target == OUTLIER
    own = log_p.gather(1, target.masked_fill(~known, 0).unsqueeze(1)).squeeze(1)
    pixel = torch.where(known, (1 - outlier_weight) * own, torch.where(outlier, outlier_weight * log_p.mean(1), 0.0))
    return -pixel.sum() / log_p.numel()
