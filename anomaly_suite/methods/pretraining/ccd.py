"""CCD: an encoder learns to tell strong augmentations of normal images, each of them as an instance of its own, and places of patches.

Paper: Tian et al., "Constrained Contrastive Distribution Learning for Unsupervised Anomaly Detection and Localisation in Medical
    Images", MICCAI 2021; Yu Tian's thesis, ch. 4.
Reference: the released pre-training (a global and a local script), as described in our notes, no code read. It is faulty: the labels of
    the strong augmentations belong to other items, the classifier's weights never train, and of the local one not all can run.
Differs: labels stand beside their views, heads are trained, classifiers see features instead of projections. Both views are anchors, all
    other items are negatives, as in the released code; ``anchors: first`` is the code's, ``negatives: same_augmentation`` the paper's.
    An epoch has each image in one version drawn anew, so four epochs are one of the papers', which list every image in four. Patches
    lie anywhere. Sides of holes of ``cutout``, and the strength of the jitter of pairs of patches, are ours.
Axes: A views, D width of the encoder, K of a projection.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.augment.strong import Strong
from anomaly_suite.methods.pretraining.contrast import Candidates, contrast, similarity
from anomaly_suite.methods.pretraining.contrastive_pretraining import ContrastivePretraining, Versions, Views
from anomaly_suite.nn.size import ImageSize

Negatives = Literal["all", "same_augmentation"]
Anchors = Literal["both", "first"]


def distribution_contrast(
    candidates: Candidates, *, temperature: float, negatives: Negatives, anchors: Anchors
) -> Tensor:
    """CCD's contrast of normalised projections.

    Args:
        candidates: Views, labelled by their strong augmentation.
        temperature: tau.
        negatives: ``all`` other views, also the same image under another strong augmentation; or views of other images under the
            ``same_augmentation``, an anchor without any of them having a loss of 0.
        anchors: ``both`` views of an item, or the ``first`` one alone.

    Returns:
        Scalar.
    """
    anchor, positive, allowed = candidates.anchors, candidates.positives, candidates.others()
    if negatives == "same_augmentation":
        same = candidates.label == candidates.label[anchor].unsqueeze(1)
        allowed = allowed & same & (candidates.source != candidates.source[anchor].unsqueeze(1))
        allowed = allowed.scatter(1, positive.unsqueeze(1), True)
    logits = similarity(candidates.feature[anchor], candidates.feature) / temperature
    rows = slice(len(anchor) // 2) if anchors == "first" else slice(None)
    return contrast(logits[rows], positive[rows], allowed[rows])


class CCD(ContrastivePretraining):
    """Pre-training: contrast of strongly augmented images, a classifier of their augmentation, and one of the places of patches.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``: of whole images to a global
    model, with a ``patch_size`` to a local one. The anomaly score, a Gaussian of the features, is a baseline; there is no map.

    Args:
        strong: Strong augmentation: ``permutation`` of halves (best for endoscopy), ``rotation`` (for fundus images), ``cutout``, ``noise``,
            ``cutmix`` or ``medmix``.
        num_strong: Versions of it, the image as it is included.
        versions: ``one`` version of each image a step, or ``all``.
        negatives: ``all`` other views as in the released code, or the paper's: other images under the ``same_augmentation``.
        anchors: ``both`` views of an item, or the ``first`` as in the released code.
        temperature: tau of the contrast.
        contrast_weight: Factor of the contrast; a loss of weight 0 is left out.
        augmentation_weight: Factor of the classifier of strong augmentations.
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
        ConfigError: a number of versions that the augmentation does not have, no loss at all, or a network or size that does not fit.
    """

    def __init__(
        self,
        *,
        strong: Strong = "permutation",
        num_strong: int = 4,
        versions: Versions = "one",
        negatives: Negatives = "all",
        anchors: Anchors = "both",
        temperature: float = 0.2,
        contrast_weight: float = 1.0,
        augmentation_weight: float = 1.0,
        position_weight: float = 1.0,
        position_pairs: int = 32,
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
    ) -> None:
        weights = {"contrast": contrast_weight, "augmentation": augmentation_weight, "position": position_weight}
        super().__init__(
            strong=strong, num_strong=num_strong, versions=versions, crop_scale=crop_scale, colour=colour, blur=blur,
            projection="two layers" if contrast_weight > 0 else None, weights=weights, position_pairs=position_pairs,
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
        )  # fmt: skip
        self.save_hyperparameters()
        self.negatives: Negatives = negatives
        self.anchors: Anchors = anchors
        self.temperature = temperature

    def terms(self, feature: Tensor, views: Views) -> dict[str, Tensor]:
        """Contrast and cross-entropy of the augmentation, from features (A, D) of the views."""
        terms = {}
        if "contrast" in self.weights:
            candidates = self.candidates(F.normalize(self.projection(feature).float(), dim=1), views)
            terms["contrast"] = distribution_contrast(
                candidates, temperature=self.temperature, negatives=self.negatives, anchors=self.anchors
            )
        if "augmentation" in self.weights:
            terms["augmentation"] = self.augmentation_loss(feature, views)
        return terms
