"""PMSACL: classes of images with 0 to 3 synthetic lesions, each pulled to a centre of its own, and contrasted as seen from it.

Paper: Tian et al., "Self-supervised Pseudo Multi-class Pre-training for Unsupervised Anomaly Detection and Segmentation in Medical Images",
    Medical Image Analysis 90, 2023, arXiv:2109.01303 (MSACL is its first version, with the same equations); Yu Tian's thesis, ch. 5.
Reference: none, no code was ever released.
Differs: four classes, 0 to 3 lesions, where sums of the paper run over five. Neither temperature, alpha, epochs nor MedMix's geometry is
    printed: ours, from CCD. ``alpha`` above 1 makes members of a class repel each other less, as the text wants; the text's smaller value
    does the opposite. The positive keeps its temperature in the denominator, which makes a softmax of it (``denominator: literal`` is as
    printed). The classifier of lesion counts sees features instead of projections. Weak views keep 0.8 to 1 of the area for every
    class: smaller ones lose lesions. Places of patches are told by the local model alone.
    Centres are measured with draws that follow from each image alone, and lesions of 64 fixed images, so that neither order nor number of
    processes changes them; in evaluation mode.
Axes: A views, N classes, D width of the encoder, K of a projection, P images of the pool that lesions are cut from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from anomaly_suite.augment.draws import ContentDraws, image_keys
from anomaly_suite.augment.strong import Strong
from anomaly_suite.augment.weak import mirrored
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import with_idle_weights
from anomaly_suite.methods.pretraining.contrast import (
    Candidates,
    Denominator,
    center_loss,
    centered,
    scaled_contrast,
    similarity,
)
from anomaly_suite.methods.pretraining.contrastive_pretraining import (
    PROJECTION,
    ContrastivePretraining,
    Versions,
    Views,
)
from anomaly_suite.nn.patches import PatchGrid
from anomaly_suite.nn.size import ImageSize

POOL = 64
"""Images that lesions are cut from while centres are measured: those with the smallest keys."""

IMAGES_AT_ONCE = 64


def multi_class_contrast(
    candidates: Candidates, *, temperature: float, alpha: float, denominator: Denominator
) -> Tensor:
    """PMSACL's contrast of centred projections, every view against all others: a scalar."""
    same = candidates.label == candidates.label[candidates.anchors].unsqueeze(1)
    cosine = similarity(candidates.feature[candidates.anchors], candidates.feature)
    return scaled_contrast(
        cosine, candidates.positives, candidates.others(), same,
        temperature=temperature, alpha=alpha, denominator=denominator,
    )  # fmt: skip


