"""f-AnoGAN: a GAN learns normal images, then an encoder learns to invert it; what the pair cannot reconstruct is anomalous.

Paper: Schlegl et al., "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks", Medical Image
    Analysis 54, 2019. Whole images beside patches, and the residual of encoder latents: Tian, thesis, ch. 4 (equation 4.7).
Reference: the authors' released code (tSchlegl/f-AnoGAN), read for its constants and initial weights, not copied; all else as described
    of it and of the WGAN-GP code that it builds on.
Differs: the encoder is shared with the other methods; the residual one ends with two linear layers (8192 to 512 to Z)
    instead of one. Constants of RMSprop and initial weights are torch's; the released code has those of TensorFlow (``encoder_alpha``
    0.9, 1e-10 under the root) and draws weights after Glorot and He (``initialization: released``). Its batch norms have momentum
    0.99 and an epsilon of 1e-3, ours 0.9 (0.1 in torch's words) and 1e-5. Residuals are mean squared errors as in the released
    code, where equation 4.7 prints norms. Both scopes are trained in one run, the local one on random patches of the batch.
Axes: B batch, C channels, H and W pixels, Z latent width, S scopes.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.adversarial import between, critic_loss, gradient_norm
from anomaly_suite.nn.dcgan import to_signed, to_unit
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.patches import PatchGrid
from anomaly_suite.nn.residual import ResidualDecoder, ResidualEncoder, glorot_weights
from anomaly_suite.nn.scopes import Scope, ScopeOptions, Scopes
from anomaly_suite.nn.size import ImageSize, height_width, require_image

CRITIC_STEPS = 5  # n_critic of WGAN-GP: for each step of the generator
BETAS = (0.0, 0.9)  # of the Adams


def mean_square(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of each row, (B, ...) to (B,), in float32."""
    return (first.float() - second.float()).square().flatten(1).mean(1)


