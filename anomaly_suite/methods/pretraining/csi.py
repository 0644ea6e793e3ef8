"""CSI: rotated copies of an image are instances of their own, and a classifier tells the rotations.

Paper: Tack et al., "CSI: Novelty Detection via Contrastive Learning on Distributionally Shifted Instances", NeurIPS 2020.
Reference: alinlab/CSI, as described in our notes, no code read.
Differs: one recipe with CCD but for the temperature, which is the paper's. As an anomaly score its ensemble of 40 views against a bank of all
    training features, whose memory grows with the data set, is left out; the score is the Gaussian of all pre-trainings here.
Axes: A = 8 * B views, D width of the encoder.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.methods.pretraining.contrastive_pretraining import ContrastivePretraining, Views
from anomaly_suite.methods.pretraining.sim_clr import nt_xent
from anomaly_suite.nn.size import ImageSize


class CSI(ContrastivePretraining):
    """Pre-training: contrast of all four rotations of every image, and a classifier of them. Images must be square.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``. The anomaly score, a Gaussian of
    the features, is a baseline; there is no map.

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

    Raises:
        ConfigError: no loss at all, or a network or size that does not fit.
    """

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
    ) -> None:
        super().__init__(
            strong="rotation", num_strong=4, versions="all", crop_scale=crop_scale, colour=colour, blur=blur,
            projection="two layers" if contrast_weight > 0 else None, position_pairs=0,
            weights={"contrast": contrast_weight, "augmentation": augmentation_weight},
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
        )  # fmt: skip
        self.save_hyperparameters()
        self.temperature = temperature

    def terms(self, feature: Tensor, views: Views) -> dict[str, Tensor]:
        """Contrast and cross-entropy of the rotation."""
        terms = {}
        if "contrast" in self.weights:
            candidates = self.candidates(F.normalize(self.projection(feature).float(), dim=1), views)
            terms["contrast"] = nt_xent(candidates, temperature=self.temperature)
        if "augmentation" in self.weights:
            terms["augmentation"] = self.augmentation_loss(feature, views)
        return terms