class PMSACL(ContrastivePretraining):
    """Pre-training: dense classes by lesion count, contrast between them, a classifier of the count, and one of places of patches.

    The centres are measured before the first step over the training set, or after ``warmup_epochs`` of the classifier alone, and then stay.
    ``train/center_distance`` is the smallest distance of a projection to its centre: near 0 the direction from there says nothing. Give
    the trainer ``gradient_clip_val: 5`` against what gradients do there.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``. The anomaly score, a Gaussian of
    the features, is a baseline; there is no map.

    Args:
        strong: Strong augmentation that makes the classes: ``medmix``, ``cutmix``, ``cutout``, ``noise``, ``permutation`` or ``rotation``.
        num_strong: Classes, normal images included: 0 to 3 lesions for 4.
        versions: ``all`` versions of each image a step, or ``one``, all numbers equally often, for less memory.
        temperature: tau of the contrast.
        alpha: Factor of the temperature between members of a class in the denominator; 1 treats all alike.
        denominator: ``proper`` keeps the positive's temperature there; ``literal`` is as printed and can be negative.
        warmup_epochs: Epochs of the classifier alone before centres are measured.
        contrast_weight: Factor of the contrast; a loss of weight 0 is left out.
        center_weight: Factor of the distances to the centres.
        augmentation_weight: Factor of the classifier of lesion counts.
        position_weight: Factor of the classifier of places, with a ``patch_size`` alone.
        position_pairs: Pairs of patches of a step for it.
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

    Raises:
        ConfigError: a number of versions that the augmentation does not have, no loss at all, a warm-up without a classifier, or a
            network or size that does not fit.
    """

    centers: Tensor

    def __init__(
        self,
        *,
        strong: Strong = "medmix",
        num_strong: int = 4,
        versions: Versions = "all",
        temperature: float = 0.2,
        alpha: float = 5.0,
        denominator: Denominator = "proper",
        warmup_epochs: int = 0,
        contrast_weight: float = 1.0,
        center_weight: float = 1.0,
        augmentation_weight: float = 1.0,
        position_weight: float = 1.0,
        position_pairs: int = 32,
        crop_scale: tuple[float, float] = (0.8, 1.0),
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
    ) -> None:
        if warmup_epochs and augmentation_weight == 0:
            raise ConfigError(
                f"warmup_epochs={warmup_epochs} trains the classifier of lesion counts; got augmentation_weight=0. Raise it, or set "
                "warmup_epochs to 0."
            )
        weights = {"contrast": contrast_weight, "center": center_weight}
        weights |= {"augmentation": augmentation_weight, "position": position_weight}
        super().__init__(
            strong=strong, num_strong=num_strong, versions=versions, crop_scale=crop_scale, colour=colour, blur=blur,
            projection="two layers" if contrast_weight > 0 or center_weight > 0 else None, weights=weights,
            position_pairs=position_pairs,
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
        )  # fmt: skip
        self.save_hyperparameters()
        self.temperature = temperature
        self.alpha = alpha
        self.denominator: Denominator = denominator
        self.warmup_epochs = warmup_epochs
        self.uses_centers = contrast_weight > 0 or center_weight > 0
        if self.uses_centers:
            self.register_buffer("centers", torch.full((num_strong, PROJECTION), math.nan, dtype=torch.float32))

    def terms(self, feature: Tensor, views: Views) -> dict[str, Tensor]:
        """Of features (A, D): contrast, distance to the centres, and cross-entropy of the lesion count; this alone while there are no centres."""
        terms = {}
        if "augmentation" in self.weights:
            terms["augmentation"] = self.augmentation_loss(feature, views)
        if self.uses_centers and self.current_epoch < self.warmup_epochs:
            terms["augmentation"] = with_idle_weights(terms["augmentation"], self.projection.parameters())
        elif self.uses_centers:
            projection = self.projection(feature).float()
            own = self.centers[views.label]
            self.log("train/center_distance", (projection.detach() - own).norm(dim=1).min())
            if "center" in self.weights:
                terms["center"] = center_loss(projection, own)
            if "contrast" in self.weights:
                terms["contrast"] = multi_class_contrast(
                    self.candidates(centered(projection, own), views),
                    temperature=self.temperature, alpha=self.alpha, denominator=self.denominator,
                )  # fmt: skip
        return terms

    # Centres ---------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Measure the centres when they are first needed; a checkpoint has them."""
        super().on_train_epoch_start()
        if self.uses_centers and self.current_epoch >= self.warmup_epochs and bool(self.centers.isnan().any()):
            self.centers.copy_(self.measure_centers())

    @torch.no_grad()
    def measure_centers(self) -> Tensor:
        """Mean projection of every class over the training set of all processes, in evaluation mode, (N, K)."""
        training = self.training
        self.eval()
        pool = self._pool()
        pool_keys = image_keys(pool)
        total = torch.zeros(self.num_strong, PROJECTION, dtype=torch.float64, device=self.device)
        count = torch.zeros((), dtype=torch.float64, device=self.device)
        for image in self._measured():
            found = image_keys(image).unsqueeze(1) == pool_keys
            own = torch.where(found.any(1), found.int().argmax(1), -1)
            for number in range(self.num_strong):
                draws = ContentDraws(image_keys(image, number + 1))
                label = torch.full((len(image),), number, dtype=torch.long, device=image.device)
                start = mirrored(image, draws) if self.strong == "rotation" else image
                view = self.weaken(self.strengthen(start, label, draws, pool=pool, own=own), draws)
                projection = self.projection(self.encoder(view))
                self.watch("a projection", projection)
                total[number] += projection.double().sum(0)
            count += len(image)
        self.train(training)
        center = self.sum_over_ranks(total) / self.sum_over_ranks(count)
        return center.float()

    def _measured(self) -> Iterator[Tensor]:
        """All training images, or all patches of them that lie side by side, in portions."""
        for image in self.training_images():
            patches = image if self.grid is None else PatchGrid(size=self.grid.size, stride=self.grid.size).cut(image)
            yield from torch.split(patches, IMAGES_AT_ONCE)

    def _pool(self) -> Tensor:
        """The images or patches of all processes with the smallest keys, (P, C, S, S)."""
        pool: Tensor | None = None
        for image in self._measured():
            pool = image if pool is None else torch.cat([pool, image])
            pool = pool[image_keys(pool).argsort()[:POOL]]
        if pool is None:
            raise ConfigError("PMSACL needs training images for its centres; got none. Look at the data set.")
        if self.trainer.world_size > 1:
            pool = pool[torch.arange(POOL, device=pool.device) % len(pool)]  # as many in every process
            pool = cast(Tensor, self.all_gather(pool)).flatten(0, 1)
        keys = image_keys(pool)
        order = keys.argsort()
        fresh = torch.cat([torch.ones_like(order[:1], dtype=torch.bool), keys[order].diff() != 0])  # each of them once
        return pool[order[fresh][:POOL]]
