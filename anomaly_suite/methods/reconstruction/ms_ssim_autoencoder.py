"""MS-SSIM autoencoder: what an autoencoder of normal images reconstructs with another structure is anomalous.

Papers: Tian, thesis, ch. 4 and 5 (baseline "MS-SSIM"); Chen et al., IGD, AAAI 2022, table 6.5 (rows MSE and REC). It is IGD
    without Gaussian, interpolation and critic.
Reference: the released code of IGD for networks and loss, as described of it; no code read.
Differs: both scopes are trained in one run, the local one on random patches of the batch. In the first ``warmup_epochs``
    L1 weighs 0.85, because from random weights MS-SSIM is near 0 and has next to no gradient. Scales and window of MS-SSIM and the
    enlarging of its maps are those of our IGD, see there; ``ssim_scales: 1`` is the single-scale SSIM autoencoder of table 6.3.
Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import PixelComparison, PixelSpace, polynomial_decay
from anomaly_suite.nn.autoencoder import DescriptorAutoencoder
from anomaly_suite.nn.encoders import destandardize, standardize
from anomaly_suite.nn.patches import PatchGrid
from anomaly_suite.nn.scopes import Scope, ScopeOptions, Scopes, mix_scores
from anomaly_suite.nn.size import ImageSize

BETAS = (0.0, 0.9)  # of Adam, as IGD's
WARMUP_RHO = 0.85  # rho, the weight of L1, in the first epochs


def squared_error_map(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Squared error between an image, once standardised, and its reconstruction, as a mean over channels.

    Args:
        image: Shape (B, 1 or 3, H, W), in [0, 1].
        reconstruction: Shape (B, 3, H, W), standardised.

    Returns:
        Shape (B, 1, H, W), float32.
    """
    return ((standardize(image).float() - reconstruction.float()) ** 2).mean(1, keepdim=True)


class ReconstructionScope(nn.Module):
    """Autoencoder and comparison of whole images or of patches.

    Args:
        autoencoder: Of images of this size.
        compare: What trains and scores; null for mean squared error.
        warmup: What trains first.
    """

    def __init__(
        self, autoencoder: DescriptorAutoencoder, compare: PixelComparison | None, warmup: PixelComparison
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.compare = compare
        self.warmup = warmup

    def loss(self, image: Tensor, *, warmup: bool) -> Tensor:
        """Mean error of a batch (B, C, H, W)."""
        _, reconstruction = self.autoencoder(image)
        if self.compare is None:
            return squared_error_map(image, reconstruction).mean()
        compare = self.warmup if warmup else self.compare
        error: Tensor = compare(image, reconstruction)
        return error.mean()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Error (B,) and map (B, 1, H, W) of images (B, C, H, W) in [0, 1]."""
        _, reconstruction = self.autoencoder(image)
        if self.compare is not None:
            return self.compare.with_map(image, reconstruction)
        error_map = squared_error_map(image, reconstruction)
        return error_map.mean((1, 2, 3)), error_map


class MSSSIMAutoencoder(AnomalyModule):
    """Autoencoder trained and scored by multi-scale structural similarity, by it and L1, or by squared error.

    The score is ``nu`` times the error of the whole image plus ``1 - nu`` times that of the worst patch; the map is the
    mean of the maps of both scopes.

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
        freeze_encoder: Train only linear layer and decoder; null does so for encoders with weights.
        latent_dim: Width of the code; a wide one reconstructs anomalies too.
        width: Channels at full resolution of decoder and residual encoder.
        loss: ``ms_ssim``, or ``mse`` for the row of that name: mean squared error of standardised images.
        rho: Weight of L1 beside MS-SSIM: 0 in the thesis, 0.15 in IGD's row REC.
        ssim_scales: Of MS-SSIM in every scope, 1 to 5; null takes 5 with a window of 11, up to 4 with others; 1 is the single-scale SSIM autoencoder.
        ssim_window: Of MS-SSIM in every scope, odd; null is 11 from 176 pixels on, else 3.
        warmup_epochs: First epochs, in which it is 0.85.
        pixel_space: Compare images as the networks see them, or scaled back to [0, 1].
        nu: Share of the global score where both scopes are used.
        lr: Learning rate of Adam; it falls polynomially to 0 over the run.
        weight_decay: Of Adam.

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
        loss: Literal["ms_ssim", "mse"] = "ms_ssim",
        rho: float = 0.0,
        ssim_scales: int | None = None,
        ssim_window: int | None = None,
        warmup_epochs: int = 1,
        pixel_space: PixelSpace = "standardized",
        nu: float = 0.5,
        lr: float = 1e-4,
        weight_decay: float = 1e-6,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not 0 <= nu <= 1:
            raise ConfigError(f"nu must be between 0 and 1; got {nu}. 0.5 weighs both scopes evenly.")
        self.nu = nu
        self.warmup_epochs = warmup_epochs
        self.lr, self.weight_decay = lr, weight_decay

        def build(it: ScopeOptions) -> ReconstructionScope:
            """The networks of one scope."""
            compare = partial(
                PixelComparison,
                image_size=it.image_size,
                space=pixel_space,
                scales=ssim_scales,
                window_size=ssim_window,
            )
            return ReconstructionScope(
                it.autoencoder(latent_dim=latent_dim, width=width, freeze_encoder=freeze_encoder),
                compare(rho=rho) if loss == "ms_ssim" else None,
                compare(rho=WARMUP_RHO),
            )

        self.scopes = Scopes(
            build,
            scope=scope,
            whole=ScopeOptions("global", image_size, encoder, encoder_weights),
            patch=ScopeOptions("local", patch_size, local_encoder, local_encoder_weights),
            patches=PatchGrid(size=patch_size, stride=patch_stride),
            per_step=patches_per_step,
        )

    def load_pretrained(self) -> None:
        """Load the encoders' weights."""
        self.scopes.load_encoder_weights()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W).

        Raises:
            ShapeError: images of another size than ``image_size``, or for the local scope smaller than a patch.
        """
        scores, maps = self.scopes.score(image, lambda part, x: part(x))
        return mix_scores(scores, share=self.nu), maps.mean(0)

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1], encoded and decoded, whole ones or their patches; (B, 3, H, W)."""
        return Reconstruction(destandardize(self.scopes.rebuild(image, lambda part, x: part.autoencoder(x)[1]).float()))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, which follows from the step alone."""
        (optimizer,) = self.trainer.optimizers
        for group in optimizer.param_groups:
            group["lr"] = self.lr * polynomial_decay(self.training_progress(batch_idx))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean reconstruction error of every scope, summed."""
        losses = []
        inputs = self.scopes.training_inputs(batch["image"], generator=self.step_generator(batch_idx))
        for prefix, part, image in inputs:
            losses.append(part.loss(image, warmup=self.current_epoch < self.warmup_epochs))
            self.log(prefix + "loss", losses[-1], batch_size=len(image))
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> Optimizer:
        """Adam for linear layers and decoders, and for encoders that are not frozen; :meth:`on_train_batch_start` sets the rate."""
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        return Adam(weights, lr=self.lr, betas=BETAS, weight_decay=self.weight_decay)
