"""DAE and VAE: what an autoencoder of normal images reconstructs badly is anomalous.

Papers: Masci et al., "Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction", ICANN 2011 (DAE, here a
    deep, not a denoising autoencoder unless ``noise_std`` says so); Kingma and Welling, "Auto-Encoding Variational
    Bayes", ICLR 2014, arXiv:1312.6114 (VAE). They are baselines of Yu Tian's thesis; no code was released with it. The
    error made of MS-SSIM and L1 is that of Chen et al., IGD, AAAI 2022.
Differs: the thesis names neither architecture nor latent size; both are the DCGAN pair with a 128-wide latent vector. The
    variance of a Gaussian decoder is fixed at 1: another one is the same as another ``beta``, up to a scale of the loss. MS-SSIM has
    four scales and a window of 3 below 176 pixels, as IGD publishes for 32, else five and 11, as far as they fit.
    ``latent_noise_std`` is the autoencoder with latent noise of Khazaie's thesis, table 3.3; its deviation is not known to us.
Axes: B batch, C channels, H and W pixels, Z latent width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import ReconstructionError, residual_scores
from anomaly_suite.nn.dcgan import dcgan_pair, to_signed, to_unit
from anomaly_suite.nn.size import ImageSize, height_width

LOG_VARIANCE_RANGE = (-10.0, 10.0)  # log sigma^2 of the posterior; keeps exp() finite
SIGNED_RANGE = 2.0  # of [-1, 1]
SAMPLE_SEED = 0  # of the draws that scores are averaged over


def cross_entropy(image: Tensor, logits: Tensor) -> Tensor:
    """Negative log likelihood of independent Bernoulli pixels, in float32 from logits.

    Args:
        image: Shape (B, C, H, W), in [0, 1].
        logits: The same shape.

    Returns:
        Sum over channels and pixels (B,). It is smallest where ``sigmoid(logits)`` is the image, and 0 there only for an
        image of zeros and ones.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), image.float(), reduction="none").sum((1, 2, 3))


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of a diagonal Gaussian from N(0, I).

    Args:
        mean: Shape (B, Z).
        log_variance: Shape (B, Z).

    Returns:
        Shape (B,), 0 or above.
    """
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)


def sample_latent(mean: Tensor, log_variance: Tensor, *, generator: Generator) -> Tensor:
    """A draw from the posterior, ``mean + deviation * noise``, differentiable in both (the reparametrisation trick).

    Args:
        mean: Shape (B, Z).
        log_variance: Shape (B, Z).
        generator: Source of the noise.

    Returns:
        Shape (B, Z).
    """
    noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
    return mean + (log_variance / 2).exp() * noise


def with_noise(x: Tensor, deviation: float, *, generator: Generator) -> Tensor:
    """A tensor of any shape with Gaussian noise added; itself where the deviation is 0."""
    if deviation == 0:
        return x
    return x + deviation * torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


class DAE(AnomalyModule):
    """Deep convolutional autoencoder, scored by the error of its reconstruction.

    Args:
        in_channels: C.
        image_size: Height and width; other sizes are refused.
        widths: Channels of each level, outermost first; null doubles from 64 until 4 cells are left.
        latent_dim: Z; 32 suits 28-pixel digits.
        latent_noise_std: Deviation of Gaussian noise added to codes in training; 0 for none.
        noise_std: Deviation of Gaussian noise added to training inputs in [-1, 1] (the target stays clean); 0 for none.
        loss: ``mse``, or ``ms_ssim`` for 0.85 (1 - MS-SSIM) + 0.15 L1 / range; score and map go with it.
        ssim_scales: Of MS-SSIM, 1 to 5; null takes 5 with a window of 11, up to 4 with others.
        ssim_window: Of MS-SSIM, odd; null is 11 from 176 pixels on, else 3.
        rho: Weight of L1 in it; 0 for MS-SSIM alone.
        lr: Learning rate of Adam.

    Raises:
        ConfigError: an option out of its range, or images too small for the scales of MS-SSIM.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: ImageSize = 64,
        widths: Sequence[int] | None = None,
        latent_dim: int = 128,
        latent_noise_std: float = 0.0,
        noise_std: float = 0.0,
        loss: Literal["mse", "ms_ssim"] = "mse",
        ssim_scales: int | None = None,
        ssim_window: int | None = None,
        rho: float = 0.15,
        lr: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,)
        if not 0 <= latent_noise_std < math.inf:
            raise ConfigError(
                f"latent_noise_std must be a finite number and at least 0; got {latent_noise_std}. 0 has no noise."
            )
        self.encoder, self.decoder = dcgan_pair(
            in_channels=in_channels, image_size=image_size, widths=widths, latent_dim=latent_dim
        )
        self.error: ReconstructionError | None = None
        if loss == "ms_ssim":
            self.error = ReconstructionError(
                image_size=min(height_width(image_size)),
                value_range=SIGNED_RANGE,
                rho=rho,
                scales=ssim_scales,
                window_size=ssim_window,
            )
        self.latent_noise_std = latent_noise_std
        self.noise_std = noise_std
        self.lr = lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Error of the reconstructions, averaged over the batch (and over the pixels, if it is the squared one)."""
        clean = to_signed(batch["image"])
        generator = self.step_generator(batch_idx)
        code = self.encoder(with_noise(clean, self.noise_std, generator=generator))
        reconstruction = self.decoder(with_noise(code, self.latent_noise_std, generator=generator))
        if self.error is None:
            loss = residual_scores(clean, reconstruction)[1].mean()
        else:
            loss = self.error(clean, reconstruction).mean()
        self.log("train/loss", loss)
        return loss

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images by their reconstruction.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Summed squared error (B,) and its mean over channels (B, 1, H, W), on the scale of [-1, 1]; with ``ms_ssim`` that
            error, in [0, 1], and its additive map.

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        x = to_signed(image)
        reconstruction = self.decoder(self.encoder(x))
        return residual_scores(x, reconstruction) if self.error is None else self.error.with_map(x, reconstruction)

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1], encoded and decoded."""
        return Reconstruction(to_unit(self.decoder(self.encoder(to_signed(image)))))

    def configure_optimizers(self) -> Optimizer:
        """Adam."""
        return Adam(self.parameters(), lr=self.lr)


