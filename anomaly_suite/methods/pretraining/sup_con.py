"""SupCon: images with equally many synthetic lesions are pulled together, all others apart.

Paper: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020; with PMSACL's pseudo-classes as labels in table 5.9 of Yu Tian's thesis.
Reference: HobbitLong/SupContrast, as described in our notes, no code read.
Differs: one recipe with PMSACL. The factor of two temperatures, 1 where they are equal, is left out; anchors without positives are left
    out of the mean instead of counting as 0.
Axes: A views, D width of the encoder.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.augment.strong import Strong
from anomaly_suite.methods.pretraining.contrast import Candidates, similarity, supervised_contrast
from anomaly_suite.methods.pretraining.contrastive_pretraining import ContrastivePretraining, Versions, Views
from anomaly_suite.nn.size import ImageSize


def class_contrast(candidates: Candidates, *, temperature: float) -> Tensor:
    """Contrast of every view with all others of its class, of normalised projections: a scalar."""
    others = candidates.others()
    same = candidates.label == candidates.label[candidates.anchors].unsqueeze(1)
    logits = similarity(candidates.feature[candidates.anchors], candidates.feature) / temperature
    return supervised_contrast(logits, same & others, others)


class SupCon(ContrastivePretraining):
    """Pre-training: contrast between classes of images with equally many lesions.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``. The anomaly score, a Gaussian of
    the features, is a baseline; there is no map.

    Args:
        strong: Strong augmentation that makes the classes: ``medmix``, ``cutmix``, ``cutout``, ``noise``, ``permutation`` or ``rotation``.
        num_strong: Classes, normal images included: 0 to 3 lesions for 4.
        versions: ``all`` versions of each image a step, or ``one``, all numbers equally often, for less memory.
        temperature: tau.
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
        ConfigError: a number of versions that the augmentation does not have, or a network or size that does not fit.
    """

    def __init__(
        self,
        *,
        strong: Strong = "medmix",
        num_strong: int = 4,
        versions: Versions = "all",
        temperature: float = 0.2,
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
        super().__init__(
            strong=strong, num_strong=num_strong, versions=versions, crop_scale=crop_scale, colour=colour, blur=blur,
            projection="two layers", weights={"contrast": 1.0}, position_pairs=0,
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
        )  # fmt: skip
        self.save_hyperparameters()
        self.temperature = temperature

    def terms(self, feature: Tensor, views: Views) -> dict[str, Tensor]:
        """The contrast of features (A, D) of the views."""
        candidates = self.candidates(F.normalize(self.projection(feature).float(), dim=1), views)
        return {"contrast": class_contrast(candidates, temperature=self.temperature)}
