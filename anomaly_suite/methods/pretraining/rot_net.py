"""RotNet: an encoder learns to tell by which quarter turn an image was rotated.

Papers: Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018; as an anomaly detector Golan and
    El-Yaniv, NeurIPS 2018, with more transformations, and Hendrycks et al., NeurIPS 2019.
Reference: none read.
Differs: one recipe with CCD. Images are mirrored before they are rotated: afterwards a mirror would swap 90 and 270 degrees.
Axes: B batch, V = 4 rotations, D width of the encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.structural import quarter_turned
from anomaly_suite.contract import Batch
from anomaly_suite.methods.pretraining.contrastive_pretraining import ContrastivePretraining
from anomaly_suite.nn.size import ImageSize

ROTATIONS = 4


class RotNet(ContrastivePretraining):
    """Pre-training: all four rotations of every image, and a classifier of them. Images must be square.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``. The anomaly score is
    one less the mean probability that the classifier gives to the true rotation of each of four rotated copies, in [0, 1], of
    patches the largest; there is no map. Where images have no upright position, it says nothing.

    Args:
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
        ConfigError: a network or size that does not fit.
    """

    has_gaussian = False

    def __init__(
        self,
        *,
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
            strong="rotation", num_strong=ROTATIONS, versions="all", crop_scale=crop_scale, colour=colour, blur=blur,
            projection=None, weights={"augmentation": 1.0}, position_pairs=0,
            encoder=encoder, encoder_weights=encoder_weights, image_size=image_size, width=width, patch_size=patch_size,
            patches_per_image=patches_per_image, lr=lr, momentum=momentum, weight_decay=weight_decay,
        )  # fmt: skip
        self.save_hyperparameters()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of the rotation of one view of every rotated image."""
        image = self.inputs(batch["image"], batch_idx)
        views = self.make_views(image, GeneratorDraws(self.step_generator(batch_idx)), views=1)
        loss = self.augmentation_loss(self.encoder(views.image), views)
        self.log("train/loss", loss)
        return loss

    def distance(self, image: Tensor) -> Tensor:
        """Score (B,) of images or patches (B, C, S, S)."""
        right = []
        for number in range(ROTATIONS):
            turned = quarter_turned(image, number)
            right.append(self.augmentation_head(self.encoder(turned)).float().softmax(1)[:, number])
        return 1 - torch.stack(right).mean(0)