class VAE(AnomalyModule):
    """Variational autoencoder, scored by the reconstruction from the latent mean, by its ELBO or by its KL term.

    Args:
        in_channels: C.
        image_size: Height and width; other sizes are refused.
        widths: Channels of each level, outermost first; null doubles from 64 until 4 cells are left.
        latent_dim: Z; 32 suits 28-pixel digits.
        beta: Weight of the KL divergence.
        likelihood: Of an image given its code: ``gaussian``, whose negative logarithm is half the summed squared error on the
            scale of [-1, 1], or ``bernoulli``, the cross-entropy summed over pixels in [0, 1].
        score: ``residual`` is the summed squared error, ``elbo`` the likelihood's negative logarithm plus ``beta`` times the
            KL divergence, ``kl`` that divergence alone. The map is the squared error on the scale of [-1, 1] for every score
            and likelihood.
        samples: Codes drawn from the posterior over which ``residual``, ``elbo`` and the map are averaged, the same draws for
            every image and every call; 32 or more keep the noise small. 0 takes the posterior's mean instead.
        lr: Learning rate of Adam.

    Raises:
        ConfigError: a negative number of samples.
    """

    noise: Tensor

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: ImageSize = 64,
        widths: Sequence[int] | None = None,
        latent_dim: int = 128,
        beta: float = 1.0,
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
        score: Literal["residual", "elbo", "kl"] = "residual",
        samples: int = 0,
        lr: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,)
        if samples < 0:
            raise ConfigError(f"samples must be 0 (the latent mean) or above; got {samples}. Use 32 or more to sample.")
        self.encoder, self.decoder = dcgan_pair(
            in_channels=in_channels,
            image_size=image_size,
            widths=widths,
            latent_dim=latent_dim,
            out_features=2 * latent_dim,  # mean and log variance
        )
        if likelihood == "bernoulli":
            self.decoder.levels[-1] = nn.Identity()  # in the place of tanh: the output is a logit
        generator = torch.Generator().manual_seed(SAMPLE_SEED)
        self.register_buffer("noise", torch.randn(samples, latent_dim, generator=generator), persistent=False)
        self.beta = beta
        self.likelihood = likelihood
        self.score = score
        self.lr = lr

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clamped log variance, each (B, Z), of images (B, C, H, W) in [-1, 1]."""
        mean, log_variance = self.encoder(x).float().chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def compare(self, image: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode codes and compare with images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].
            latent: Shape (B, Z).

        Returns:
            Negative log likelihood (B,), up to a constant; summed squared error (B,) and its map (B, 1, H, W).
        """
        decoded = self.decoder(latent.to(image.dtype))
        if self.likelihood == "bernoulli":
            reconstruction = to_signed(decoded.float().sigmoid())
            return cross_entropy(image, decoded), *residual_scores(to_signed(image), reconstruction)
        residual, residual_map = residual_scores(to_signed(image), decoded)
        return residual / 2, residual, residual_map

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Negative ELBO, both terms summed within an image: a mean over pixels would let the KL term win."""
        x = to_signed(batch["image"])
        mean, log_variance = self.encode(x)
        latent = sample_latent(mean, log_variance, generator=self.step_generator(batch_idx))
        likelihood_loss, residual, _ = self.compare(batch["image"], latent)
        kl = kl_to_standard_normal(mean, log_variance)
        loss = (likelihood_loss + self.beta * kl).mean()
        self.log_dict({"train/loss": loss, "train/residual": residual.mean(), "train/kl": kl.mean()})
        return loss

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images; the latent mean, or an average over fixed draws, keeps scores from being random.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,), and the squared error as mean over channels (B, 1, H, W), on the scale of [-1, 1].

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        mean, log_variance = self.encode(to_signed(image))
        kl = kl_to_standard_normal(mean, log_variance)
        deviation = (log_variance / 2).exp()
        latents = [mean + deviation * draw for draw in self.noise] if len(self.noise) else [mean]
        likelihood_loss, residual, anomaly_map = self.compare(image, latents[0])
        for latent in latents[1:]:
            more = self.compare(image, latent)
            likelihood_loss, residual, anomaly_map = (
                likelihood_loss + more[0],
                residual + more[1],
                anomaly_map + more[2],
            )
        count = len(latents)
        scores = {"residual": residual / count, "elbo": likelihood_loss / count + self.beta * kl, "kl": kl}
        return scores[self.score], anomaly_map / count

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1], decoded from their latent means; for ``bernoulli`` the probabilities of white."""
        decoded = self.decoder(self.encode(to_signed(image))[0].to(image.dtype))
        return Reconstruction(decoded.float().sigmoid() if self.likelihood == "bernoulli" else to_unit(decoded))

    def configure_optimizers(self) -> Optimizer:
        """Adam."""
        return Adam(self.parameters(), lr=self.lr)
