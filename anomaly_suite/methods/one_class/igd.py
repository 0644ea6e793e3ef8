"""IGD: an autoencoder whose codes follow one Gaussian, kept dense by a critic that judges interpolated codes.

Paper: Chen, Tian, Pang and Carneiro, "Deep One-Class Classification via Interpolated Gaussian Descriptor", AAAI 2022.
Reference: the authors' released code (training on MVTec AD and inference), as described of it; no code read.
Differs: the centre is estimated before the variance, which the code takes around the last centre; the variance is floored
    as a whole, not batch by batch, so that neither batch size nor the number of processes matters. Partners of an
    interpolation are neighbours in the batch, where the code reverses it and pairs the middle image with itself. The critic
    learns from the reconstructions of the generator step instead of decoding again. The decoder's batch norms stay in
    training mode after an E-step. Both scopes are trained in one run; the local one on ``patches_per_step`` random patches of
    the batch, where the code takes all 225 patches of two images. Maps average colour channels evenly.
Axes: B batch, C channels, H and W pixels, D latent width, P patches of an image.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import PixelComparison, PixelSpace, away_from_zero, polynomial_decay, squared_distance
from anomaly_suite.nn.autoencoder import DescriptorAutoencoder
from anomaly_suite.nn.encoders import standardize
from anomaly_suite.nn.patches import PATCHES_AT_ONCE, PatchGrid
from anomaly_suite.nn.residual import ResidualEncoder
from anomaly_suite.nn.size import ImageSize, height_width

BETAS = (0.0, 0.9)

Scope = Literal["global", "local", "both"]


def normality(latent: Tensor, center: Tensor, variance: Tensor) -> Tensor:
    """``exp(-||z - c||^2 / s2)``, the Gaussian classifier (equation 6.6), in float32.

    Args:
        latent: Shape (B, D).
        center: Shape (D,).
        variance: A scalar, already squared.

    Returns:
        Shape (B,), in (0, 1]; 1 at the centre.
    """
    return torch.exp(-squared_distance(latent, center) / variance)


def interpolate(latent: Tensor, alpha: Tensor) -> Tensor:
    """``alpha * z + (1 - alpha) * z'`` with the next code of the batch as z'.

    Args:
        latent: Shape (B, D).
        alpha: Shape (B,).
    """
    weight = alpha.unsqueeze(1).to(latent.dtype)
    return weight * latent + (1 - weight) * latent.roll(-1, 0)


class Descriptor(nn.Module):
    """Autoencoder, Gaussian and critic of one scope.

    Args:
        encoder: ``residual`` or the name of a timm network.
        image_size: Height and width of images or patches.
        latent_dim: D.
        width: Channels at full resolution of the residual networks.
        freeze_encoder: Train only the linear layer, decoder and critic.
        rho: Weight of L1 in the reconstruction error.
        pixel_space: Where reconstructions are compared.
        critic_norm: ``layer`` as published, or ``group``, with far fewer weights at 256 pixels; null for no critic.
        critic_activation: After the critic's linear layer.
    """

    center: Tensor
    variance: Tensor

    def __init__(
        self,
        *,
        encoder: str,
        image_size: ImageSize,
        latent_dim: int,
        width: int,
        freeze_encoder: bool,
        rho: float,
        pixel_space: PixelSpace,
        critic_norm: Literal["layer", "group"] | None,
        critic_activation: Literal["none", "sigmoid", "half_sigmoid"],
    ) -> None:
        super().__init__()
        self.autoencoder = DescriptorAutoencoder(
            encoder=encoder, image_size=image_size, latent_dim=latent_dim, width=width, freeze_encoder=freeze_encoder
        )
        self.compare = PixelComparison(image_size=image_size, rho=rho, space=pixel_space)
        self.critic: ResidualEncoder | None = None
        if critic_norm is not None:
            self.critic = ResidualEncoder(
                in_channels=3, image_size=height_width(image_size), width=width, out_features=1, norm=critic_norm
            )
        self.critic_activation = critic_activation
        self.register_buffer("center", torch.empty(0))  # (D,)
        self.register_buffer("variance", torch.ones(()))

    def components(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction error (B,), abnormality ``1 - p`` (B,) and reconstruction map (B, 1, H, W)."""
        latent, reconstruction = self.autoencoder(image)
        error, error_map = self.compare.with_map(image, reconstruction)
        return error, 1 - normality(latent, self.center, self.variance), error_map

    def score(self, image: Tensor, *, xi: float) -> tuple[Tensor, Tensor]:
        """``xi`` times reconstruction error plus ``1 - xi`` times abnormality (B,), and the map (B, 1, H, W)."""
        error, abnormality, error_map = self.components(image)
        return xi * error + (1 - xi) * abnormality, error_map

    def judge(self, image: Tensor, *, train_critic: bool) -> Tensor:
        """The critic's guess of each interpolation coefficient, (B,) float32, for standardised images (B, 3, H, W).

        Without ``train_critic`` the gradient reaches the image alone.
        """
        assert self.critic is not None
        weights = {name: w if train_critic else w.detach() for name, w in self.critic.named_parameters()}
        guess: Tensor = functional_call(self.critic, weights, (image,)).float().squeeze(1)
        if self.critic_activation == "none":
            return guess
        return guess.sigmoid() * (0.5 if self.critic_activation == "half_sigmoid" else 1.0)


