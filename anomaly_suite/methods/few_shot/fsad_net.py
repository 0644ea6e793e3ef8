"""FSAD-Net: deep infomax of normal images, then a score network on its frozen codes, from many normal images and few anomalies.

Paper: Tian et al., "Few-shot anomaly detection for polyp frames from colonoscopy", MICCAI 2020 (FSAD-Net); Tian, thesis, ch. 10.
Reference: the authors' released code (the second stage) and a public PyTorch port of deep infomax, as described of them; no code read.
Differs: the encoder and its prior discriminator have losses of their own, as in the code of deep infomax's authors: the port lets both
    minimise one loss, by which codes move away from the prior. Reference scores are the constants 0 and 1 (``reference_draws: null``).
    Codes are computed in every step, not cached, so that memory does not grow with the data set. A uniform prior is matched by the
    sigmoid of the code. ``infomax`` has strides, which the thesis does not give; ``infomax_released`` is the released code's.
Axes: B batch, C channels, H and W pixels, Z width of the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import with_idle_weights
from anomaly_suite.methods.few_shot.label_losses import LabelLoss, LabelLosses
from anomaly_suite.methods.few_shot.labelled_scorer import LabelledScorer
from anomaly_suite.nn.dcgan import DCGANDecoder, default_widths, to_signed
from anomaly_suite.nn.encoders import INFOMAX, ImageEncoder
from anomaly_suite.nn.infomax import (
    PRIOR_WIDTHS,
    Estimator,
    GlobalDiscriminator,
    InfomaxEncoder,
    LocalDiscriminator,
    Negatives,
    mismatched,
    mlp,
    mutual_information,
    prior_losses,
)
from anomaly_suite.nn.size import ImageSize, height_width

Representation = Literal["infomax", "autoencoder", "none"]
BASE_WIDTH = 64  # of the DCGAN's first level


class FSADNet(LabelledScorer):
    """Deep infomax or an autoencoder on normal images, then a score network that labelled anomalies teach.

    Epochs before ``representation_epochs`` train the encoder, on images labelled 0 alone; all later ones the score network. Give the
    trainer ``max_epochs`` of both phases together. In the first phase the module is unfitted: its scores say nothing yet. The
    encoder of a run is a pre-training for other methods (``encoder_weights``), and with ``representation: none`` that of another
    pre-training takes its place.

    Batches of the second phase need about as many anomalies as normal images (``balanced: true`` in the data module): without
    them every score goes to 0.

    Args:
        encoder: ``infomax`` (stride 2, for 64-pixel images), ``infomax_released`` (stride 1 without padding, 32 pixels); for other
            representations also ``residual``, the name of a timm network, or ``pixels``, the image itself.
        encoder_weights: What it starts from: ``imagenet``, a file, the run of a pre-training, or null for random weights.
        image_size: Height and width of the images.
        width: Channels of the first convolution of ``infomax``, and Z.
        hidden: Widths of the score network's layers before the last.
        representation: First phase: ``infomax``, ``autoencoder`` (mean squared error of a DCGAN decoder), or ``none``.
        representation_epochs: Of the first phase.
        representation_lr: Its learning rate.
        estimator: Bound of the mutual information: ``jsd``, or ``dv``, which needs large batches.
        negatives: ``rolled``, or ``all`` mismatched pairs, whose memory grows with the square of the batch.
        prior: ``normal``, N(0, I), or ``uniform``, U(0, 1).
        global_weight: Of the mutual information of codes and all local features: alpha.
        local_weight: Of that with single cells: beta. The public port has 1, and 0.1 for the prior.
        prior_weight: Of the match with the prior: gamma.
        freeze_encoder: Keep the encoder in the second phase; otherwise it is trained with the score network.
        loss: ``deviation``, ``cross_entropy`` or ``focal``.
        margin: Of ``deviation``: anomalies are pushed so many deviations away.
        reference_draws: Draws of N(0, 1) a step that mean and deviation of normal scores are measured by; null takes 0 and 1.
        focal_alpha: Weight of anomalies in ``focal``; 0.5 is neutral with balanced batches.
        focal_gamma: Its power.
        lr: Learning rate of the second phase.
        betas: Of its Adam.

    Shapes: images (B, C, H, W) in [0, 1], C 1 or 3; score (B,); no map.

    Raises:
        ConfigError: options that exclude each other, an unknown network, or a size that does not fit.
    """

    has_scorer: Tensor

    def __init__(
        self,
        *,
        encoder: str = "infomax",
        encoder_weights: str | None = None,
        image_size: ImageSize = 64,
        width: int = 64,
        hidden: Sequence[int] = (1000, 200, 20),
        representation: Representation = "infomax",
        representation_epochs: int = 6000,
        representation_lr: float = 1e-4,
        estimator: Estimator = "jsd",
        negatives: Negatives = "rolled",
        prior: Literal["normal", "uniform"] = "normal",
        global_weight: float = 0.5,
        local_weight: float = 0.1,
        prior_weight: float = 1.0,
        freeze_encoder: bool = True,
        loss: LabelLoss = "deviation",
        margin: float = 6.0,
        reference_draws: int | None = None,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.9),
    ) -> None:
        super().__init__(
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, hidden=hidden
        )
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.first_epochs = 0 if representation == "none" else representation_epochs
        self.negatives, self.estimator, self.prior = negatives, estimator, prior
        self.weights = (global_weight, local_weight, prior_weight)
        self.frozen, self.rates, self.betas = freeze_encoder, (representation_lr, lr), betas
        self.label_losses = LabelLosses(loss, margin, reference_draws, focal_alpha, focal_gamma)
        self.helpers = self._helpers(representation, encoder, image_size)
        self.prior_net = mlp(self.encoder.out_features, PRIOR_WIDTHS) if representation == "infomax" else None
        if freeze_encoder and not self.first_epochs:
            self.freeze_encoder()
        # 1 once the second phase has begun; a float, because weight averaging takes no booleans.
        self.register_buffer("has_scorer", torch.tensor(float(not self.first_epochs)))

    def _helpers(self, representation: Representation, encoder: str, image_size: ImageSize) -> nn.ModuleDict:
        """What is trained beside the encoder in the first phase, and of no use afterwards."""
        if representation == "none":
            return nn.ModuleDict()
        if representation == "infomax":
            if encoder not in INFOMAX:
                raise ConfigError(
                    f"representation=infomax needs an encoder with local features, {' or '.join(INFOMAX)}; got {encoder!r}. Set "
                    "representation to none and encoder_weights to what that encoder starts from, or choose autoencoder."
                )
            net = cast(InfomaxEncoder, cast(ImageEncoder, self.encoder).net)
            width = net.out_features
            parts = {"whole": GlobalDiscriminator(net, width=width), "cells": LocalDiscriminator(net, hidden=8 * width)}
            return nn.ModuleDict(parts)
        if not isinstance(self.encoder, ImageEncoder):
            raise ConfigError(
                f"representation=autoencoder needs an encoder to train; got {encoder!r}. Set representation to none."
            )
        size, width = height_width(image_size), self.hparams["width"]
        widths = [max(1, each * width // BASE_WIDTH) for each in default_widths(size)]
        decoder = DCGANDecoder(in_features=self.encoder.out_features, out_channels=3, image_size=size, widths=widths)
        return nn.ModuleDict({"decoder": decoder})

    # Phases ------------------------------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> str | None:
        """The phase of the representation."""
        if self.has_scorer:
            return None
        return (
            f"it has not left its first phase, which trains the encoder for representation_epochs={self.first_epochs} epochs; its "
            "score network is not trained. Run fit first, for more epochs than that, or lower representation_epochs."
        )

    def at_rest(self) -> list[nn.Module]:
        """What the first phase has trained, in the second."""
        if self.current_epoch < self.first_epochs:
            return []
        rest: list[nn.Module] = [self.helpers, *([self.prior_net] if self.prior_net is not None else [])]
        return [*rest, self.encoder] if self.frozen else rest

    def needs_anomalies(self) -> bool:
        """The second phase does."""
        return self.current_epoch >= self.first_epochs

    def on_train_start(self) -> None:
        """Warn if the score network would stay untrained."""
        super().on_train_start()
        if self.first_epochs:
            steps = 1.0 + (self.prior_net is not None)
            self.warn_of_first_phase("trains its encoder", "representation_epochs", self.first_epochs, steps=steps)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the encoder and one of the prior discriminator; in the second phase one of the score network."""
        first_phase = self.current_epoch < self.first_epochs
        # Set in every step: a run that is resumed within an epoch does not start that epoch.
        self.encoder.train(first_phase or not self.frozen)
        self.helpers.train(first_phase)
        self.scorer.train(not first_phase)
        generator = self.step_generator(batch_idx)
        if not first_phase:
            self.has_scorer.fill_(1)
            self._score_step(batch, generator)
            return
        image = batch["image"]
        normal = image[batch["label"] == 0] if "label" in batch else image
        if "decoder" in self.helpers:
            self._step(0, self._reconstruction_loss(normal))
        else:
            self._infomax_step(normal, generator)

    # First phase -------------------------------------------------------------------------------------------------------

    def _infomax_step(self, normal: Tensor, generator: Generator) -> None:
        if len(normal) < 2:  # nothing to compare; other processes may have more
            self._step(0, None)
            self._step(1, None)
            return
        local, code = cast(InfomaxEncoder, cast(ImageEncoder, self.encoder).net).features(normal)
        self._step(0, self.encoder_loss(local, code))
        self._step(1, self.discriminator_loss(code, generator))

    def information(self, name: str, local: Tensor, code: Tensor) -> Tensor:
        """Bound () of the mutual information by a discriminator, ``whole`` or ``cells``.

        Args:
            name: Which of them.
            local: Local features, shape (B, 2 Z, h, w).
            code: Shape (B, Z).

        Raises:
            ShapeError: fewer than two images.
        """
        of_local, of_code = mismatched(len(code), self.negatives, device=code.device)
        judge = self.helpers[name]
        return mutual_information(judge(local, code), judge(local[of_local], code[of_code]), self.estimator)

    def encoder_loss(self, local: Tensor, code: Tensor) -> Tensor:
        """What encoder, global and local discriminator minimise, given local features (B, C, h, w) and codes (B, Z)."""
        found = {name: self.information(name, local, code) for name in ("whole", "cells")}
        match = prior_losses(self._of_prior(code))
        self.log_dict(
            {"train/global_information": found["whole"].detach(), "train/local_information": found["cells"].detach()},
            batch_size=len(code),
        )
        self.log("train/prior", match.detach(), batch_size=len(code))
        alpha, beta, gamma = self.weights
        return -alpha * found["whole"] - beta * found["cells"] + gamma * match

    def discriminator_loss(self, code: Tensor, generator: Generator) -> Tensor:
        """What the prior discriminator alone minimises; codes (B, Z) get no gradient."""
        draw = torch.randn if self.prior == "normal" else torch.rand
        prior = draw(code.shape, generator=generator, dtype=torch.float32, device=code.device).to(code.dtype)
        net = cast(nn.Module, self.prior_net)
        loss = prior_losses(self._of_prior(code.detach()), net(prior))
        self.log("train/discriminator", loss.detach(), batch_size=len(code))
        return loss

    def _of_prior(self, code: Tensor) -> Tensor:
        logit: Tensor = cast(nn.Module, self.prior_net)(code.sigmoid() if self.prior == "uniform" else code)
        return logit

    def _reconstruction_loss(self, normal: Tensor) -> Tensor | None:
        if not len(normal):
            return None
        rebuilt = self.helpers["decoder"](self.encoder(normal))
        error: Tensor = (to_signed(normal).float() - rebuilt.float()).square().mean()
        self.log("train/reconstruction", error.detach(), batch_size=len(normal))
        return error

    # Second phase ------------------------------------------------------------------------------------------------------

    def _score_step(self, batch: Batch, generator: Generator) -> None:
        label = self.labels(batch)
        score = self.scorer(self.features(batch["image"], frozen=self.frozen))
        loss = self.label_losses(score, label, generator).mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(label))
        self._step(-1, loss)

    def _step(self, number: int, loss: Tensor | None) -> None:
        """A step of one optimiser; without a loss only where other processes wait for it."""
        several = self.trainer.world_size > 1
        if loss is None and not several:
            return
        optimizer: Any = self._optimizers()[number]
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if several:  # DDP waits for a gradient of every parameter
            weights = [weight for weight in self.parameters() if weight.requires_grad]
            loss = with_idle_weights(
                torch.zeros((), dtype=torch.float32, device=self.device) if loss is None else loss, weights
            )
        self.manual_backward(cast(Tensor, loss), inputs=weights)
        optimizer.step()
        self.zero_grad()

    def _optimizers(self) -> list[Any]:
        found = self.optimizers()
        return found if isinstance(found, list) else [found]

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for the encoder and its helpers, for the prior discriminator, and for the score network."""
        first, second = self.rates
        optimizers: list[Optimizer] = []
        if self.first_epochs:
            optimizers.append(Adam([*self.encoder.parameters(), *self.helpers.parameters()], lr=first))
        if self.prior_net is not None:
            optimizers.append(Adam(self.prior_net.parameters(), lr=first))
        encoder = [] if self.frozen else list(self.encoder.parameters())
        optimizers.append(Adam([*encoder, *self.scorer.parameters()], lr=second, betas=self.betas))
        return optimizers
