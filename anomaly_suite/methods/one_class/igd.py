"""IGD: an autoencoder whose codes follow one Gaussian, kept dense by a critic that predicts interpolation coefficients.

Paper: Chen, Tian, Pang and Carneiro, "Deep One-Class Classification via Interpolated Gaussian Descriptor", AAAI 2022.
Reference: the authors' released code (training on MVTec AD and inference), as described of it; only its maps were read.
Differs: the centre is estimated before the variance, which the code takes around the last centre; the variance is floored
    as a whole, not batch by batch, so that neither batch size nor the number of processes matters. Partners of an
    interpolation are neighbours in the batch, where the code reverses it and pairs the middle image with itself. The critic
    learns from the reconstructions of the generator step instead of decoding again. The decoder's batch norms stay in training
    mode after an E-step. Both scopes are trained in one run; the local one on ``patches_per_step`` random patches of the batch,
    where the code takes all 225 patches of two images. Maps average colour channels evenly, and the SSIM maps of each scale,
    which lack a border of half a window, are continued by their outermost values and enlarged bilinearly; the code stretches
    them to the image by their nearest values and weighs colours as grey values do. MS-SSIM has five scales and a window of 11
    from 176 pixels on, four and 3 for smaller images as published for 32, as far as they fit.
Axes: B batch, C channels, H and W pixels, D latent width.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.contract.precision import KeepsStatistics
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import (
    PixelComparison,
    PixelSpace,
    away_from_zero,
    polynomial_decay,
    squared_distance,
    with_idle_weights,
)
from anomaly_suite.nn.autoencoder import DescriptorAutoencoder
from anomaly_suite.nn.critic import ALPHA_MAX, InterpolationCritic, interpolate
from anomaly_suite.nn.encoders import destandardize, standardize
from anomaly_suite.nn.patches import PatchGrid
from anomaly_suite.nn.scopes import Scope, ScopeOptions, Scopes, mix_scores
from anomaly_suite.nn.size import ImageSize

BETAS = (0.0, 0.9)  # of both Adams


def normality(latent: Tensor, center: Tensor, variance: Tensor) -> Tensor:
    """``p = exp(-||z - c||^2 / s2)``, the Gaussian classifier (equation 6.6), in float32.

    Codes (B, D), their centre (D,) and variance, a scalar, already squared, to (B,), in (0, 1]; 1 at the centre.
    """
    return torch.exp(-squared_distance(latent, center) / variance)


def critic_loss(of_mixed: Tensor, alpha: Tensor, of_real: Tensor) -> Tensor:
    """Mean squared errors of the critic, summed: decoded interpolations have coefficient alpha, images 0; all (B,).

    ``of_mixed`` is predicted of decoded interpolations, ``of_real`` of images mixed with their reconstructions.
    """
    return ((of_mixed - alpha) ** 2).mean() + (of_real**2).mean()


def gaussian_from_sums(sums: Tensor, *, clamp_center: bool, variance_floor: float) -> tuple[Tensor, Tensor]:
    """The E-step: mean code, and mean squared distance to it, which follows from the sums.

    Args:
        sums: Sum of the codes, sum of their squared norms, number of codes: shape (D + 2,), float64.
        clamp_center: Move components of the centre away from zero.
        variance_floor: Smallest variance.

    Returns:
        Centre (D,) and variance, a scalar, in float32.
    """
    mean, mean_square = sums[:-2] / sums[-1], sums[-2] / sums[-1]
    center = away_from_zero(mean) if clamp_center else mean
    variance = mean_square - 2 * (center * mean).sum() + (center**2).sum()
    return center.float(), variance.clamp_min(variance_floor).float()


class Descriptor(KeepsStatistics):
    """Autoencoder, Gaussian and critic of one scope.

    Args:
        autoencoder: Of images of this size.
        compare: The reconstruction error.
        critic: None trains without one.
        xi: Share of the reconstruction error in the score.
    """

    statistics = ("center", "variance", "target_center", "target_variance")  # buffers that are measured, never averaged
    center: Tensor
    variance: Tensor  # of the codes of the network as it is: scores are taken by them
    target_center: Tensor
    target_variance: Tensor  # of an E-step for training, which pulls to them

    def __init__(
        self,
        autoencoder: DescriptorAutoencoder,
        compare: PixelComparison,
        critic: InterpolationCritic | None,
        *,
        xi: float,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.compare = compare
        self.critic = critic
        self.xi = xi
        for name in ("", "target_"):
            self.register_buffer(f"{name}center", torch.full((autoencoder.projection.out_features,), torch.nan))  # (D,)
            self.register_buffer(f"{name}variance", torch.ones(()))

    def components(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction error (B,), abnormality ``1 - p`` (B,) and reconstruction map (B, 1, H, W) of images (B, C, H, W)."""
        latent, reconstruction = self.autoencoder(image)
        error, error_map = self.compare.with_map(image, reconstruction)
        return error, 1 - normality(latent, self.center, self.variance), error_map

    def score(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``xi * error + (1 - xi) * abnormality`` (B,), and the map (B, 1, H, W), of images (B, C, H, W)."""
        error, abnormality, error_map = self.components(image)
        return self.xi * error + (1 - self.xi) * abnormality, error_map


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
        ssim_scales: Of MS-SSIM in every scope, 1 to 5; null takes 5 with a window of 11, up to 4 with others.
        ssim_window: Of MS-SSIM in every scope, odd; null is 11 from 176 pixels on, else 3.
        pixel_space: Compare images as the networks see them, or scaled back to [0, 1].
        critic_norm: ``layer`` as published, or ``group``, with far fewer weights at 256 pixels.
        critic_activation: ``none``, ``sigmoid`` as in the released patch critic, or ``half_sigmoid``, whose range is that of
            the target.
        zeta: Share of the image in the critic's second input; null draws it uniformly for each image as printed, the
            released code has 0.2.
        e_step_every: Epochs between estimates of centre and variance for training; those for scores come before every
            validation and after every epoch, however the run ends.
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

    image_channels = (1, 3)

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
        ssim_scales: int | None = None,
        ssim_window: int | None = None,
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
        _check_options({"xi_global": xi_global, "xi_local": xi_local, "beta": beta, "zeta": zeta or 0.0}, e_step_every)
        self.gaussian_weight, self.interpolation_weight = gaussian_weight, interpolation_weight
        self.zeta, self.e_step_every = zeta, e_step_every
        self.clamp_center, self.variance_floor, self.beta = clamp_center, variance_floor, beta
        self.lr, self.weight_decay = lr, weight_decay

        def build(it: ScopeOptions) -> Descriptor:
            """The networks of one scope."""
            autoencoder = it.autoencoder(latent_dim=latent_dim, width=width, freeze_encoder=freeze_encoder)
            compare = PixelComparison(
                image_size=it.image_size, rho=rho, space=pixel_space, scales=ssim_scales, window_size=ssim_window
            )
            new_critic = partial(InterpolationCritic, it.image_size, width=width)
            critic = new_critic(norm=critic_norm, activation=critic_activation) if interpolation_weight else None
            return Descriptor(autoencoder, compare, critic, xi=xi_global if it.name == "global" else xi_local)

        self.descriptors = Scopes(
            build,
            scope=scope,
            whole=ScopeOptions("global", image_size, encoder, encoder_weights),
            patch=ScopeOptions("local", patch_size, local_encoder, local_encoder_weights),
            patches=PatchGrid(size=patch_size, stride=patch_stride),
            per_step=patches_per_step,
        )

    @property
    def is_fitted(self) -> bool:
        """Whether the Gaussians have been estimated."""
        return all(bool(part.center.isfinite().all()) for part in self.descriptors.parts())

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the centres that the fit fills."""
        latent_dim = self.hparams["latent_dim"]
        return {f"{path}.center": (latent_dim,) for path, part in self.named_modules() if isinstance(part, Descriptor)}

    def load_pretrained(self) -> None:
        """Load the encoders' weights."""
        self.descriptors.load_encoder_weights()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,), in [0, 1] while reconstructions stay in the range of images, and ``anomaly_map``
            (B, 1, H, W); with both scopes the mean of their maps.

        Raises:
            ShapeError: images of another size than ``image_size``, or for the local scope smaller than a patch.
        """
        scores, maps = self.descriptors.score(image, Descriptor.score)
        return mix_scores(scores, share=self.beta), maps.mean(0)

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1], encoded and decoded, whole ones or their patches; (B, 3, H, W)."""
        return Reconstruction(
            destandardize(self.descriptors.rebuild(image, lambda part, x: part.autoencoder(x)[1]).float())
        )

    def on_train_epoch_start(self) -> None:
        """E-step for training, before the first epoch and every ``e_step_every`` epochs."""
        super().on_train_epoch_start()
        if self.current_epoch % self.e_step_every == 0 or not self.is_fitted:
            self.estimate()
            for part in self.descriptors.parts():
                part.target_center, part.target_variance = part.center.clone(), part.variance.clone()

    def fit_statistics(self) -> None:
        """E-step for scores, of the network as it is."""
        self.estimate()

    @torch.no_grad()
    def estimate(self) -> None:
        """E-step over the training images or all of their patches, in one pass and in float64."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        parts = dict(self.descriptors.named_parts())
        widths = {name: part.autoencoder.projection.out_features for name, part in parts.items()}
        sums = {name: torch.zeros(d + 2, dtype=torch.float64, device=self.device) for name, d in widths.items()}
        for image in self.training_images():
            for name, part in parts.items():
                for piece in self.descriptors.pieces(name, image):
                    code = part.autoencoder.encode(piece).double()
                    self.watch("a code", code)
                    sums[name] += torch.cat([code.sum(0), (code**2).sum().view(1), code.new_tensor([len(code)])])
        for name, part in parts.items():
            part.center, part.variance = gaussian_from_sums(
                self.sum_over_ranks(sums[name]), clamp_center=self.clamp_center, variance_floor=self.variance_floor
            )
        for module, mode in modes.items():
            module.training = mode

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One generator and one critic step of every scope."""
        generator = self.step_generator(batch_idx)
        optimizers = self._optimizers(batch_idx)
        parts = self.descriptors.parts()
        losses, critic_losses = [], []
        for prefix, part, image in self.descriptors.training_inputs(batch["image"], generator=generator):
            loss, decoded = self._generator_loss(prefix, part, image, generator)
            losses.append(loss)
            if part.critic is not None:
                critic_losses.append(partial(self._critic_loss, part.critic, image, decoded, generator))
        self._step(optimizers[0], torch.stack(losses).sum(), idle=[part.critic for part in parts])
        if critic_losses:
            loss = torch.stack([each() for each in critic_losses]).sum()
            self.log("train/critic", loss, batch_size=len(batch["image"]))
            self._step(optimizers[1], loss, idle=[part.autoencoder for part in parts])

    def _generator_loss(
        self, prefix: str, part: Descriptor, image: Tensor, generator: Generator
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The loss, and for the critic reconstructions, decoded interpolations and their coefficients."""
        latent, reconstruction = part.autoencoder(image)
        probability = normality(latent, part.target_center, part.target_variance).mean()
        error = part.compare(image, reconstruction).mean()
        loss = error + self.gaussian_weight * (1 - probability)
        # A code has no partner in a batch of one: its interpolation is itself, with coefficient 0.
        alpha = torch.rand(len(image), generator=generator, dtype=torch.float32, device=self.device)
        alpha = alpha * ALPHA_MAX * (len(image) > 1)
        mixed = reconstruction
        if part.critic is not None:
            mixed = part.autoencoder.decoder(interpolate(latent, alpha))
            loss = loss + self.interpolation_weight * (part.critic.with_fixed_weights(mixed) ** 2).mean()
        values = {"loss": loss, "reconstruction": error, "normality": probability}
        self.log_dict({prefix + key: value.detach() for key, value in values.items()}, batch_size=len(image))
        return loss, (reconstruction.detach(), mixed.detach(), alpha)

    def _critic_loss(
        self, critic: InterpolationCritic, image: Tensor, decoded: tuple[Tensor, Tensor, Tensor], generator: Generator
    ) -> Tensor:
        reconstruction, mixed, alpha = decoded
        zeta = torch.rand(len(image), 1, 1, 1, generator=generator, dtype=torch.float32, device=self.device)
        zeta = zeta if self.zeta is None else torch.full_like(zeta, self.zeta)
        real = zeta * standardize(image) + (1 - zeta) * reconstruction
        of_mixed, of_real = critic(torch.cat([mixed, real.to(mixed.dtype)])).chunk(2)
        return critic_loss(of_mixed, alpha, of_real)

    def _step(self, optimizer: Any, loss: Tensor, *, idle: list[Any]) -> None:
        if self.trainer.world_size > 1:  # DDP waits for a gradient of every parameter
            weights = [w for part in idle if part is not None for w in part.parameters() if w.requires_grad]
            loss = with_idle_weights(loss, weights)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    def _optimizers(self, batch_idx: int) -> list[Any]:
        """The optimisers, with the learning rate of this step."""
        optimizers = self.optimizers(use_pl_optimizer=True)
        steps: list[Any] = optimizers if isinstance(optimizers, list) else [optimizers]
        rate = self.lr * polynomial_decay(self.training_progress(batch_idx))
        for optimizer in steps:
            for group in optimizer.param_groups:
                group["lr"] = rate
        return steps

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in list(state_dict):  # checkpoints of former versions have one Gaussian for both
            part, _, name = key.rpartition(".")
            if name in ("center", "variance"):
                state_dict.setdefault(f"{part}.target_{name}", state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for encoder (unless frozen), linear layer and decoder; another for the critic."""
        parts = self.descriptors.parts()
        weights = [w for part in parts for w in part.autoencoder.parameters() if w.requires_grad]
        optimizers: list[Optimizer] = [Adam(weights, lr=self.lr, betas=BETAS, weight_decay=self.weight_decay)]
        if self.interpolation_weight:
            weights = [w for part in parts if part.critic is not None for w in part.critic.parameters()]
            optimizers.append(Adam(weights, lr=self.lr, betas=BETAS))
        return optimizers


def _check_options(shares: dict[str, float], e_step_every: int) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} must be between 0 and 1; got {share}. See the defaults of IGD.")
    if e_step_every < 1:
        raise ConfigError(f"e_step_every must be at least 1 epoch; got {e_step_every}. The paper uses 10.")
