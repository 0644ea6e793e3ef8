"""ADGAN: a GAN draws normal images, a second one learns the way back to their codes; what is drawn anew without its lesion is anomalous.

Paper: Liu, Tian et al., "Photoshopping Colonoscopy Video Frames", ISBI 2020; Tian, thesis, ch. 3. Not the ADGAN of Deecke et al.
Reference: no code was released; the visual GAN is WGAN-GP's residual one with the widths of the thesis.
Differs: the critic's loss is fake minus real, and its penalty lies between them; as printed, the critic raises what it should lower, and
    so does the generator, and the penalty is taken at generated images. The latent losses are printed with the other sign, and that of
    the generator saturates where it loses; ours does not. The squared error of codes is a mean over Z, so that its weight means the same
    whatever Z is. One iteration is one step of the generator. The thesis is silent on Z, on penalty weight, critic steps, norms of the
    critic and Adam's betas: WGAN-GP's, and DCGAN's for the latent pair; on the last activation of the encoder: tanh, the range of the prior.
    A discriminator of codes has linear layers: a convolution of a 1 x 1 map is one. Both parts of the latent step see the same generated
    images. ``izi_weight`` is not in the paper: in training its encoder never sees a real image.
Axes: B batch, C channels, H and W pixels, Z latent width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import residual_scores
from anomaly_suite.nn.adversarial import CodeDiscriminator, between, critic_loss, gradient_norm, logistic_loss
from anomaly_suite.nn.dcgan import DCGANEncoder, dcgan_weights, default_widths, to_signed, to_unit
from anomaly_suite.nn.residual import ResidualDecoder, ResidualEncoder, glorot_weights
from anomaly_suite.nn.size import ImageSize, height_width

CODE_WIDTHS = (256, 128, 64)  # of the discriminator of codes
VISUAL_BETAS = (0.0, 0.9)  # of WGAN-GP's Adams
LATENT_BETAS = (0.5, 0.999)  # of DCGAN's


class ADGAN(AnomalyModule):
    """WGAN-GP on normal images, then together with it a latent GAN that finds the codes of what it draws.

    Epochs before ``gan_epochs`` train generator and critic alone; later ones all four networks. Give the trainer ``max_epochs`` of both
    phases together. Every batch is a step of the critic; after ``critic_steps`` of them comes one of the generator, in the second phase one of the
    discriminator of codes and one of generator and encoder together. In the first phase the module is unfitted. Without anomalies to validate
    with, the lowest mean score of held-out normals chooses the epoch.

    The score is the summed squared error of the image that is drawn from its own code, the map its mean over channels, on the scale of [-1, 1].
    Flat images are drawn well whatever they show. The generator can hide the code in what nobody sees: ``train/real_error``, the mean
    squared error of training images, then rises while ``train/cycle`` falls; ``detach_visual`` or an ``izi_weight`` keeps it from that.

    Args:
        gan_epochs: Epochs of the first phase; 1932 are 80,000 steps of the generator on 13,250 images in batches of 64, 2415 those of both.
        in_channels: C.
        image_size: Height and width of the images, divisible by two as often as there are widths.
        widths: Channels of each level, outermost first; null doubles from 64 up to 512 until 4 cells are left.
        latent_dim: Z; codes are drawn from U(-1, 1).
        critic_steps: Of the critic for each one of the generator.
        penalty_weight: Of the gradient's norm, lambda.
        latent_weight: Of deceiving the discriminator of codes, alpha; 0.1 to 10 in the thesis, as the next.
        cycle_weight: Of the squared error of codes, beta.
        izi_weight: Of the mean squared error of training images drawn from their own codes; 0 as published.
        detach_visual: Keep the gradients of these three losses from the generator.
        lr: Learning rate of all Adams.

    Shapes: images (B, C, H, W) in [0, 1]; score (B,); map (B, 1, H, W).

    Raises:
        ConfigError: an option outside its range, or sizes that do not fit.
    """

    has_encoder: Tensor
    turn: Tensor

    def __init__(
        self,
        *,
        gan_epochs: int = 1932,
        in_channels: int = 3,
        image_size: ImageSize = 64,
        widths: Sequence[int] | None = None,
        latent_dim: int = 128,
        critic_steps: int = 5,
        penalty_weight: float = 10.0,
        latent_weight: float = 1.0,
        cycle_weight: float = 1.0,
        izi_weight: float = 0.0,
        detach_visual: bool = False,
        lr: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,)
        self.automatic_optimization = False
        if gan_epochs < 1 or critic_steps < 1:
            raise ConfigError(
                f"gan_epochs and critic_steps must be at least 1; got {gan_epochs} and {critic_steps}. "
                "An encoder has nothing to find before the generator is trained, nor a generator without a critic."
            )
        self.gan_epochs, self.critic_steps, self.penalty_weight = gan_epochs, critic_steps, penalty_weight
        self.latent_weight, self.cycle_weight, self.izi_weight = latent_weight, cycle_weight, izi_weight
        self.detach_visual, self.latent_dim, self.lr = detach_visual, latent_dim, lr
        size = height_width(image_size)
        levels = tuple(widths or default_widths(size))
        decoder = ResidualDecoder(
            in_features=latent_dim, out_channels=in_channels, image_size=size, channels=(*levels, levels[-1])
        )
        self.generator = nn.Sequential(decoder, nn.Tanh())
        self.critic = ResidualEncoder(
            in_channels=in_channels, image_size=size, channels=(levels[0], *levels), out_features=1, norm="group"
        )
        encoder = DCGANEncoder(in_channels=in_channels, image_size=size, widths=levels, out_features=latent_dim)
        self.encoder = nn.Sequential(encoder, nn.Tanh())
        self.discriminator = CodeDiscriminator(latent_dim, CODE_WIDTHS)
        dcgan_weights(encoder)
        for net in (self.generator, self.critic, encoder.head, self.discriminator):
            glorot_weights(net)
        # 1 once the second phase has begun, and steps of the critic since the generator's last.
        self.register_buffer("has_encoder", torch.tensor(0.0))
        self.register_buffer("turn", torch.tensor(0))

    @property
    def unfinished(self) -> str | None:
        """The phase of the visual GAN."""
        if self.has_encoder:
            return None
        return (
            f"it has not left its first phase, which trains the visual GAN for gan_epochs={self.gan_epochs} epochs; its encoder is not "
            "trained. Run fit first, for more epochs than that, or lower gan_epochs."
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Summed squared error (B,) and its mean over channels (B, 1, H, W), on the scale of [-1, 1].

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        x = to_signed(image)
        return residual_scores(x, self.generator(self.encoder(x)))

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1], drawn from their own codes."""
        return Reconstruction(to_unit(self.generator(self.encoder(to_signed(image)))))

    def on_train_start(self) -> None:
        """Warn if the encoder would stay untrained."""
        steps = 1 + 1 / self.critic_steps
        self.warn_of_first_phase("trains its visual GAN", "gan_epochs", self.gan_epochs, steps=steps)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A critic step; after every ``critic_steps`` of them the others."""
        joint = self.current_epoch >= self.gan_epochs
        # Set in every step: a run that is resumed within an epoch does not start that epoch.
        self.encoder.train(joint)
        if joint:
            self.has_encoder.fill_(1)
        x, draws = to_signed(batch["image"]), self.step_generator(batch_idx)
        generator, critic, encoder, discriminator = cast(list[Any], self.optimizers())
        self.step_alone(critic, losses=[self._critic_loss(x, draws)])
        self.turn += 1
        if self.turn < self.critic_steps:
            return
        self.turn.zero_()
        code = self.sample(x, draws)
        fake = self.generator(code)
        if not joint:
            self.step_alone(generator, losses=[self._visual_loss(fake)])
            return
        found = self.encoder(fake.detach() if self.detach_visual else fake)
        self.step_alone(discriminator, losses=[self._discriminator_loss(found.detach(), self.sample(x, draws))])
        self.step_alone(generator, encoder, losses=[self._visual_loss(fake), *self._latent_losses(x, code, found)])

    def sample(self, like: Tensor, draws: Generator) -> Tensor:
        """As many codes (B, Z) as there are images (B, C, H, W), from U(-1, 1)."""
        shape = (len(like), self.latent_dim)
        return to_signed(torch.rand(shape, generator=draws, dtype=like.dtype, device=like.device))

    def _critic_loss(self, x: Tensor, draws: Generator) -> Tensor:
        with torch.no_grad():
            fake = self.generator(self.sample(x, draws)).to(x.dtype)
        of_real, of_fake = self.critic(torch.cat([x, fake])).float().chunk(2)
        norm = gradient_norm(self.critic, between(x, fake, generator=draws))
        distance = (of_real.mean() - of_fake.mean()).detach()
        self.log_dict({"train/wasserstein": distance, "train/gradient_norm": norm.detach().mean()})
        return critic_loss(of_real, of_fake, norm, penalty_weight=self.penalty_weight)

    def _visual_loss(self, fake: Tensor) -> Tensor:
        loss: Tensor = -self.critic(fake).float().mean()
        self.log("train/generator", loss.detach(), batch_size=len(fake))
        return loss

    def _discriminator_loss(self, found: Tensor, drawn: Tensor) -> Tensor:
        of_drawn, of_found = self.discriminator(torch.cat([drawn, found.to(drawn.dtype)])).chunk(2)
        loss = logistic_loss(of_drawn, real=True) + logistic_loss(of_found, real=False)
        self.log("train/discriminator", loss.detach(), batch_size=len(drawn))
        return loss

    def _latent_losses(self, x: Tensor, code: Tensor, found: Tensor) -> list[Tensor]:
        """Of the codes (B, Z) that were drawn and found, and of training images drawn anew."""
        latent = logistic_loss(self.discriminator(found), real=True)
        cycle = (code.float() - found.float()).square().mean()
        losses = [self.latent_weight * latent, self.cycle_weight * cycle]
        with torch.set_grad_enabled(self.izi_weight > 0):
            error = self._real_error(x)
        if self.izi_weight:
            losses.append(self.izi_weight * error)
        terms = {"train/latent": latent, "train/cycle": cycle, "train/real_error": error}
        self.log_dict({name: value.detach() for name, value in terms.items()}, batch_size=len(x))
        return losses

    def _real_error(self, x: Tensor) -> Tensor:
        """Mean squared error of training images; without ``izi_weight`` it is looked at alone, and moves no running statistics."""
        self.generator.train(self.izi_weight > 0)
        self.encoder.train(self.izi_weight > 0)
        weights: dict[str, Tensor] = dict(self.generator.named_parameters())
        if self.detach_visual:
            weights = {name: weight.detach() for name, weight in weights.items()}
        drawn: Tensor = functional_call(self.generator, weights, (self.encoder(x),))
        self.generator.train()
        self.encoder.train()
        return (x.float() - drawn.float()).square().mean()

    def configure_optimizers(self) -> list[Optimizer]:
        """Adams of generator, critic, encoder and discriminator of codes."""
        visual, latent = (self.generator, self.critic), (self.encoder, self.discriminator)
        return [
            *(Adam(net.parameters(), lr=self.lr, betas=VISUAL_BETAS) for net in visual),
            *(Adam(net.parameters(), lr=self.lr, betas=LATENT_BETAS) for net in latent),
        ]
