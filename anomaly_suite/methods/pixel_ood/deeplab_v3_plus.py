"""DeepLabv3+: a segmentation network trained on known classes, scored by energy, MSP, max-logit or entropy.

Papers: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018, arXiv:1802.02611; label relaxation after Zhu
    et al., "Improving Semantic Segmentation via Video Propagation and Label Relaxation", CVPR 2019, arXiv:1812.01593; the
    settings of both published networks as in chapter 11 and appendix C of Yu Tian's thesis.
Reference: both networks are released; rebuilt from a description of them and from their numbers of weights. The released loss of relaxed
    labels (NVIDIA/semantic-segmentation, branch sdcnet) was read, not copied.
Differs: the loss of relaxed labels is the mean over the known pixels of a batch, each weighed by its own class, and after the relaxation
    the plain cross-entropy. The released one is a sum over images in which border pixels of the whole batch weigh in, class weights are
    not divided by, void at a border learns its neighbours, and after the relaxation borders count twice: at two images about eight times
    ours. As the step of SGD follows the size of the loss, ``border_loss: released`` has it for the published learning rate. Crops are drawn anywhere, not half of them around rare classes as in both published trainings. A batch of one image is
    normalised by running statistics where the network averages over the whole image.
Axes: B batch, C channels, Y classes, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from anomaly_suite.contract import OUTLIER, VOID, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import polynomial_decay
from anomaly_suite.methods.pixel_ood.scores import LOGIT_SCORES, LogitScore
from anomaly_suite.methods.pixel_ood.segmenter import SegmenterModule
from anomaly_suite.nn.deeplab import DeepLabNetwork
from anomaly_suite.nn.size import ImageSize
from anomaly_suite.nn.sliding_window import Blend

THIN_CLASSES = (5, 6, 7, 11, 12, 17, 18)  # of Cityscapes: pole, light, sign, person, rider, motorcycle, bicycle
MOMENTUM = 0.9
RESTART_MAX = 1 - 1e-9
"""A decay that begins anew does so before the end."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every pixel, in float32; 0 where the target is an outlier or void.

    Args:
        logits: Shape (B, Y, H, W).
        target: Shape (B, H, W).

    Returns:
        Shape (B, H, W).
    """
    known = target.masked_fill(target >= OUTLIER, VOID)
    return F.cross_entropy(logits.float(), known, ignore_index=VOID, reduction="none")


def relaxed_cross_entropy(logits: Tensor, target: Tensor, *, strict: Sequence[int] = THIN_CLASSES) -> Tensor:
    """Negative log of the probability that a pixel is of any class found in its 3 x 3 neighbourhood, in float32.

    Away from borders, and at pixels of the ``strict`` classes, it is :func:`cross_entropy`.

    Args:
        logits: Shape (B, Y, H, W).
        target: Shape (B, H, W).
        strict: Classes too thin to be relaxed.

    Returns:
        Shape (B, H, W); 0 where the target is an outlier or void. These are no class of their neighbours either.
    """
    logits = logits.float()
    batch, classes, *size = logits.shape
    known = target < OUTLIER
    own = logits.new_zeros(batch, classes + 1, *size)
    own = own.scatter_(1, target.where(known, classes).unsqueeze(1), 1.0)[:, :classes]
    near = F.max_pool2d(own, 3, 1, 1)
    kept = torch.isin(target, target.new_tensor(strict))
    allowed = own.where(kept.unsqueeze(1), near).bool()
    allowed = allowed | ~known.unsqueeze(1)  # all classes where none is known, for a loss of 0
    return logits.logsumexp(1) - logits.masked_fill(~allowed, -torch.inf).logsumexp(1)


def class_weights(target: Tensor, num_classes: int, *, bound: float) -> Tensor:
    """Weight of every pixel: ``1 + bound * (1 - share of its class among the known pixels of its image)``; 0 where unknown.

    Args:
        target: Shape (B, H, W).
        num_classes: Y.
        bound: Largest addition to the weight; 0 weighs all known pixels alike.

    Returns:
        Shape (B, H, W), float32.
    """
    batch = len(target)
    known = target < OUTLIER
    index = target.where(known, num_classes).flatten(1)
    count = torch.zeros(batch, num_classes + 1, dtype=torch.float32, device=target.device)
    count.scatter_add_(1, index, torch.ones_like(index, dtype=count.dtype))
    share = count / count[:, :-1].sum(1, keepdim=True).clamp_min(1)
    return (1 + bound * (1 - share)).gather(1, index).view_as(target) * known


def released_border_loss(
    logits: Tensor, target: Tensor, *, strict: Sequence[int] = THIN_CLASSES, bound: float, relaxed: bool
) -> Tensor:
    """The loss of the released WideResNet38 training, term by term.

    A pixel has n classes: those of its 3 x 3 neighbourhood while ``relaxed``, if it is not ``strict`` itself; else its own, which counts
    as 2 where one of its four neighbours is another. Its loss is the cross-entropy of their union, times the sum of their weights,
    times the sum over *all* images of ``1 / n`` (of n, when no longer relaxed) at that place. An image's losses are summed and divided
    by its number of pixels that have a class, plus 1; those of the images are summed.

    Args:
        logits: Shape (B, Y, H, W).
        target: Shape (B, H, W).
        strict: Classes too thin to be relaxed.
        bound: Of the class weights, ``1 + bound * (1 - share)``, the shares with every class that a pixel has, and with void.
        relaxed: Whether the relaxation is on.

    Returns:
        Scalar.
    """
    logits = logits.float()
    classes = logits.shape[1]
    label = target.where(target < OUTLIER, classes)
    count = F.one_hot(label, classes + 1).movedim(-1, 1).float()  # B Y+1 H W
    if relaxed:
        around = F.one_hot(F.pad(label, (1, 1, 1, 1), value=classes), classes + 1).movedim(-1, 1).float()
        kept = torch.isin(target, target.new_tensor(strict)).unsqueeze(1)
        count = count.where(kept, F.max_pool2d(around, 3, 1))
    else:
        count = count * (1 + _at_border(label)).unsqueeze(1)
    share = count.sum((2, 3)) / count.sum((1, 2, 3)).unsqueeze(1)
    weight = torch.where(share > 0, 1 + bound * (1 - share), 1.0)[:, :-1, None, None]  # B Y 1 1
    number = count[:, :-1].sum(1)  # B H W
    learned = number > 0
    number = number.where(learned, 1.0)
    place = (1 / number if relaxed else number).sum(0)  # H W
    member = (count[:, :-1] > 0) | ~learned.unsqueeze(1)  # all classes where there is none, for a loss of 0
    pixel = logits.logsumexp(1) - logits.masked_fill(~member, -torch.inf).logsumexp(1)
    pixel = pixel * (member * weight).sum(1) * place * learned
    return (pixel.sum((1, 2)) / (learned.sum((1, 2)) + 1)).sum()


def _at_border(label: Tensor) -> Tensor:
    """Whether one of a pixel's four neighbours has another label, (B, H, W) to (B, H, W)."""
    border = torch.zeros_like(label, dtype=torch.bool)
    for dim in (1, 2):
        change, size = label.diff(dim=dim) != 0, label.shape[dim] - 1
        for start in (0, 1):
            border.narrow(dim, start, size).logical_or_(change)
    return border


