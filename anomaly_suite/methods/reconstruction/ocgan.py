"""OCGAN: an autoencoder whose cube of codes decodes to normal images alone, wherever in it a code lies.

Paper: Perera, Nallapati and Xiang, "OCGAN: One-class Novelty Detection Using GANs with Constrained Latent Representations", CVPR 2019.
Reference: the authors' released code (MXNet), as described of it; no code read.
Differs: codes end in tanh, as printed, and convolutions are padded; ``preset: released61`` has the release's networks. Discriminators have
    one logit; the release puts a sigmoid before a loss of logits. Noise has a standard deviation of 0.2 and is new in every batch. The
    squared error is a mean, where the release halves it. Mining begins with the codes that the discriminator of images was shown
    (``mining_start: released``: with others), in the last quarter of the training. Images are scored without noise. Running statistics of the
    decoder are those of reconstructions, which are scored, and of a discriminator those of its own steps.
Axes: B batch, C channels, H and W pixels, Z latent width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.adversarial import CodeDiscriminator, logistic_loss, untracked
from anomaly_suite.nn.dcgan import DCGANDecoder, DCGANEncoder, dcgan_weights, to_signed, to_unit
from anomaly_suite.nn.size import ImageSize, height_width

CODE_WIDTHS = (128, 64, 32)  # of the discriminator of codes
DISCRIMINATOR_WIDTHS = (12, 24, 48)  # of that of images
CLASSIFIER_WIDTHS = (64, 128, 256)
KERNEL = 5  # of all convolutions of images
BETAS = (0.5, 0.999)  # of the Adams
EDGE = 0.999  # of the cube, from which mining starts
RELEASED_SIDE = 61  # 61, 29, 13, 5 and 1 cells


def mine(code: Tensor, logit: Callable[[Tensor], Tensor], *, steps: int, rate: float) -> Tensor:
    """Move codes towards those that a classifier calls out of the class, without leaving the cube.

    Args:
        code: Shape (B, Z), in [-1, 1].
        logit: Codes (B, Z) to logits (B, 1), each alone.
        steps: Of gradient descent.
        rate: Of each, for every code by itself.

    Returns:
        Shape (B, Z), within (-1, 1), without a graph.
    """
    with torch.enable_grad():
        place = code.detach().float().clamp(-EDGE, EDGE).atanh()
        for _ in range(steps):
            place.requires_grad_()
            # A sum over the batch: each code is moved by its own gradient.
            loss = logistic_loss(logit(place.tanh().to(code.dtype)), real=False) * len(code)
            (gradient,) = torch.autograd.grad(loss, place)
            place = (place - rate * gradient).detach()
        return place.tanh().to(code.dtype)


def released_networks(channels: int, widths: Sequence[int], latent_dim: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of the release: unpadded convolutions from 61 pixels down to one cell, and back."""
    encoder: list[nn.Module] = []
    for before, after in pairwise((channels, *widths, latent_dim)):
        norm = [] if before == channels or after == latent_dim else [nn.BatchNorm2d(after)]
        encoder += [nn.Conv2d(before, after, KERNEL, 2), *norm, nn.LeakyReLU(0.2)]
    decoder: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1))]
    for before, after in pairwise((latent_dim, *reversed(widths))):
        decoder += [nn.ConvTranspose2d(before, after, KERNEL, 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    last = nn.ConvTranspose2d(widths[0], channels, KERNEL, 2)
    return nn.Sequential(*encoder, nn.Flatten()), nn.Sequential(*decoder, nn.Dropout(0.5), last, nn.Tanh())


class OCGAN(AnomalyModule):
    """Denoising autoencoder, discriminators of its codes and of decoded codes, and a classifier that finds codes which decode badly.

    Every batch is one step of each: of the classifier, which tells reconstructions from decoded random codes; of both discriminators, which tell
    codes from uniform ones, and images from decoded random codes; and of the autoencoder, which deceives both and reconstructs. From
    ``mining_from`` on, random codes are first moved to where the classifier sees no image of the class.

    The score is the mean squared error of the reconstruction on the scale of [-1, 1], or ``visual``: how much the discriminator
    of images takes it for none. Choose one before the test. The map is the squared error, averaged over channels. ``train/code_std`` is the
    standard deviation of codes, a mean over Z; 0.577 if they fill the cube evenly.

    Args:
        in_channels: C.
        image_size: Height and width of the images; sizes that do not halve evenly are padded (28 becomes 32).
        preset: ``default``, or ``released61``: the networks of the release for 61 pixels, whose codes are not bounded, with dropout.
        widths: Channels of each level of the autoencoder, outermost first.
        latent_dim: Z; 16 suits digits.
        noise_std: Deviation of the Gaussian noise on training inputs in [-1, 1].
        latent_weight: Of deceiving the discriminator of codes.
        reconstruction_weight: Of the mean squared error, lambda.
        mining_from: Share of the training without mining; 1 never mines.
        mining_start: Where mining starts: at the codes that were ``drawn`` for classifier and discriminators; or, as ``released``, at
            others, drawn before tanh, which the autoencoder gets before there is mining, too, and mined before the other steps.
        mining_steps: Of gradient descent.
        mining_rate: Of each.
        score: ``residual`` or ``visual``.
        lr: Learning rate of all Adams.

    Shapes: images (B, C, H, W) in [0, 1]; score (B,); map (B, 1, H, W).

    Raises:
        ConfigError: an option outside its range, or sizes that do not fit.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: ImageSize = 32,
        preset: Literal["default", "released61"] = "default",
        widths: Sequence[int] = (64, 128, 256),
        latent_dim: int = 128,
        noise_std: float = 0.2,
        latent_weight: float = 10.0,
        reconstruction_weight: float = 10.0,
        mining_from: float = 0.75,
        mining_start: Literal["drawn", "released"] = "drawn",
        mining_steps: int = 1,
        mining_rate: float = 2.0,
        score: Literal["residual", "visual"] = "residual",
        lr: float = 2e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,)
        self.automatic_optimization = False
        if not 0 <= mining_from <= 1:
            raise ConfigError(f"mining_from must be in [0, 1]; got {mining_from}. 0.75 mines in the last quarter.")
        size = height_width(image_size)
        self.latent_dim, self.noise_std, self.score, self.lr = latent_dim, noise_std, score, lr
        self.latent_weight, self.reconstruction_weight = latent_weight, reconstruction_weight
        self.mining_from, self.mining_start = mining_from, mining_start
        self.mining_steps, self.mining_rate = mining_steps, mining_rate

        def judge(levels: Sequence[int], features: int = 1) -> DCGANEncoder:
            """Images to logits, or to codes."""
            return DCGANEncoder(
                in_channels=in_channels, image_size=size, widths=levels, out_features=features, kernel=KERNEL
            )

        if preset == "released61":
            if size != (RELEASED_SIDE, RELEASED_SIDE) or len(widths) != 3:
                raise ConfigError(
                    f"preset released61 needs image_size=61 and three widths; got {size} and {len(widths)}. Resize the images."
                )
            self.encoder, self.decoder = released_networks(in_channels, widths, latent_dim)
        else:
            self.encoder = nn.Sequential(judge(widths, latent_dim), nn.Tanh())
            decoder = DCGANDecoder(in_features=latent_dim, out_channels=in_channels, image_size=size, widths=widths)
            self.decoder = nn.Sequential(decoder)
        self.classifier = judge(CLASSIFIER_WIDTHS)
        self.code_discriminator = CodeDiscriminator(latent_dim, CODE_WIDTHS)
        self.image_discriminator = judge(DISCRIMINATOR_WIDTHS)
        dcgan_weights(self)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,), and the squared error as mean over channels (B, 1, H, W), on the scale of [-1, 1].

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        x = to_signed(image)
        made = self.decoder(self.encoder(x))
        anomaly_map = (x.float() - made.float()).square().mean(1, keepdim=True)
        if self.score == "visual":
            return -self.image_discriminator(made).float().squeeze(1), anomaly_map
        return anomaly_map.mean((1, 2, 3)), anomaly_map

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1], encoded without noise and decoded."""
        return Reconstruction(to_unit(self.decoder(self.encoder(to_signed(image)))))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Classifier, discriminators, mining, autoencoder; as released, mining comes first and the classifier after the discriminators."""
        x, draws = to_signed(batch["image"]), self.step_generator(batch_idx)
        classifier, discriminators, autoencoder = cast(list[Any], self.optimizers())
        noise = torch.randn(x.shape, generator=draws, dtype=x.dtype, device=x.device)
        code = self.encoder(x + self.noise_std * noise)
        made = self.decoder(code)
        drawn, mined = self.sample(x, draws), self.sample(x, draws).tanh()
        mines, released = self.training_progress(batch_idx) >= self.mining_from, self.mining_start == "released"
        if released and mines:
            mined = self._mine(mined)
        with torch.no_grad(), untracked(self.decoder):
            fake = self.decoder(drawn)
        if not released:
            self.step_alone(classifier, losses=[self._classifier_loss(made.detach(), fake)])
        uniform = self.sample(x, draws)
        self.step_alone(discriminators, losses=self._discriminator_losses(x, fake, code.detach(), uniform))
        if released:
            self.step_alone(classifier, losses=[self._classifier_loss(made.detach(), fake)])
        else:
            mined = self._mine(drawn) if mines else drawn
        self.step_alone(autoencoder, losses=self._autoencoder_losses(x, made, code, mined))

    def sample(self, like: Tensor, draws: Generator) -> Tensor:
        """As many codes (B, Z) as there are images (B, C, H, W), from U(-1, 1)."""
        shape = (len(like), self.latent_dim)
        return to_signed(torch.rand(shape, generator=draws, dtype=like.dtype, device=like.device))

    def _mine(self, code: Tensor) -> Tensor:
        self.decoder.eval()
        self.classifier.eval()
        mined = mine(code, lambda z: self.classifier(self.decoder(z)), steps=self.mining_steps, rate=self.mining_rate)
        self.decoder.train()
        self.classifier.train()
        return mined

    def _classifier_loss(self, made: Tensor, fake: Tensor) -> Tensor:
        loss = halved(self.classifier(made), self.classifier(fake))
        self.log("train/classifier", loss.detach(), batch_size=len(made))
        return loss

    def _discriminator_losses(self, x: Tensor, fake: Tensor, code: Tensor, uniform: Tensor) -> list[Tensor]:
        of_codes = halved(self.code_discriminator(uniform), self.code_discriminator(code))
        of_images = halved(self.image_discriminator(x), self.image_discriminator(fake))
        terms = {"train/code_discriminator": of_codes.detach(), "train/image_discriminator": of_images.detach()}
        self.log_dict(terms, batch_size=len(x))
        return [of_codes, of_images]

    def _autoencoder_losses(self, x: Tensor, made: Tensor, code: Tensor, random: Tensor) -> list[Tensor]:
        """Of the reconstructions ``made`` of images, of their codes (B, Z), and of random or mined codes (B, Z)."""
        latent = logistic_loss(self.code_discriminator(code), real=True)
        with untracked(self.decoder, self.image_discriminator):
            visual = logistic_loss(self.image_discriminator(self.decoder(random)), real=True)
        error = (x.float() - made.float()).square().mean()
        spread = code.detach().float().std(0, correction=0).mean()
        terms = {"latent": latent, "visual": visual, "reconstruction": error, "code_std": spread}
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, batch_size=len(x))
        return [self.latent_weight * latent, visual, self.reconstruction_weight * error]

    def configure_optimizers(self) -> list[Optimizer]:
        """Adams of the classifier, of both discriminators together, and of the autoencoder."""
        groups = ((self.classifier,), (self.code_discriminator, self.image_discriminator), (self.encoder, self.decoder))
        return [Adam([w for net in nets for w in net.parameters()], lr=self.lr, betas=BETAS) for nets in groups]


def halved(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of the losses of a discriminator for what is real and what is not, logits of any shapes."""
    return (logistic_loss(real, real=True) + logistic_loss(fake, real=False)) / 2
