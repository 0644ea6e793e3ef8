"""A head on any encoder, taught by labels: what a classifier makes of many normal images and few anomalies.

Papers: the baselines of Tian, thesis, ch. 10 (DenseNet-121 with heavy augmentation, cross-entropy, focal loss); Pang et al., "Deep anomaly
    detection with deviation networks", KDD 2019 (DevNet).
Reference: no code was read.
Differs: the thesis does not say how the DenseNet starts or what its augmentation is; it starts at random, and ``augment: heavy`` is ours.
Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.optim import Adam, Optimizer

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.heavy import heavy_augmentation
from anomaly_suite.contract import Batch
from anomaly_suite.methods.few_shot.label_losses import LabelLoss, LabelLosses
from anomaly_suite.methods.few_shot.labelled_scorer import LabelledScorer
from anomaly_suite.nn.size import ImageSize


class SupervisedHead(LabelledScorer):
    """A binary classifier, or DevNet: any encoder of the package, with a head that labelled anomalies teach.

    The score is the head's logit, not a probability, which would be 1 for every sure image. Batches need about as many anomalies as
    normal images (``balanced: true`` in the data module). DevNet is ``encoder: resnet18, encoder_weights: imagenet, loss: deviation``.

    Args:
        encoder: The name of a timm network, ``residual``, ``infomax``, ``infomax_released``, or ``pixels`` for the image itself.
        encoder_weights: What it starts from: ``imagenet``, a file, the run of a pre-training, or null for random weights.
        image_size: Height and width of the images that encoders other than timm's take.
        width: Channels of the first convolution of ``infomax`` and ``residual``.
        hidden: Widths of the head's layers before the last; none is a linear head.
        freeze_encoder: Train the head alone.
        augment: ``heavy`` turns, crops, mirrors, recolours and blurs images anew in every step; ``none``.
        loss: ``cross_entropy``, ``focal`` or ``deviation``.
        margin: Of ``deviation``.
        reference_draws: Draws of N(0, 1) a step that mean and deviation of normal scores are measured by, in ``deviation``; null takes
            0 and 1.
        focal_alpha: Weight of anomalies in ``focal``; 0.5 is neutral with balanced batches.
        focal_gamma: Its power.
        lr: Learning rate of Adam.
        betas: Of Adam.
        weight_decay: Of Adam.

    Shapes: images (B, C, H, W) in [0, 1], C 1 or 3; score (B,); no map.

    Raises:
        ConfigError: an unknown network, or a size that does not fit.
    """

    def __init__(
        self,
        *,
        encoder: str = "densenet121",
        encoder_weights: str | None = None,
        image_size: ImageSize = 64,
        width: int = 64,
        hidden: Sequence[int] = (),
        freeze_encoder: bool = False,
        augment: Literal["heavy", "none"] = "heavy",
        loss: LabelLoss = "cross_entropy",
        margin: float = 5.0,
        reference_draws: int | None = 5000,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, hidden=hidden
        )
        self.save_hyperparameters()
        self.augment, self.frozen = augment, freeze_encoder
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.label_losses = LabelLosses(loss, margin, reference_draws, focal_alpha, focal_gamma)
        if freeze_encoder:
            self.freeze_encoder()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of normal images and anomalies in one pass: in several, batch norm would tell them apart."""
        image, label, generator = batch["image"], self.labels(batch), self.step_generator(batch_idx)
        if self.augment == "heavy":
            image = heavy_augmentation(image, GeneratorDraws(generator))
        score = self.scorer(self.features(image, frozen=self.frozen))
        loss = self.label_losses(score, label, generator).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
        return loss

    def configure_optimizers(self) -> Optimizer:
        """Adam for what is not frozen."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        return Adam(weights, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
