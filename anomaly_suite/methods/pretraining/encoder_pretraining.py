"""What self-supervised pre-trainings share: an encoder, SGD with a cosine, patches, and a Gaussian of its features as a score.

Source: one recipe for all, that of CCD (Tian et al., MICCAI 2021), as comparisons need. The score is a density of Sohn et al., DROC (ICLR
    2021): one Gaussian of normalised features, or a kernel on each. A baseline: what these methods are for is the encoder.

Axes: B batch, C channels, H and W pixels, P patches of an image, S side of a patch, D width of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, Optimizer

from anomaly_suite.augment.draws import image_keys
from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.nn.density import (
    KERNEL_SCALE,
    SupportVectors,
    fit_support_vectors,
    kernel_distance,
    outside,
    spread_gamma,
)
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.exporting import portions
from anomaly_suite.nn.feature_bank import FeatureSample, empty_bank, fill_bank, nearest
from anomaly_suite.nn.gaussian import StreamedMoments, covariance, whitening_matrix
from anomaly_suite.nn.patches import PatchGrid, random_patches
from anomaly_suite.nn.size import ImageSize

LAST_LR = 1e-3  # of the first learning rate, where the cosine ends
RIDGE = 1e-6  # on the diagonal of the covariance
NU = 0.5  # of a one-class SVM

Density = Literal["gaussian", "kde", "ocsvm", "nearest", "native"]
PATCHES_AT_ONCE = 64
"""Patches of each image that are scored at once."""


class EncoderPretraining(AnomalyModule):
    """An encoder that is trained without labels; other methods take it by ``encoder_weights``.

    A subclass writes ``training_step``; whatever it has parameters in is trained. ``forward`` scores an image by the Mahalanobis
    distance of its normalised features to those of the training images, of patches by the largest; it is measured before each
    validation, in one pass over the training set.

    Args:
        encoder: ``residual``, or the name of a timm network.
        encoder_weights: What training starts from: ``imagenet``, a file, a run, or null for random weights.
        image_size: Height and width of the images that a ``residual`` encoder takes, unless it takes patches.
        width: Channels of the first convolution of ``residual``.
        patch_size: Train on random square patches of so many pixels; null takes whole images.
        patches_per_image: Patches of each training image and step.
        lr: First learning rate of SGD; it falls to a thousandth by a cosine, epoch by epoch.
        momentum: Of SGD.
        weight_decay: Of SGD.
        density: That scores: one Gaussian; ``kde``, a kernel on each feature of a bank; ``ocsvm``, a one-class SVM of them (nu 0.5, as
            DROC has it); ``nearest``, one less the largest cosine; or ``native``, which the subclass defines.
        bank_size: Most features of the bank.

    Raises:
        ConfigError: an unknown network, or a size that does not fit.
    """

    image_channels = (1, 3)

    has_gaussian: ClassVar[bool] = True
    """Off for a method with a score of its own, which defines ``distance``."""

    feature_mean: Tensor
    feature_whitening: Tensor
    bank: Tensor
    svm_weight: Tensor
    svm_offset: Tensor
    svm_gamma: Tensor

    def __init__(
        self,
        *,
        encoder: str,
        encoder_weights: str | None,
        image_size: ImageSize,
        width: int,
        patch_size: int | None,
        patches_per_image: int,
        lr: float,
        momentum: float,
        weight_decay: float,
        density: Density = "gaussian",
        bank_size: int = 10_000,
    ) -> None:
        super().__init__()
        self.encoder = ImageEncoder(encoder, image_size=patch_size or image_size, width=width)
        self.encoder_weights = encoder_weights
        self.grid = PatchGrid(size=patch_size, stride=max(1, patch_size // 2)) if patch_size else None
        self.patches_per_image = patches_per_image
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.density: Density = density
        self.bank_size = bank_size
        if not self.has_gaussian or density == "native":
            return
        size = self.encoder.out_features
        if density != "gaussian":
            self.register_buffer("bank", empty_bank(bank_size, size))
            if density == "ocsvm":  # the bank then holds its support vectors
                self.register_buffer("svm_weight", torch.zeros(bank_size, dtype=torch.float32))
                for name in ("svm_offset", "svm_gamma"):
                    self.register_buffer(name, torch.full((), math.nan, dtype=torch.float32))
            return
        self.register_buffer("feature_mean", torch.full((size,), math.nan, dtype=torch.float32))
        self.register_buffer("feature_whitening", torch.full((size, size), math.nan, dtype=torch.float32))

    @property
    def is_fitted(self) -> bool:
        """Whether there is a density, where one scores."""
        if not self.has_gaussian:
            return True
        return bool((self.feature_mean if self.density == "gaussian" else self.bank[0]).isfinite().all())

    def load_pretrained(self) -> None:
        """Load what training starts from."""
        self.encoder.load_weights(self.encoder_weights)

    def inputs(self, image: Tensor, batch_idx: int) -> Tensor:
        """What a step trains on: the images (B, C, H, W), or random patches of them (B * P, C, S, S)."""
        if self.grid is None:
            return image
        generator = self.step_generator(batch_idx)
        return random_patches(image, size=self.grid.size, count=self.patches_per_image, generator=generator)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, by the epoch alone: a resumed run needs no scheduler state."""
        progress, behind = self.training_progress(batch_idx), self.epochs_behind(batch_idx)
        if behind:  # as it was when the epoch began, also where steps or hours end the training
            progress *= self.current_epoch / behind
        rate = cosine_decay(progress, start=self.lr, end=self.lr * LAST_LR)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def configure_optimizers(self) -> Optimizer:
        """SGD over all that has parameters."""
        return SGD(self.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    # The score -------------------------------------------------------------------------------------------------------

    def embed(self, image: Tensor) -> Tensor:
        """Normalised features (B, D) of images (B, C, H, W) as they are, in float32."""
        return F.normalize(self.encoder(image).float(), dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Mahalanobis distance (B,), 0 or above, or what the other ``density`` says; the largest of all patches where there are
            patches; and no map.

        Raises:
            ShapeError: images of another size than the encoder takes, or smaller than a patch.
        """
        if self.grid is None:
            return self.distance(image), None
        patches = self.grid.cut(image)
        patches = patches.view(image.shape[0], -1, *patches.shape[1:])  # (B, P, C, S, S)
        found = [self.distance(some.flatten(0, 1)) for some in portions(patches, PATCHES_AT_ONCE, 1)]
        return torch.cat([distance.view(image.shape[0], -1) for distance in found], 1).amax(1), None

    def distance(self, image: Tensor) -> Tensor:
        """Distance to the density (B,) of images or patches (B, C, S, S)."""
        with torch.autocast(image.device.type, enabled=False):
            if self.density == "kde":
                return kernel_distance(self.embed(image), self.bank)
            if self.density == "nearest":  # half the squared distance, for features of length 1
                return nearest(self.embed(image), self.bank, neighbours=1).squeeze(1) / 2
            if self.density == "ocsvm":
                support = SupportVectors(self.bank, self.svm_weight, self.svm_offset)
                return outside(self.embed(image), support, gamma=self.svm_gamma)
            white = (self.embed(image) - self.feature_mean) @ self.feature_whitening.T
            distance: Tensor = torch.linalg.vector_norm(white, dim=1)
            return distance

    @torch.no_grad()
    def fit_statistics(self) -> None:
        """Measure the density of the features of all training images, or of the patches of their grid."""
        if not self.has_gaussian:
            return
        training = self.training
        self.eval()
        moments = StreamedMoments(1, self.encoder.out_features, device=self.device)
        sample = FeatureSample(self.bank_size)
        for image in self.training_images():
            for part in torch.split(image if self.grid is None else self.grid.cut(image), PATCHES_AT_ONCE * 4):
                feature = self.embed(part)
                self.watch("a feature", feature)
                if self.density == "gaussian":
                    moments.add([feature.unsqueeze(1)])
                else:
                    sample.add(image_keys(part), feature)
        self.train(training)
        if self.density != "gaussian":
            gather = cast(Callable[[Tensor], Tensor], self.all_gather)
            rows = sample.merge(self.encoder.out_features, all_gather=gather, device=self.device)
            if self.density == "ocsvm":
                rows = self._fit_support_vectors(rows)
            fill_bank(self.bank, rows)
            return
        count, total, second = (self.sum_over_ranks(each) for each in (moments.count, moments.total, moments.second))
        whitening = whitening_matrix(covariance(count, total, second), eps=RIDGE)
        self.feature_mean.copy_((total / count)[0])
        self.feature_whitening.copy_(whitening[0])

    def _fit_support_vectors(self, rows: Tensor) -> Tensor:
        """Fit a one-class SVM to features (N, D); its support vectors."""
        gamma = spread_gamma(rows, scale=KERNEL_SCALE)
        support = fit_support_vectors(rows, nu=NU, gamma=gamma)
        self.svm_weight.zero_()[: len(support.weight)].copy_(support.weight)
        self.svm_offset.copy_(support.offset)
        self.svm_gamma.copy_(gamma)
        return support.rows


def cosine_decay(progress: float, *, start: float, end: float) -> float:
    """From ``start`` to ``end`` by half a cosine, for a progress in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