def mean_loss(loss: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over all pixels, shapes (B, H, W) to a scalar; 0 where no pixel has a weight."""
    return (loss * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def restarted_decay(progress: float, *, power: float, restart: float, restart_power: float | None) -> float:
    """Factor of the learning rate: polynomial decay that begins anew, with another power, at a share of the training.

    Args:
        progress: Share of the training that is over, in [0, 1].
        power: Of the decay towards the end of the training.
        restart: Share from which ``restart_power`` holds, in [0, 1).
        restart_power: None does not restart.

    Returns:
        Factor in [0, 1].
    """
    if restart_power is None or progress < restart:
        return polynomial_decay(progress, power=power)
    return polynomial_decay((progress - restart) / (1 - restart), power=restart_power)


class DeepLabV3Plus(SegmenterModule):
    """DeepLabv3+, trained by cross-entropy on known classes, scored by energy, MSP, max-logit or entropy.

    The other methods of this family start from its checkpoint. Batches have a ``target`` (B, H, W) of classes; 254 and 255 are not
    learned from. The defaults are those of the published ResNet101, trained for 60,000 steps of 4 crops of 768 pixels;
    ``sample_configs/pixel_ood`` has WideResNet38's.

    Args:
        score: How logits are turned into anomaly scores, see :mod:`anomaly_suite.methods.pixel_ood.scores`.
        optimizer: ``sgd`` with momentum 0.9, or ``adam``.
        lr: First learning rate.
        lr_power: Of its polynomial decay over the steps of the training.
        restart_power: Power of a decay that begins anew, from ``lr``, when the relaxation ends; null does not restart.
        weight_decay: Of the optimiser.
        auxiliary_weight: Weight of the loss of a second classifier on the stage before the last; 0 builds none.
        relaxation_epochs: Epochs in which a pixel at a border may be of any class of its neighbours; published: 100.
        strict_classes: Classes too thin for that.
        class_weight_bound: Weigh rare classes of an image up by at most this much; 0 for none.
        border_loss: ``mean`` of the pixels' losses, or ``released``, see :func:`released_border_loss`, which is several times larger.
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

    def __init__(
        self,
        *,
        score: LogitScore = "energy",
        optimizer: Literal["sgd", "adam"] = "sgd",
        lr: float = 0.01,
        lr_power: float = 0.9,
        restart_power: float | None = None,
        weight_decay: float = 5e-4,
        auxiliary_weight: float = 0.4,
        relaxation_epochs: int = 0,
        strict_classes: Sequence[int] = THIN_CLASSES,
        class_weight_bound: float = 0.0,
        border_loss: Literal["mean", "released"] = "mean",
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
            auxiliary=auxiliary_weight > 0, backbone=backbone, num_classes=num_classes, output_stride=output_stride, width=width,
            released_dilation=released_dilation, backbone_weights=backbone_weights, segmenter_weights=segmenter_weights,
            smoothing=smoothing, window=window, stride=stride, blend=blend,
        )  # fmt: skip
        self.save_hyperparameters()
        for name, value in (
            ("auxiliary_weight", auxiliary_weight),
            ("relaxation_epochs", relaxation_epochs),
            ("class_weight_bound", class_weight_bound),
        ):
            if value < 0:
                raise ConfigError(f"{name} must be 0 or above; got {value}.")
        if restart_power is not None and not relaxation_epochs:
            raise ConfigError(
                f"restart_power={restart_power} restarts the learning rate when the relaxation ends; got relaxation_epochs=0. Set both, "
                "or neither."
            )
        if border_loss == "released" and not relaxation_epochs:
            raise ConfigError(
                "border_loss: released is the loss of a training that relaxes labels; got relaxation_epochs=0. Set it to 100, or "
                "border_loss: mean."
            )
        self.score = score
        self.optimizer = optimizer
        self.lr = lr
        self.lr_power = lr_power
        self.restart_power = restart_power
        self.weight_decay = weight_decay
        self.auxiliary_weight = auxiliary_weight
        self.relaxation_epochs = relaxation_epochs
        self.strict_classes = tuple(strict_classes)
        self.class_weight_bound = class_weight_bound
        self.border_loss = border_loss

    def score_map(self, logits: Tensor) -> Tensor:
        """Score of the class logits, (B, Y, H, W) to (B, 1, H, W)."""
        return LOGIT_SCORES[self.score](logits)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of a batch, relaxed in the first epochs, over the pixels whose class is known.

        Args:
            logits: Shape (B, Y, H, W).
            target: Shape (B, H, W).

        Returns:
            Scalar.
        """
        relaxed = self.current_epoch < self.relaxation_epochs
        if self.border_loss == "released":
            return released_border_loss(
                logits, target, strict=self.strict_classes, bound=self.class_weight_bound, relaxed=relaxed
            )
        pixel = (
            relaxed_cross_entropy(logits, target, strict=self.strict_classes)
            if relaxed
            else cross_entropy(logits, target)
        )
        return mean_loss(pixel, class_weights(target, self.num_classes, bound=self.class_weight_bound))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy, and the auxiliary classifier's."""
        target = self.target(batch)
        logits, auxiliary = self.network.logits_and_auxiliary(batch["image"])
        loss = self.loss(logits, target)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * self.loss(auxiliary, target)
        self.log("train/loss", loss)
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, which follows from epoch and step alone."""
        progress, behind = self.training_progress(batch_idx), self.epochs_behind(batch_idx)
        # The share of the run at which the relaxation ends or ended, whatever ends the run.
        restart = min(progress * self.relaxation_epochs / behind, RESTART_MAX) if behind else RESTART_MAX
        factor = restarted_decay(progress, power=self.lr_power, restart=restart, restart_power=self.restart_power)
        (optimizer,) = self.trainer.optimizers
        for group in optimizer.param_groups:
            group["lr"] = self.lr * factor

    def configure_optimizers(self) -> Optimizer:
        """SGD or Adam; :meth:`on_train_batch_start` sets the rate."""
        if self.optimizer == "adam":
            return Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return SGD(self.parameters(), lr=self.lr, momentum=MOMENTUM, weight_decay=self.weight_decay)
