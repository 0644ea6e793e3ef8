"""CutPaste: a network learns to tell normal images from copies with a pasted piece; the density of its features is the score.

Paper: Li et al., "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021, arXiv:2104.04015.
Formulas: for images x with a pasted patch p(x) and a scar s(x), the mean cross-entropy of x against class 0, p(x) 1 and s(x) 2
    (:mod:`anomaly_suite.augment.pasted`); score ``(h - mu)' inv(Sigma) (h - mu)`` of the encoder's features h, the Gaussian being
    that of all training images as they are.
Reference: none was read; the settings described of DROC's release, which has the same training recipe.
Differs: the head has two layers of 512 instead of eight, which a public re-implementation found enough. A piece moves by at least a
    quarter of one of its sides: where it lies on its own source, nothing is pasted. The covariance is Ledoit and Wolf's, because most data sets have fewer images
    than features (``density: ridge`` adds a constant to the diagonal of the sample's). Hue and saturation are jittered in YIQ.
    The score of a patch model is its highest window; windows of a pass over the training set lie half a patch apart.
Axes: B batch, C channels, H and W pixels, S side of a patch, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from anomaly_suite.augment.colour import jitter
from anomaly_suite.augment.draws import Draws, GeneratorDraws, between, image_keys
from anomaly_suite.augment.pasted import JITTER, paste_patch, paste_scar
from anomaly_suite.augment.weak import mirrored
from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.blur import gaussian_blur
from anomaly_suite.nn.density import fit_gaussian
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.exporting import plain, portions
from anomaly_suite.nn.feature_bank import FeatureSample, count_rows, empty_bank, fill_bank, log_kernels
from anomaly_suite.nn.patches import PATCHES_AT_ONCE, PatchGrid, random_patches
from anomaly_suite.nn.shrinkage import FeatureMoments
from anomaly_suite.nn.size import ImageSize

PIECES = {"3-way": (paste_patch, paste_scar), "patch": (paste_patch,), "scar": (paste_scar,)}
BANDWIDTH = 1.0  # of the kernel of density=kde, on normalised features


class CutPaste(AnomalyModule):
    """A classifier of pasted pieces, and a Gaussian of its encoder's features.

    The head is for training alone. The density is measured before each validation and at the end of each epoch, in one pass over the
    training set in evaluation mode.

    Args:
        encoder: ``residual``, or the name of a timm network.
        encoder_weights: What training starts from: ``imagenet``, a file, the run of a pre-training, or null for random weights.
        image_size: Height and width of the images that a ``residual`` encoder takes, unless it takes patches.
        width: Channels of the first convolution of ``residual``.
        task: ``3-way`` has classes normal, patch and scar; ``patch`` and ``scar`` have two.
        hidden: Widths of the head's layers before the last.
        patch_size: Train on random patches of so many pixels and give maps: 64 in the paper; null takes whole images, without map.
        patch_stride: Pixels between the windows that are scored.
        patches_per_image: Patches of each training image and step.
        heatmap: How windows become a map: ``receptive_field`` weights each by a Gaussian of a quarter of the patch; ``average``
            takes their mean and then smooths it with that Gaussian.
        flip: Mirror half of the training images, for objects that are symmetric.
        shift: Most translation of a training image, as a share of its sides.
        density: ``ledoit_wolf`` or ``ridge``, a Gaussian; ``kde``, a kernel of width 1 over normalised features.
        eps: On the diagonal of the covariance of ``ridge``.
        normalize: Features of length 1 before the density.
        squared: The score of a Gaussian is the squared Mahalanobis distance; otherwise its root.
        bank_size: Most features that ``kde`` keeps; beyond it, a sample that the images alone decide.
        freeze_steps: First optimiser steps in which the encoder's weights rest (its running statistics do not); 20 is usual
            with ImageNet weights.
        lr: First learning rate of SGD; it falls to 0 by a cosine.
        momentum: Of SGD.
        weight_decay: Of SGD.

    Shapes: images (B, C, H, W) in [0, 1], C 1 or 3; score (B,); map (B, 1, H, W) with ``patch_size``.

    Raises:
        ConfigError: an unknown network, options that exclude each other, or a size that does not fit.
    """

    image_channels = (1, 3)
    feature_mean: Tensor
    feature_whitening: Tensor
    bank: Tensor

    def __init__(
        self,
        *,
        encoder: str = "resnet18",
        encoder_weights: str | None = None,
        image_size: ImageSize = 256,
        width: int = 64,
        task: Literal["3-way", "patch", "scar"] = "3-way",
        hidden: Sequence[int] = (512, 512, 128),
        patch_size: int | None = None,
        patch_stride: int = 4,
        patches_per_image: int = 1,
        heatmap: Literal["receptive_field", "average"] = "receptive_field",
        flip: bool = False,
        shift: float = 0.02,
        density: Literal["ledoit_wolf", "ridge", "kde"] = "ledoit_wolf",
        eps: float = 1e-3,
        normalize: bool = True,
        squared: bool = True,
        bank_size: int = 10_000,
        freeze_steps: int = 0,
        lr: float = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 3e-5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if density == "kde" and not normalize:
            raise ConfigError(
                "density=kde needs features of length 1, which its bandwidth is made for; got normalize=False. Set normalize to true."
            )
        self.pieces: tuple[Callable[..., tuple[Tensor, Tensor]], ...] = PIECES[task]
        self.encoder = ImageEncoder(encoder, image_size=patch_size or image_size, width=width)
        self.head = _head(self.encoder.out_features, hidden, classes=1 + len(self.pieces))
        self.grid = PatchGrid(size=patch_size, stride=patch_stride) if patch_size else None
        self.bank_size, self.freeze_steps, self.lr = bank_size, freeze_steps, lr
        self.density, self.normalize, self.squared = density, normalize, squared
        size = self.encoder.out_features
        if density == "kde":
            self.register_buffer("bank", empty_bank(bank_size, size))
        else:
            self.register_buffer("feature_mean", torch.full((size,), math.nan, dtype=torch.float32))
            self.register_buffer("feature_whitening", torch.full((size, size), math.nan, dtype=torch.float32))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a density."""
        return bool((self.bank[0] if self.density == "kde" else self.feature_mean).isfinite().all())

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of what the fit fills."""
        size = self.encoder.out_features
        return (
            {"bank": (self.bank_size, size)}
            if self.density == "kde"
            else {"feature_mean": (size,), "feature_whitening": (size, size)}
        )

    def load_pretrained(self) -> None:
        """Load what training starts from."""
        self.encoder.load_weights(self.hparams["encoder_weights"])

    # Training --------------------------------------------------------------------------------------------------------

    def classes(self, image: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Normal images and copies of them with pasted pieces, class after class, all from the same weakly changed images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].
            draws: Source of all draws.

        Returns:
            Images (K * B, C, H, W) of K classes, and their classes (K * B,).
        """
        normal = self._vary(image, draws)
        copies = [normal, *(paste(normal, draws)[0] for paste in self.pieces)]
        label = torch.arange(len(copies), device=image.device).repeat_interleave(len(image))
        return torch.cat(copies), label

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of all classes in one pass: in several, batch norm would tell them apart."""
        image, generator = batch["image"], self.step_generator(batch_idx)
        if self.grid is not None:
            count = self.hparams["patches_per_image"]
            image = random_patches(image, size=self.grid.size, count=count, generator=generator)
        with torch.no_grad():
            image, label = self.classes(image, GeneratorDraws(generator))
        logits = self.head(self.encoder(image)).float()
        loss = F.cross_entropy(logits, label)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", (logits.argmax(1) == label).float().mean())
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rates, by the place in the run alone: a resumed run needs no scheduler state."""
        rate = self.lr * (1 + math.cos(math.pi * self.training_progress(batch_idx))) / 2
        encoder, head = self.trainer.optimizers[0].param_groups
        encoder["lr"] = 0.0 if self._rests() else rate
        head["lr"] = rate

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Let the encoder rest in the first steps: its gradients do not enter the momentum."""
        super().on_before_optimizer_step(optimizer)
        if self._rests():
            for weight in self.encoder.parameters():
                weight.grad = None

    def configure_optimizers(self) -> Optimizer:
        """SGD; :meth:`on_train_batch_start` sets its rates."""
        groups: list[dict[str, Any]] = [{"params": list(part.parameters())} for part in (self.encoder, self.head)]
        decay, momentum = self.hparams["weight_decay"], self.hparams["momentum"]
        return SGD(groups, lr=self.lr, momentum=momentum, weight_decay=decay)

    def _rests(self) -> bool:
        return self.trainer.global_step < self.freeze_steps

    def _vary(self, image: Tensor, draws: Draws) -> Tensor:
        """Jitter the colours of images, move them, and mirror half of them if they may be."""
        view = jitter(image, draws(len(image), 4), JITTER)
        if self.hparams["flip"]:
            view = mirrored(view, draws)
        uniform = draws(len(image), 2)
        for dim in (2, 3):
            side = view.shape[dim]
            most = self.hparams["shift"] * side
            offset = between(uniform[:, dim - 2], -most, most).round().long().unsqueeze(1)
            place = (torch.arange(side, device=view.device) + offset).clamp(0, side - 1)  # borders are continued
            shape = (-1, 1, side, 1) if dim == 2 else (-1, 1, 1, side)
            view = view.gather(dim, place.view(shape).expand_as(view))
        return view

    # The score -------------------------------------------------------------------------------------------------------

    def embed(self, image: Tensor) -> Tensor:
        """Features (B, D) of images or patches (B, C, H, W), of length 1 if they are normalised."""
        feature = self.encoder(image).float()
        return F.normalize(feature, dim=1) if self.normalize else feature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,), the (squared) distance to the Gaussian, or the negated log density of ``kde``; of a patch model
            that of the highest window, with ``anomaly_map`` (B, 1, H, W).

        Raises:
            ShapeError: images smaller than a patch.
        """
        if self.grid is None:
            return self.score(image), None
        found = []
        for some in portions(image, 1):  # all windows of an image take a hundred times its memory
            found += [self.score(patches) for patches in portions(self.grid.cut(some), PATCHES_AT_ONCE)]
        score = torch.cat(found).view(image.shape[0], -1)
        return score.amax(1), self.heatmap(score, plain(image.shape[2]), plain(image.shape[3]))

    def score(self, image: Tensor) -> Tensor:
        """Scores (B,) of images or patches (B, C, H, W)."""
        feature = self.embed(image)
        with torch.autocast(image.device.type, enabled=False):
            if self.density == "kde":
                return count_rows(self.bank).float().log() - log_kernels(
                    feature, self.bank, gamma=1 / (2 * BANDWIDTH**2)
                )
            white = (feature - self.feature_mean) @ self.feature_whitening.T
            squared = (white**2).sum(1)
            return squared if self.squared else squared.sqrt()

    def heatmap(self, score: Tensor, height: int, width: int) -> Tensor:
        """Spread the scores of windows (B, P) over their pixels, to (B, 1, H, W)."""
        grid = cast(PatchGrid, self.grid)
        size, stride, sigma = grid.size, grid.stride, grid.size / 4
        columns = grid.count(size, width)
        windows = score.view(-1, 1, score.shape[1] // columns, columns)
        offset = torch.arange(size, dtype=torch.float32, device=score.device) - (size - 1) / 2
        weight = torch.ones_like(offset)
        if self.hparams["heatmap"] == "receptive_field":
            weight = torch.exp(-(offset**2) / (2 * sigma**2))
        kernel = torch.outer(weight, weight).view(1, 1, size, size)
        with torch.autocast(score.device.type, enabled=False):
            total = F.conv_transpose2d(windows, kernel, stride=stride)
            share = F.conv_transpose2d(torch.ones_like(windows[:1]), kernel, stride=stride)
            spread = (total / share)[:, :, :height, :width]
        return spread if self.hparams["heatmap"] == "receptive_field" else gaussian_blur(spread, sigma=sigma)

    @torch.no_grad()
    def fit_statistics(self) -> None:
        """Measure the density of the features of all training images, or of their patches.

        Raises:
            ConfigError: a covariance that cannot be inverted.
        """
        moments = FeatureMoments(self.encoder.out_features, device=self.device)
        sample = FeatureSample(self.bank_size)
        training = self.training
        self.eval()
        for image in self.training_images():
            for part in torch.split(self._patches(image), PATCHES_AT_ONCE):
                feature = self.embed(part)
                self.watch("a feature", feature)
                if self.density == "kde":
                    sample.add(image_keys(part), feature)
                else:
                    moments.add(feature)
        self.train(training)
        if self.density == "kde":
            gather = cast(Callable[[Tensor], Tensor], self.all_gather)
            fill_bank(self.bank, sample.merge(self.encoder.out_features, all_gather=gather, device=self.device))
            return
        moments.merge(self.sum_over_ranks)
        self._fit_gaussian(moments)

    def _patches(self, image: Tensor) -> Tensor:
        """What the density is measured on: the images, or their patches, half a patch apart."""
        if self.grid is None:
            return image
        return PatchGrid(size=self.grid.size, stride=max(1, self.grid.size // 2)).cut(image)

    def _fit_gaussian(self, moments: FeatureMoments) -> None:
        if moments.count < 2:
            raise ConfigError(
                f"CutPaste needs at least 2 training images to estimate a covariance; got {int(moments.count)}. Add training images."
            )
        found = fit_gaussian(moments, ridge=self.hparams["eps"] if self.density == "ridge" else None)
        if found is None:
            raise ConfigError(
                f"CutPaste needs features that differ between training images; their covariance is singular with density={self.density}, "
                f"eps={self.hparams['eps']}. Look for images that are all alike, or use density=ridge with a larger eps."
            )
        self.feature_mean.copy_(found[0])
        self.feature_whitening.copy_(found[1])


def _head(features: int, hidden: Sequence[int], *, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((features, *hidden), hidden, strict=False):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((features, *hidden)[-1], classes))
