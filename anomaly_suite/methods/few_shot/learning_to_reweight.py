"""Learning to reweight: every training image counts as much as it helps on a small balanced set of clean images.

Paper: Ren et al., "Learning to reweight examples for robust deep learning", ICML 2018, as the baseline of Tian, thesis, ch. 10: on
    FSAD-Net's frozen codes, with its loss.
Reference: no code was read.
Differs: the clean images are drawn from the labelled training images, as in the paper's own experiment on imbalance; those of the
    thesis come from its validation set and are more labels than the other rows have. Weights are normalised over all processes.
Axes: B batch, C channels, H and W pixels, D width of the features, M clean images, N weight tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from anomaly_suite.augment.draws import image_keys
from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.few_shot.label_losses import LabelLoss, LabelLosses
from anomaly_suite.methods.few_shot.labelled_scorer import ADVICE, LabelledScorer
from anomaly_suite.nn.feature_bank import FeatureSample
from anomaly_suite.nn.size import ImageSize

STEP = 1.0  # eta of the look-ahead, which cancels when weights are normalised
Losses = Callable[[Tensor, Tensor], Tensor]
"""Scores (B,) and labels (B,) to losses (B,)."""


def usefulness(
    net: nn.Module,
    feature: Tensor,
    label: Tensor,
    clean: Tensor,
    clean_label: Tensor,
    losses: Losses,
    *,
    step: float = STEP,
) -> Tensor:
    """How much a gradient step on each training sample would lower the loss of clean ones.

    Args:
        net: Features to scores; neither its weights nor its running statistics change.
        feature: Of training samples, shape (B, D).
        label: Shape (B,).
        clean: Features of clean samples, shape (M, D).
        clean_label: Shape (M,).
        losses: See :data:`Losses`.
        step: Length of the look-ahead.

    Returns:
        u, shape (B,): minus the derivative of the clean loss by the weight of each sample, at weights of 0.
    """
    weights = dict(net.named_parameters())

    def score(inputs: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        kept = {name: buffer.clone() for name, buffer in net.named_buffers()}  # batch norm writes into these
        return cast(Tensor, functional_call(net, {**values, **kept}, (inputs,)))

    with torch.enable_grad():
        epsilon = torch.zeros(len(label), dtype=torch.float32, device=label.device, requires_grad=True)
        total = (epsilon * losses(score(feature, weights), label)).sum()
        gradients = torch.autograd.grad(total, list(weights.values()), create_graph=True)
        ahead = {name: w - step * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        clean_loss = losses(score(clean, ahead), clean_label).mean()
        (gradient,) = torch.autograd.grad(clean_loss, epsilon)
    return -gradient


def normalized(useful: Tensor, total: Tensor) -> Tensor:
    """Weights (B,) of samples: their usefulness above 0, divided by its total (); all 0 where that is 0."""
    return torch.where(total > 0, useful.clamp_min(0) / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)


class LearningToReweight(LabelledScorer):
    """A score network on a frozen encoder, whose training images are weighed by what they do for clean ones.

    Training batches keep their natural shares of anomalies (``balanced: false`` in the data module, the default). The clean images
    are ``clean_size`` normal and as many anomalous ones of the training set, chosen by their content; where there are fewer, all.

    Args:
        encoder: ``infomax``, ``infomax_released``, ``residual``, the name of a timm network, or ``pixels`` for the image itself.
        encoder_weights: The run of a pre-training such as FSADNet, ``imagenet``, a file, or null for random weights.
        image_size: Height and width of the images.
        width: Channels of the first convolution of ``infomax`` and ``residual``.
        hidden: Widths of the score network's layers before the last.
        clean_size: Clean images of each label.
        loss: ``deviation``, ``cross_entropy`` or ``focal``.
        margin: Of ``deviation``.
        focal_alpha: Weight of anomalies in ``focal``.
        focal_gamma: Its power.
        lr: Learning rate of Adam.
        betas: Of Adam.

    Shapes: images (B, C, H, W) in [0, 1], C 1 or 3; score (B,); no map.

    Raises:
        ConfigError: an unknown network, or a size that does not fit.
    """

    def __init__(
        self,
        *,
        encoder: str = "infomax",
        encoder_weights: str | None = None,
        image_size: ImageSize = 64,
        width: int = 64,
        hidden: Sequence[int] = (1000, 200, 20),
        clean_size: int = 20,
        loss: LabelLoss = "deviation",
        margin: float = 6.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.9),
    ) -> None:
        super().__init__(
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, hidden=hidden
        )
        self.save_hyperparameters()
        self.automatic_optimization = (
            False  # the look-ahead is a derivative of a derivative, which compiled steps do not have
        )
        self.clean_size, self.lr, self.betas = clean_size, lr, betas
        self.label_losses = LabelLosses(loss, margin, None, focal_alpha, focal_gamma)
        self.freeze_encoder()
        self._clean: tuple[Tensor, Tensor] | None = None  # images and labels: chosen anew whenever training starts

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Choose the clean images, the same in every process and after a resumption.

        Raises:
            ConfigError: there are none of a label.
        """
        super().on_train_start()
        samples = [FeatureSample(self.clean_size) for _ in range(2)]
        image = torch.empty(0, dtype=torch.float32)
        for batch in self.training_batches():
            image, label = batch["image"], self.labels(batch)
            used = ~batch["padding"] if "padding" in batch else torch.ones_like(label, dtype=torch.bool)
            for kind, sample in enumerate(samples):
                chosen = image[used & (label == kind)]
                if len(chosen):
                    sample.add(image_keys(chosen), chosen.flatten(1))
        gather = cast(Callable[[Tensor], Tensor], self.all_gather)
        found = [each.merge(image[0].numel(), all_gather=gather, device=self.device) for each in samples]
        if not all(map(len, found)):
            raise ConfigError(
                f"LearningToReweight needs clean images of both labels in training; got {len(found[0])} normal and {len(found[1])} "
                f"anomalous ones. {ADVICE}"
            )
        label = torch.arange(2, device=self.device).repeat_interleave(
            torch.tensor([len(each) for each in found], device=self.device)
        )
        self._clean = torch.cat(found).view(-1, *image.shape[1:]).to(image), label

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Weigh the images of a batch, then step on their weighted loss."""
        label = self.labels(batch)
        clean_image, clean_label = cast(tuple[Tensor, Tensor], self._clean)
        feature, clean = (self.features(image, frozen=True) for image in (batch["image"], clean_image))
        generator = self.step_generator(batch_idx)

        def losses(score: Tensor, label: Tensor) -> Tensor:
            """Of scores (B,) with labels (B,)."""
            return self.label_losses(score, label, generator)

        useful = usefulness(self.scorer, feature, label, clean, clean_label, losses)
        total = cast(Tensor, self.trainer.strategy.reduce(useful.clamp_min(0).sum(), reduce_op="sum"))
        weight = normalized(useful, total)
        # DDP takes the mean over processes of what is a sum over all images.
        loss = (weight * losses(self.scorer(feature), label)).sum() * self.trainer.world_size
        share = (weight * label).sum() * self.trainer.world_size
        self.log_dict({"train/loss": loss.detach(), "train/anomalous_weight": share}, batch_size=len(label))
        optimizer: Any = self.optimizers()
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> Optimizer:
        """Adam for the score network."""
        return Adam(self.scorer.parameters(), lr=self.lr, betas=self.betas)
