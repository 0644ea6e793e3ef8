"""What PEBAL and Deep Gamblers share: a further class channel to abstain with, losses on it, and training the last block alone.

Sources: Liu et al., "Deep Gamblers", NeurIPS 2019, arXiv:1907.00208; Tian et al., "Pixel-wise Energy-biased Abstention Learning", ECCV
    2022, arXiv:2111.12264 (PEBAL), as its release computes it.
Axes: B batch, Y classes, K = Y + 1 channels, the last for abstention, H and W pixels.
"""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Adam

from anomaly_suite.contract import OUTLIER, Batch
from anomaly_suite.errors import ConfigError, WeightsError
from anomaly_suite.losses import polynomial_decay
from anomaly_suite.methods.pixel_ood.segmenter import SegmenterModule
from anomaly_suite.nn.deeplab import DeepLabNetwork, TrunkMode
from anomaly_suite.nn.size import ImageSize
from anomaly_suite.nn.sliding_window import Blend
from anomaly_suite.tracing import untraced

log = logging.getLogger(__name__)

LR_POWER = 0.9
LR_FLOOR = 1e-8

OutlierForm = Literal["released", "paper"]


def mean_where(value: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values; 0, with gradients of 0, where none is chosen.

    Args:
        value: Any shape; what is not chosen may hold anything.
        chosen: Bool, the same shape.

    Returns:
        Scalar.
    """
    return value.where(chosen, value.new_zeros(())).sum() / chosen.sum().clamp_min(1)


def abstention_in(log_p: Tensor, target: Tensor, log_penalty: Tensor) -> Tensor:
    """``-log(p_y + p_r / a)`` of every pixel: betting on its class y, with a share on abstention r that pays 1 / a.

    Args:
        log_p: Log-softmax of K channels, shape (B, K, H, W), float32.
        target: Shape (B, H, W); outliers and void count as class 0; the caller leaves them out.
        log_penalty: Log of a, shape (B, H, W) or of one number.

    Returns:
        Shape (B, H, W).
    """
    own = log_p[:, :-1].gather(1, target.masked_fill(target >= OUTLIER, 0).unsqueeze(1)).squeeze(1)
    return -torch.logaddexp(own, log_p[:, -1] - log_penalty)


@untraced  # the number of outliers depends on the values
def abstention_out(
    log_p: Tensor, outlier: Tensor, log_penalty: Tensor, *, form: OutlierForm, clamp: float | None = None
) -> Tensor:
    """Loss of outlier pixels, averaged; 0 where there are none.

    Args:
        log_p: Log-softmax of K channels, shape (B, K, H, W), float32.
        outlier: Bool, shape (B, H, W).
        log_penalty: Log of a, shape (B, H, W) or of one number.
        form: ``released`` is the mean over all classes c of ``-log(p_c + p_r / a)``; ``paper`` is ``-log(p_r (1 + 1 / a))``.
        clamp: Smallest value of the sum inside the logarithm; smaller ones have no gradient. 1e-7 in the release; None for none,
            which the logarithms computed here do not need.

    Returns:
        Scalar.
    """
    if not bool(outlier.any()):
        return log_p.new_zeros(())
    log_p = log_p.movedim(1, -1)[outlier]  # pixels K: few, so the sum over classes is cheap
    log_penalty = log_penalty.expand(outlier.shape)[outlier].unsqueeze(1)
    abstain = log_p[:, -1:]
    if form == "paper":
        pays = abstain + torch.log1p((-log_penalty).exp())
    else:
        pays = torch.logaddexp(log_p[:, :-1], abstain - log_penalty)
    return -(pays if clamp is None else pays.clamp_min(math.log(clamp))).mean()


def check_outlier_clamp(value: float | None) -> None:
    """Refuse a clamp that is no probability.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if value is not None and not 0 < value < 1:
        raise ConfigError(
            f"outlier_clamp must be above 0 and below 1, or null for none; got {value}. The release has 1e-7."
        )


def abstention_loss(
    logits: Tensor,
    target: Tensor,
    log_penalty: Tensor,
    *,
    outlier_weight: float,
    form: OutlierForm,
    clamp: float | None = None,
) -> Tensor:
    """Abstention loss of a batch: images with and images without outliers have the same weight, as released.

    Args:
        logits: Shape (B, K, H, W).
        target: Shape (B, H, W).
        log_penalty: See :func:`abstention_in`.
        outlier_weight: Of the outlier pixels.
        form: See :func:`abstention_out`.
        clamp: See :func:`abstention_out`.

    Returns:
        Scalar, finite also where a group of pixels is empty.
    """
    log_p = logits.float().log_softmax(1)
    pixel = abstention_in(log_p, target, log_penalty)
    known, outlier = target < OUTLIER, target == OUTLIER
    mixed = outlier.flatten(1).any(1).view(-1, 1, 1)
    inside = mean_where(pixel, known & ~mixed) + mean_where(pixel, known & mixed)
    return inside + outlier_weight * abstention_out(log_p, outlier, log_penalty, form=form, clamp=clamp)


class FineTunedSegmenter(SegmenterModule):
    """A trained segmenter of which the last block alone is trained further. A method writes ``loss(logits, target)``.

    Args:
        abstention: Give the network a further channel.
        trunk_mode: Of everything but the last block: ``eval`` leaves it as it is; ``train`` imitates released code, where the
            weights stay but the running statistics of batch norms change and dropout is active.
        lr: First learning rate of Adam; it falls polynomially with power 0.9 over the steps of the training.
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

    network: DeepLabNetwork
    fine_tunes = True

    def __init__(
        self,
        *,
        abstention: bool,
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
            backbone=backbone, num_classes=num_classes, output_stride=output_stride, width=width,
            released_dilation=released_dilation, backbone_weights=backbone_weights, segmenter_weights=segmenter_weights,
            smoothing=smoothing, window=window, stride=stride, blend=blend,
        )  # fmt: skip
        if lr <= 0:
            raise ConfigError(f"lr must be above 0; got {lr}.")
        if abstention:
            self.network.extend_head()
        self.network.freeze_trunk(trunk_mode)
        self.lr = lr

    scores_abstention: bool = False
    """Scores come from the abstention channel, which a segmenter does not have."""

    def load_pretrained(self) -> None:
        """Load the segmenter; without one, the frozen part stays as the backbone's weights make it.

        Raises:
            WeightsError: without a fit, the scores would be those of an abstention channel that nobody has trained.
        """
        super().load_pretrained()
        fitting = self._trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if self.scores_abstention and not fitting and not getattr(self.network, "abstention_loaded", True):
            raise WeightsError(
                f"{type(self).__name__} scores by its abstention channel, which the segmenter in '{self.segmenter_weights}' does not have. "
                f"Run fit first, give weights of a {type(self).__name__}, or score by energy."
            )
        if self.segmenter_weights is None:
            log.warning(
                "%s trains the last block of a segmenter alone, and segmenter_weights is null: the rest stays untrained. Give the "
                "checkpoint of a DeepLabV3Plus.",
                type(self).__name__,
            )

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Weighted losses of a batch by name; their sum is what is learned.

        Args:
            logits: Float32, shape (B, K, H, W).
            target: Shape (B, H, W).

        Raises:
            NotImplementedError: the method does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(logits, target).")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the losses, each of which is logged."""
        target, image = self.target(batch), batch["image"]
        with torch.no_grad():
            z = self.network.features(image)
        logits = self.network.logits(z, image.shape[2:])
        with torch.autocast(image.device.type, enabled=False):
            terms = self.loss(logits, target)
            loss = torch.stack(list(terms.values())).sum()
        self.log_dict({"train/loss": loss, **{f"train/{name}": value for name, value in terms.items()}})
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, which follows from the step alone."""
        factor = polynomial_decay(self.training_progress(batch_idx), power=LR_POWER)
        (optimizer,) = self.trainer.optimizers
        for group in optimizer.param_groups:
            group["lr"] = max(self.lr * factor, LR_FLOOR)

    def configure_optimizers(self) -> Adam:
        """Adam on the last block; :meth:`on_train_batch_start` sets the rate."""
        return Adam(self.network.final.parameters(), lr=self.lr)