class IGD(AnomalyModule):
    """Interpolated Gaussian Descriptor.

    Image score: ``xi * r + (1 - xi) * h`` of a scope, r being the reconstruction error and h one minus the Gaussian
    normality; the local scope takes its highest patch; with both, ``beta`` weighs the global one. ``xi`` = 0.5 for both
    scopes ranks as the paper's sum; 0.1 and 0.9 are the released code's. The map is the reconstruction error alone.

    Args:
        scope: ``global`` for whole images, ``local`` for overlapping patches, or ``both``.
        image_size: Height and width of the images; the shorter side 8, 16, ... 256 unless the scope is local.
        patch_size: Side of the patches.
        patch_stride: Pixels from one patch to the next.
        patches_per_step: Patches a training step of the local scope; null takes all of the batch.
        encoder: Of the global scope: any timm network, or ``residual``, which suits 32-pixel images.
        encoder_weights: Of the global encoder: ``imagenet``, a file, the checkpoint or run folder of a pre-training, or null to train
            from scratch.
        local_encoder: As ``encoder``, for patches.
        local_encoder_weights: As ``encoder_weights``, for patches.
        freeze_encoder: Train only what follows the encoder; null does so for encoders with weights.
        latent_dim: D.
        width: Channels at full resolution of decoder, critic and residual encoder.
        gaussian_weight: Weight of the Gaussian classifier's loss, lambda 2.
        interpolation_weight: Weight of fooling the critic, lambda 3; 0 trains without critic.
        rho: Weight of L1 in the reconstruction error; the rest is MS-SSIM's.
        pixel_space: Compare images as the networks see them, or scaled back to [0, 1].
        critic_norm: ``layer`` as published, or ``group``, with far fewer weights at 256 pixels.
        critic_activation: ``none``, ``sigmoid`` as in the released patch critic, or ``half_sigmoid``, whose range is that of
            the target.
        zeta: Share of the image in the critic's second input; null draws it uniformly for each image as printed, the
            released code has 0.2.
        e_step_every: Epochs between estimates of centre and variance; there is one before the first and after the last.
        clamp_center: Move components of the centre within 0.1 of zero to 0.1.
        variance_floor: Smallest variance.
        xi_global: Share of the reconstruction error in the global score.
        xi_local: The same for patches.
        beta: Share of the global score where both scopes are used.
        lr: Learning rate of both Adams; it falls polynomially to 0 over the run.
        weight_decay: Of the generator's.

    Shapes: images (B, 1 or 3, H, W) in [0, 1]; score (B,); map (B, 1, H, W).

    Raises:
        ConfigError: an option outside its range, or sizes that do not fit.
    """

    def __init__(
        self,
        *,
        scope: Scope = "global",
        image_size: ImageSize = 256,
        patch_size: int = 32,
        patch_stride: int = 16,
        patches_per_step: int | None = 450,
        encoder: str = "resnet18",
        encoder_weights: str | None = "imagenet",
        local_encoder: str = "residual",
        local_encoder_weights: str | None = None,
        freeze_encoder: bool | None = None,
        latent_dim: int = 128,
        width: int = 64,
        gaussian_weight: float = 1.0,
        interpolation_weight: float = 0.1,
        rho: float = 0.15,
        pixel_space: PixelSpace = "standardized",
        critic_norm: Literal["layer", "group"] = "layer",
        critic_activation: Literal["none", "sigmoid", "half_sigmoid"] = "none",
        zeta: float | None = None,
        e_step_every: int = 10,
        clamp_center: bool = True,
        variance_floor: float = 1.0,
        xi_global: float = 0.1,
        xi_local: float = 0.9,
        beta: float = 0.5,
        lr: float = 1e-4,
        weight_decay: float = 1e-6,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        shares = {"xi_global": xi_global, "xi_local": xi_local, "beta": beta, "zeta": 0.0 if zeta is None else zeta}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} must be between 0 and 1; got {share}. See the defaults of IGD.")
        if e_step_every < 1:
            raise ConfigError(f"e_step_every must be at least 1 epoch; got {e_step_every}. The paper uses 10.")
        self.scope = scope
        self.patches = PatchGrid(size=patch_size, stride=patch_stride)
        self.patches_per_step = patches_per_step
        self.weights = {"global": encoder_weights, "local": local_encoder_weights}
        self.xi = {"global": xi_global, "local": xi_local}
        self.beta = {"global": 1.0, "local": 0.0, "both": beta}[scope]
        self.gaussian_weight = gaussian_weight
        self.interpolation_weight = interpolation_weight
        self.zeta = zeta
        self.e_step_every = e_step_every
        self.clamp_center = clamp_center
        self.variance_floor = variance_floor
        self.lr = lr
        self.weight_decay = weight_decay
        self._estimated = False  # whether the last epoch's E-step is done
        names = {"global": encoder, "local": local_encoder}
        sizes = {"global": image_size, "local": patch_size}
        self.descriptors = nn.ModuleDict(
            {
                name: Descriptor(
                    encoder=names[name],
                    image_size=sizes[name],
                    latent_dim=latent_dim,
                    width=width,
                    freeze_encoder=self.weights[name] is not None if freeze_encoder is None else freeze_encoder,
                    rho=rho,
                    pixel_space=pixel_space,
                    critic_norm=critic_norm if interpolation_weight else None,
                    critic_activation=critic_activation,
                )
                for name in (("global", "local") if scope == "both" else (scope,))
            }
        )

    @property
    def is_fitted(self) -> bool:
        """Whether the Gaussians have been estimated."""
        return all(part.center.numel() > 0 for _, part in self._parts())

    def _parts(self) -> list[tuple[str, Descriptor]]:
        return [(name, part) for name, part in self.descriptors.items() if isinstance(part, Descriptor)]

    def load_pretrained(self) -> None:
        """Load the encoders' weights."""
        for name, part in self._parts():
            part.autoencoder.encoder.load_weights(self.weights[name])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,), in [0, 1] while reconstructions stay in the range of images, and ``anomaly_map``
            (B, 1, H, W); with both scopes the mean of their maps.
        """
        scores, maps = {}, {}
        for name, part in self._parts():
            score = partial(part.score, xi=self.xi[name])
            scores[name], maps[name] = score(image) if name == "global" else self.patches.score(image, score)
        if self.scope != "both":
            return scores[self.scope], maps[self.scope]
        return (
            self.beta * scores["global"] + (1 - self.beta) * scores["local"],
            (maps["global"] + maps["local"]) / 2,
        )

    def on_train_epoch_start(self) -> None:
        """E-step before the first epoch and every ``e_step_every`` epochs."""
        self._estimated = False
        if self.current_epoch % self.e_step_every == 0 or not self.is_fitted:
            self.estimate()

    def fit_statistics(self) -> None:
        """E-step after the last epoch, once, before it is validated."""
        if self.current_epoch + 1 == self.trainer.max_epochs and not self._estimated:
            self.estimate()
            self._estimated = True

    @torch.no_grad()
    def estimate(self) -> None:
        """E-step: mean code, then mean squared distance to it, over the training images or all of their patches.

        One pass: the squared distance follows from the sums of codes and of their squared norms, kept in float64.
        """
        modes = {module: module.training for module in self.modules()}
        self.eval()
        totals = {
            name: torch.zeros(part.autoencoder.projection.out_features + 2, dtype=torch.float64, device=self.device)
            for name, part in self._parts()
        }  # sum of codes, sum of squared norms, count
        for image in self.training_images():
            for name, part in self._parts():
                pieces = [image] if name == "global" else torch.split(self.patches.cut(image), PATCHES_AT_ONCE)
                for piece in pieces:
                    code = part.autoencoder.encode(piece).double()
                    totals[name] += torch.cat([code.sum(0), (code**2).sum().view(1), code.new_tensor([len(code)])])
        for name, part in self._parts():
            total = self.sum_over_ranks(totals[name])
            mean, mean_square = total[:-2] / total[-1], total[-2] / total[-1]
            center = away_from_zero(mean) if self.clamp_center else mean
            variance = mean_square - 2 * (center * mean).sum() + (center**2).sum()
            part.center = center.float()
            part.variance = variance.clamp_min(self.variance_floor).float()
        for module, mode in modes.items():
            module.training = mode

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One generator and one critic step of every scope."""
        generator = self.step_generator(batch_idx)
        rate = self.lr * polynomial_decay(self.training_progress(batch_idx))
        optimizers = self.optimizers(use_pl_optimizer=True)
        steps: list[Any] = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in steps:
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses, judged = [], []
        for name, part in self._parts():
            image = batch["image"]
            if name == "local":
                image = self.patches.sample(image, self.patches_per_step, generator=generator)
            loss, pair = self._generator_loss(name, part, image, generator)
            losses.append(loss)
            judged.append((part, image, *pair))
        self._step(steps[0], torch.stack(losses).sum(), idle=[part.critic for _, part in self._parts()])
        if self.interpolation_weight:
            critic_loss = torch.stack([self._critic_loss(*inputs, generator) for inputs in judged]).sum()
            self.log("train/critic", critic_loss, batch_size=len(batch["image"]))
            self._step(steps[1], critic_loss, idle=[part.autoencoder for _, part in self._parts()])

    def _generator_loss(
        self, name: str, part: Descriptor, image: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        latent, reconstruction = part.autoencoder(image)
        probability = normality(latent, part.center, part.variance).mean()
        error = part.compare(image, reconstruction).mean()
        loss = error + self.gaussian_weight * (1 - probability)
        # A code has no partner in a batch of one: its interpolation is itself, with coefficient 0.
        alpha = torch.rand(len(image), generator=generator, device=self.device) / 2 * (len(image) > 1)
        mixed = reconstruction
        if self.interpolation_weight:
            mixed = part.autoencoder.decoder(interpolate(latent, alpha))
            loss = loss + self.interpolation_weight * (part.judge(mixed, train_critic=False) ** 2).mean()
        prefix = f"train/{name}_" if self.scope == "both" else "train/"
        values = {"loss": loss, "reconstruction": error, "normality": probability}
        self.log_dict({prefix + key: value.detach() for key, value in values.items()}, batch_size=len(image))
        return loss, (reconstruction.detach(), mixed.detach(), alpha)

    def _critic_loss(
        self,
        part: Descriptor,
        image: Tensor,
        reconstruction: Tensor,
        mixed: Tensor,
        alpha: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        zeta = torch.rand(len(image), 1, 1, 1, generator=generator, device=self.device)
        zeta = zeta if self.zeta is None else torch.full_like(zeta, self.zeta)
        real = zeta * standardize(image) + (1 - zeta) * reconstruction
        guess = part.judge(torch.cat([mixed, real.to(mixed.dtype)]), train_critic=True)
        guess_mixed, guess_real = guess.chunk(2)
        return ((guess_mixed - alpha) ** 2).mean() + (guess_real**2).mean()

    def _step(self, optimizer: Any, loss: Tensor, *, idle: list[Any]) -> None:
        if self.trainer.world_size > 1:  # DDP waits for a gradient of every parameter
            unused = [p.sum() for part in idle if part is not None for p in part.parameters() if p.requires_grad]
            loss = loss + 0.0 * torch.stack(unused).sum() if unused else loss
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for encoder (unless frozen), linear layer and decoder; another for the critic."""
        parts = [part for _, part in self._parts()]
        weights = [p for part in parts for p in part.autoencoder.parameters() if p.requires_grad]
        optimizers: list[Optimizer] = [Adam(weights, lr=self.lr, betas=BETAS, weight_decay=self.weight_decay)]
        if self.interpolation_weight:
            judges = [p for part in parts if part.critic is not None for p in part.critic.parameters()]
            optimizers.append(Adam(judges, lr=self.lr, betas=BETAS))
        return optimizers