class EncodedGAN(nn.Module):
    """Generator, critic and encoder for images of one size.

    Args:
        in_channels: C.
        image_size: (H, W).
        latent_dim: Z.
        width: Channels at full resolution of the residual networks.
        encoder: ``residual`` or the name of a timm network.
    """

    def __init__(
        self, *, in_channels: int, image_size: tuple[int, int], latent_dim: int, width: int, encoder: str
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        self.latent_dim = latent_dim
        self.generator = nn.Sequential(
            ResidualDecoder(in_features=latent_dim, out_channels=in_channels, image_size=image_size, width=width),
            nn.Tanh(),
        )
        self.critic = ResidualEncoder(
            in_channels=in_channels, image_size=image_size, width=width, out_features=1, norm="layer"
        )
        self.encoder = ImageEncoder(encoder, image_size=image_size, width=width)
        self.head = nn.Linear(self.encoder.out_features, latent_dim)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to codes (B, Z) in (-1, 1), the dense region of the generator's N(0, I).

        Raises:
            ShapeError: images of another size.
        """
        require_image(x, channels=self.in_channels, size=self.image_size)
        code: Tensor = self.head(self.encoder((x + 1) / 2))
        return code.tanh()

    def sample(self, count: int, *, like: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw codes from N(0, I), and generate images from them.

        Args:
            count: N.
            like: A tensor of any shape, with the type and device that the codes get.
            generator: Source of the codes.

        Returns:
            Codes (N, Z), and images (N, C, H, W) in [-1, 1].
        """
        code = torch.randn(count, self.latent_dim, generator=generator, dtype=like.dtype, device=like.device)
        return code, self.generator(code)


class FAnoGAN(AnomalyModule):
    """WGAN-GP on normal images, then an encoder that inverts its generator.

    Epochs before ``gan_epochs`` train generator and critic; all later ones the encoder, with both at rest. Give the trainer
    ``max_epochs`` of both phases together. In the first phase the module is unfitted. It is validated all the same, with an encoder
    that is not trained: the scores say nothing yet, and those of different epochs are not comparable, because the critic's
    features change. Keep the last epoch, not the one with the best validation score.

    The score of an image is its image residual, the mean squared error of the reconstruction; for ``izif`` plus ``kappa``
    times its feature residual (not with ``score: image``). The map is the absolute error, averaged over channels. With the scope
    ``local`` the score is that of the highest patch and the map an average where patches overlap; with ``both``, scores and maps
    are summed.

    Args:
        variant: What trains the encoder: ``izif`` image and feature residual, ``izi`` the image residual alone, ``ziz`` how
            well it finds the code that an image was generated from.
        gan_epochs: Epochs of the first phase; 1200 are 20,000 generator steps on 5,400 images in batches of 64.
        kappa: Weight of the feature residual.
        score: ``weighted``, what trains the encoder; ``image``, the image residual alone, of an encoder trained in any way.
        feature: ``critic`` compares the critic's last features; ``encoder`` the codes, as equation 4.7 prints.
        scope: ``global`` for whole images, ``local`` for overlapping patches, or ``both``.
        in_channels: C, 1 or 3.
        image_size: Height and width of the images; the shorter side 8, 16, ... 256 unless the scope is local.
        patch_size: Side of the patches.
        patch_stride: Pixels from one patch to the next.
        patches_per_step: Patches a training step of the local scope, drawn from the batch.
        encoder: Of the global scope: ``residual``, or any timm network; it is trained in either case.
        encoder_weights: What it starts from: ``imagenet``, a file, the checkpoint or run folder of a pre-training, or null for random
            weights.
        local_encoder: As ``encoder``, for patches.
        local_encoder_weights: As ``encoder_weights``, for patches.
        latent_dim: Z.
        width: Channels at full resolution of the residual networks.
        lr: Learning rate of the Adams of generator and critic.
        encoder_lr: Learning rate of the encoder's RMSprop.
        encoder_alpha: Its smoothing constant.
        encoder_eps: Added to its root of the mean square; TensorFlow's 1e-10 under the root is like 1e-5 beside it.
        initialization: Of generator, critic and residual encoder: ``torch``, or ``released``, see
            :func:`~anomaly_suite.nn.residual.glorot_weights`.

    Shapes: images (B, C, H, W) in [0, 1]; score (B,); map (B, 1, H, W).

    Raises:
        ConfigError: an option outside its range, or sizes that do not fit.
    """

    has_encoder: Tensor

    def __init__(
        self,
        *,
        variant: Literal["izif", "izi", "ziz"] = "izif",
        gan_epochs: int = 1200,
        kappa: float = 1.0,
        score: Literal["weighted", "image"] = "weighted",
        feature: Literal["critic", "encoder"] = "critic",
        scope: Scope = "global",
        in_channels: int = 3,
        image_size: ImageSize = 64,
        patch_size: int = 32,
        patch_stride: int = 16,
        patches_per_step: int = 64,
        encoder: str = "residual",
        encoder_weights: str | None = None,
        local_encoder: str = "residual",
        local_encoder_weights: str | None = None,
        latent_dim: int = 128,
        width: int = 64,
        lr: float = 1e-4,
        encoder_lr: float = 5e-5,
        encoder_alpha: float = 0.99,
        encoder_eps: float = 1e-8,
        initialization: Literal["torch", "released"] = "torch",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,)
        self.automatic_optimization = False
        _check_options(gan_epochs, patches_per_step, in_channels, encoder_alpha, encoder_eps)
        self.variant, self.gan_epochs, self.kappa = variant, gan_epochs, kappa
        self.feature, self.score = feature, score
        self.lr, self.encoder_lr = lr, encoder_lr
        self.encoder_alpha, self.encoder_eps = encoder_alpha, encoder_eps

        def build(it: ScopeOptions) -> EncodedGAN:
            """The networks of one scope."""
            size = height_width(it.image_size)
            part = EncodedGAN(
                in_channels=in_channels, image_size=size, latent_dim=latent_dim, width=width, encoder=it.encoder
            )
            if initialization == "released":
                own = [part.encoder, part.head] if it.encoder == "residual" else []
                for net in (part.generator, part.critic, *own):
                    glorot_weights(net)
            return part

        self.scopes = Scopes(
            build,
            scope=scope,
            whole=ScopeOptions("global", image_size, encoder, encoder_weights),
            patch=ScopeOptions("local", patch_size, local_encoder, local_encoder_weights),
            patches=PatchGrid(size=patch_size, stride=patch_stride),
            per_step=patches_per_step,
        )
        # 1 once the second phase has begun; a float, because weight averaging takes no booleans.
        self.register_buffer("has_encoder", torch.tensor(0.0))

    @property
    def unfinished(self) -> str | None:
        """The phase of the GAN."""
        if self.has_encoder:
            return None
        return (
            f"it has not left its first phase, which trains the GAN for gan_epochs={self.gan_epochs} epochs; its encoder is not "
            "trained. Run fit first, for more epochs than that, or lower gan_epochs."
        )

    def load_pretrained(self) -> None:
        """Load the encoders' weights."""
        self.scopes.load_encoder_weights()

    def residuals(self, part: EncodedGAN, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruct images and compare.

        Args:
            part: The networks of a scope.
            x: Shape (B, C, H, W), in [-1, 1].

        Returns:
            Reconstructions like ``x``, and by name the residuals of each image (B,): ``image_residual``, and for ``izif``
            also ``feature_residual``.
        """
        code = part.encode(x)
        reconstruction = part.generator(code)
        terms = {"image_residual": mean_square(x, reconstruction)}
        if self.variant == "izif":
            if self.feature == "critic":
                terms["feature_residual"] = mean_square(part.critic.features(x), part.critic.features(reconstruction))
            else:
                terms["feature_residual"] = mean_square(code, part.encode(reconstruction))
        return reconstruction, terms

    def weigh(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of :meth:`residuals`, (B,)."""
        if "feature_residual" in terms:
            return terms["image_residual"] + self.kappa * terms["feature_residual"]
        return terms["image_residual"]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W), on the scale of [-1, 1].

        Raises:
            ShapeError: images of another size than ``image_size``, or for the local scope smaller than a patch.
        """
        scores, maps = self.scopes.score(to_signed(image), self._score)
        return scores.sum(0), maps.sum(0)

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1] and what the generator makes of their codes, or of those of their patches."""
        rebuilt = self.scopes.rebuild(to_signed(image), lambda part, x: part.generator(part.encode(x)))
        return Reconstruction(to_unit(rebuilt))

    def _score(self, part: EncodedGAN, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction, terms = self.residuals(part, x)
        score = terms["image_residual"] if self.score == "image" else self.weigh(terms)
        return score, (x.float() - reconstruction.float()).abs().mean(1, keepdim=True)

    def on_train_start(self) -> None:
        """Warn if the encoder would stay untrained."""
        self.warn_of_first_phase("trains its GAN", "gan_epochs", self.gan_epochs, steps=1 + 1 / CRITIC_STEPS)

    def at_rest(self) -> list[nn.Module]:
        """Generator and critic, in the phase of the encoder, which learns to invert this generator."""
        parts = self.scopes.parts() if self.current_epoch >= self.gan_epochs else []
        return [net for part in parts for net in (part.generator, part.critic)]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A critic step and after every fifth one a generator step; in the second phase an encoder step."""
        first_phase = self.current_epoch < self.gan_epochs
        for part in self.scopes.parts():
            # Set in every step: a run that is resumed within an epoch does not start that epoch.
            part.generator.train(first_phase)
            part.critic.train(first_phase)
        generator = self.step_generator(batch_idx)
        inputs = list(self.scopes.training_inputs(to_signed(batch["image"]), generator=generator))
        for _, part, x in inputs:
            require_image(x, channels=part.in_channels, size=part.image_size)
        generator_optimizer, critic_optimizer, encoder_optimizer = cast(list[Any], self.optimizers())
        if not first_phase:
            self.has_encoder.fill_(1)
            self.step_alone(encoder_optimizer, losses=[self._encoder_loss(*part, generator) for part in inputs])
            return
        self.step_alone(critic_optimizer, losses=[self._critic_loss(*part, generator) for part in inputs])
        # The trainer counts the steps of all optimizers, and a checkpoint keeps its count.
        if self.global_step % (CRITIC_STEPS + 1) == CRITIC_STEPS:
            self.step_alone(generator_optimizer, losses=[self._generator_loss(*part, generator) for part in inputs])

    def _critic_loss(self, prefix: str, part: EncodedGAN, x: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            _, fake = part.sample(len(x), like=x, generator=generator)
        of_real, of_fake = part.critic(torch.cat([x, fake.to(x.dtype)])).float().chunk(2)
        norm = gradient_norm(part.critic, between(x, fake, generator=generator))
        distance = (of_real.mean() - of_fake.mean()).detach()
        values = {"wasserstein": distance, "gradient_norm": norm.detach().mean()}
        self.log_dict({prefix + name: value for name, value in values.items()}, batch_size=len(x))
        return critic_loss(of_real, of_fake, norm)

    def _generator_loss(self, prefix: str, part: EncodedGAN, x: Tensor, generator: Generator) -> Tensor:
        _, fake = part.sample(len(x), like=x, generator=generator)
        loss: Tensor = -part.critic(fake).float().mean()
        self.log(prefix + "generator", loss.detach(), batch_size=len(x))
        return loss

    def _encoder_loss(self, prefix: str, part: EncodedGAN, x: Tensor, generator: Generator) -> Tensor:
        if self.variant == "ziz":
            code, fake = part.sample(len(x), like=x, generator=generator)
            terms = {"code_residual": mean_square(code, part.encode(fake))}
            loss = terms["code_residual"]
        else:
            _, terms = self.residuals(part, x)
            loss = self.weigh(terms)
        self.log_dict({prefix + name: value.detach().mean() for name, value in terms.items()}, batch_size=len(x))
        return loss.mean()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}has_encoder", torch.tensor(1.0))  # unknown of checkpoints of former versions
        super()._load_from_state_dict(state_dict, prefix, *args)

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for the generators, Adam for the critics, RMSprop for the encoders."""
        parts = self.scopes.parts()
        generators = [w for part in parts for w in part.generator.parameters()]
        critics = [w for part in parts for w in part.critic.parameters()]
        encoders = [w for part in parts for net in (part.encoder, part.head) for w in net.parameters()]
        return [
            Adam(generators, lr=self.lr, betas=BETAS),
            Adam(critics, lr=self.lr, betas=BETAS),
            RMSprop(encoders, lr=self.encoder_lr, alpha=self.encoder_alpha, eps=self.encoder_eps),
        ]


def _check_options(
    gan_epochs: int, patches_per_step: int, in_channels: int, encoder_alpha: float, encoder_eps: float
) -> None:
    if gan_epochs < 1 or patches_per_step < 1:
        raise ConfigError(
            f"gan_epochs and patches_per_step must be at least 1; got {gan_epochs} and {patches_per_step}. "
            "An encoder has nothing to invert before the generator is trained."
        )
    if in_channels not in (1, 3):
        raise ConfigError(
            f"in_channels must be 1 or 3, which the encoder takes; got {in_channels}. Give grey or RGB images."
        )
    if not 0 <= encoder_alpha < 1 or encoder_eps <= 0:
        raise ConfigError(
            f"encoder_alpha must be in [0, 1) and encoder_eps above 0; got {encoder_alpha} and {encoder_eps}. Released: 0.9 and 1e-5."
        )
