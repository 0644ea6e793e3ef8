"""CSI: rotated copies of an image are instances of their own, and a classifier tells the rotations.

Paper: Tack et al., "CSI: Novelty Detection via Contrastive Learning on Distributionally Shifted Instances", NeurIPS 2020.
Reference: alinlab/CSI, as described in our notes, no code read.
Differs: one recipe with CCD but for the temperature, which is the paper's. The score is the Gaussian of all pre-trainings here, or with
    ``density: native`` the paper's, whose bank has a bounded size; its crops follow from the image alone. A rotation whose mean logit is not
    above 0 has no part of the classifier in the score, which a division would ruin.
Axes: A = 8 * B views, D width of the encoder, K of a projection, V views of a score, M rows of a bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.augment.draws import ContentDraws, image_keys
from anomaly_suite.augment.weak import WeakAugmentation, mirrored
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pretraining.contrastive_pretraining import PROJECTION, ContrastivePretraining, Views
from anomaly_suite.methods.pretraining.encoder_pretraining import PATCHES_AT_ONCE
from anomaly_suite.methods.pretraining.sim_clr import nt_xent
from anomaly_suite.nn.feature_bank import FeatureSample, bank_rows, empty_bank, fill_bank
from anomaly_suite.nn.size import ImageSize

ROTATIONS = 4
SCORE_CROP = 0.54  # share of the area that each crop of a score has
SMALLEST_LOGIT = 1e-3  # mean logit of a rotation that is divided by


def native_score(projection: Tensor, logit: Tensor, bank: Tensor, *, mean_norm: Tensor, mean_logit: Tensor) -> Tensor:
    """CSI's score: how little images resemble the nearest training image in every rotation, and how unsure the classifier is.

    Args:
        projection: Of images in every rotation, not normalised, (B, 4, K).
        logit: Of the true rotation, (B, 4).
        bank: Normalised projections of training images, (M, 4, K); rows of NaN are empty.
        mean_norm: Mean length of projections of training images, (4,).
        mean_logit: Mean logit of the true rotation of training images, (4,).

    Returns:
        Shape (B,), minus the mean over rotations of cosine times length over its mean, and logit over its mean.
    """
    cosine = torch.einsum("bsk,msk->bsm", projection, bank)  # times the length of the projection
    closest = cosine.masked_fill(bank[:, :, 0].T.isnan(), -math.inf).amax(2)
    certain = torch.where(mean_logit > SMALLEST_LOGIT, logit / mean_logit.clamp_min(SMALLEST_LOGIT), 0)
    return -(closest / mean_norm + certain).mean(1)


class CSI(ContrastivePretraining):
    """Pre-training: contrast of all four rotations of every image, and a classifier of them. Images must be square.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``. The anomaly score, a Gaussian of
    the features, is a baseline; the paper's is ``density: native``, 40 passes an image. There is no map.

    Args:
        temperature: tau.
        contrast_weight: Factor of the contrast; a loss of weight 0 is left out.
        augmentation_weight: Factor of the classifier of rotations.
        crop_scale: Smallest and largest share of the area that a weak view has.
        colour: Hue, saturation and grey among the weak augmentations.
        blur: Among the weak augmentations; null blurs images above 64 pixels.
        encoder: ``residual``, or the name of a timm network.
        encoder_weights: What training starts from: ``imagenet``, a file, a run, or null for random weights.
        image_size: Height and width of the images that a ``residual`` encoder takes, unless it takes patches.
        width: Channels of the first convolution of ``residual``; it ends with 8 times as many.
        patch_size: Train on random square patches of so many pixels; null takes whole images.
        patches_per_image: Patches of each training image and step.
        lr: First learning rate of SGD; it falls to a thousandth by a cosine, epoch by epoch.
        momentum: Of SGD.
        weight_decay: Of SGD.
        density: That scores: a ``gaussian``, or ``native``, the nearest projection and the classifier, in every rotation.
        bank_size: Most training images that ``native`` keeps; beyond it, a sample that the images alone decide.
        score_views: Crops of every rotation that ``native`` takes the mean of; 0 takes images as they are, as a graph must.

    Raises:
        ConfigError: no loss at all, ``native`` without both losses, or a network or size that does not fit.
    """

    bank: Tensor
    mean_norm: Tensor
    mean_logit: Tensor

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        contrast_weight: float = 1.0,
        augmentation_weight: float = 1.0,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        colour: bool = True,
        blur: bool | None = None,
        encoder: str = "resnet18",
        encoder_weights: str | None = "imagenet",
        image_size: ImageSize = 256,
        width: int = 64,
        patch_size: int | None = None,
        patches_per_image: int = 16,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 3e-4,
        density: Literal["gaussian", "native"] = "gaussian",
        bank_size: int = 10_000,
        score_views: int = 10,
    ) -> None:
        super().__init__(
            strong="rotation", num_strong=4, versions="all", crop_scale=crop_scale, colour=colour, blur=blur,
            projection="two layers" if contrast_weight > 0 else None, position_pairs=0,
            weights={"contrast": contrast_weight, "augmentation": augmentation_weight},
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
            density=density, bank_size=bank_size,
        )  # fmt: skip
        self.save_hyperparameters()
        self.temperature, self.score_views = temperature, score_views
        if density == "native":
            if len(self.weights) < 2:
                raise ConfigError(
                    "density=native scores by projections and by the classifier of rotations; got only "
                    f"{next(iter(self.weights))}. Raise both weights above 0, or use density=gaussian."
                )
            self.register_buffer("bank", empty_bank(bank_size, ROTATIONS * PROJECTION))
            for name in ("mean_norm", "mean_logit"):
                self.register_buffer(name, torch.full((ROTATIONS,), math.nan, dtype=torch.float32))

    def terms(self, feature: Tensor, views: Views) -> dict[str, Tensor]:
        """Contrast and cross-entropy of the rotation, from features (A, D) of the views."""
        terms = {}
        if "contrast" in self.weights:
            candidates = self.candidates(F.normalize(self.projection(feature).float(), dim=1), views)
            terms["contrast"] = nt_xent(candidates, temperature=self.temperature)
        if "augmentation" in self.weights:
            terms["augmentation"] = self.augmentation_loss(feature, views)
        return terms

    # The paper's score ------------------------------------------------------------------------------------------------

    @property
    def is_fitted(self) -> bool:
        """Whether there is a density."""
        return bool(self.mean_norm.isfinite().all()) if self.density == "native" else super().is_fitted

    def rotations(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean projections (B, 4, K) and logits of the true rotation (B, 4) of all views of images (B, C, H, W), in float32."""
        weak = WeakAugmentation(crop_scale=(SCORE_CROP, SCORE_CROP), flip=False, colour=self.colour, blur=False)
        projections, logits = [], []
        for view in range(max(1, self.score_views)):
            start, draws = image, ContentDraws(image_keys(image, view + 1)) if self.score_views else None
            if draws is not None:
                start = mirrored(image, draws)
            for number in range(ROTATIONS):
                turned = torch.rot90(start, number, (2, 3))
                feature = self.encoder(turned if draws is None else weak(turned, draws))
                projections.append(self.projection(feature).float())
                logits.append(self.augmentation_head(feature).float()[:, number])
        projection = torch.stack(projections, 1).view(len(image), -1, ROTATIONS, PROJECTION).mean(1)
        return projection, torch.stack(logits, 1).view(len(image), -1, ROTATIONS).mean(1)

    def distance(self, image: Tensor) -> Tensor:
        """Score (B,) of images or patches (B, C, S, S)."""
        if self.density != "native":
            return super().distance(image)
        projection, logit = self.rotations(image)
        with torch.autocast(image.device.type, enabled=False):
            bank = bank_rows(self.bank).view(-1, ROTATIONS, PROJECTION)
            return native_score(projection, logit, bank, mean_norm=self.mean_norm, mean_logit=self.mean_logit)

    @torch.no_grad()
    def fit_statistics(self) -> None:
        """Measure the density over the training set."""
        if self.density != "native":
            super().fit_statistics()
            return
        training = self.training
        self.eval()
        sample = FeatureSample(self.bank_size)
        norm, logits = (torch.zeros(ROTATIONS, dtype=torch.float64, device=self.device) for _ in range(2))
        count = torch.zeros((), dtype=torch.float64, device=self.device)
        for image in self.training_images():
            for part in torch.split(image if self.grid is None else self.grid.cut(image), PATCHES_AT_ONCE):
                projection, logit = self.rotations(part)
                self.watch("a projection", projection)
                sample.add(image_keys(part), F.normalize(projection, dim=2).flatten(1))
                norm += projection.norm(dim=2).sum(0, dtype=torch.float64)
                logits += logit.sum(0, dtype=torch.float64)
                count += len(part)
        self.train(training)
        gather = cast(Callable[[Tensor], Tensor], self.all_gather)
        fill_bank(self.bank, sample.merge(ROTATIONS * PROJECTION, all_gather=gather, device=self.device))
        norm, logits, count = (self.sum_over_ranks(each) for each in (norm, logits, count))
        self.mean_norm.copy_(norm / count)
        self.mean_logit.copy_(logits / count)
