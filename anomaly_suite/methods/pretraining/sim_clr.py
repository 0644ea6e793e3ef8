"""SimCLR: two weakly augmented views of an image are pulled together, all others apart.

Paper: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020; trained on normal images alone
    in table 5.9 of Yu Tian's thesis.
Reference: none read.
Differs: one recipe with CCD (temperature 0.2, SGD, batches of 32), so that methods of that table differ by their losses alone.
Axes: A views, D width of the encoder.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.methods.pretraining.contrast import Candidates, contrast, similarity
from anomaly_suite.methods.pretraining.contrastive_pretraining import ContrastivePretraining, Views
from anomaly_suite.nn.size import ImageSize


def nt_xent(candidates: Candidates, *, temperature: float) -> Tensor:
    """Contrast of every view with its partner against all other views, of normalised projections: a scalar."""
    logits = similarity(candidates.feature[candidates.anchors], candidates.feature) / temperature
    return contrast(logits, candidates.positives, candidates.others())


class SimCLR(ContrastivePretraining):
    """Pre-training: contrast of weakly augmented views.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``. The anomaly score, a density of
    the features, is a baseline; there is no map.

    Args:
        temperature: tau; SimCLR's own is 0.5.
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
        density: That scores: ``gaussian``; ``kde``, a kernel on each feature of a bank; ``ocsvm``, a one-class SVM of them; or
            ``nearest``, one less the largest cosine.
        bank_size: Most features that the last three keep; beyond it, a sample that the images alone decide.

    Raises:
        ConfigError: a network or size that does not fit.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.2,
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
        density: Literal["gaussian", "kde", "ocsvm", "nearest"] = "gaussian",
        bank_size: int = 10_000,
    ) -> None:
        super().__init__(
            strong=None, num_strong=1, versions="one", crop_scale=crop_scale, colour=colour, blur=blur,
            projection="two layers", weights={"contrast": 1.0}, position_pairs=0,
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
            density=density, bank_size=bank_size,
        )  # fmt: skip
        self.save_hyperparameters()
        self.temperature = temperature

    def terms(self, feature: Tensor, views: Views) -> dict[str, Tensor]:
        """The contrast of features (A, D) of the views."""
        candidates = self.candidates(F.normalize(self.projection(feature).float(), dim=1), views)
        return {"contrast": nt_xent(candidates, temperature=self.temperature)}
