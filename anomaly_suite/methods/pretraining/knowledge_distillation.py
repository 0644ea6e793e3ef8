"""Knowledge distillation: an encoder learns to answer with the features of a pretrained network.

Paper: Chen et al., "Deep One-Class Classification via Interpolated Gaussian Descriptor" (IGD), AAAI 2022, whose frozen
    encoders are distilled from a ResNet18 trained on ImageNet: squared L2 distance of the pooled features. The distance as
    anomaly score is the idea of Salehi et al., "Multiresolution Knowledge Distillation for Anomaly Detection", CVPR 2021,
    who compare several layers; on the last one alone it is no more than a baseline.
Reference: neither IGD's distillation code nor its distilled weights were released.
Differs: the paper does not say which images are distilled on; here they are the training images, or random patches of them,
    enlarged to what the teacher was trained on. Where student and teacher differ in width, a linear layer comes between.
Axes: B batch, C channels, H and W pixels, P patches of an image, S side of a patch, D teacher width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.distillation import PooledTeacher, distillation_error
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.exporting import portions
from anomaly_suite.nn.patches import PatchGrid, random_patches
from anomaly_suite.nn.size import ImageSize

PATCHES_AT_ONCE = 4
"""Patches of each image that are scored at once: at the teacher's size all 225 of them would take gigabytes."""


class KnowledgeDistillation(AnomalyModule):
    """Pre-training: an encoder, the student, learns the pooled features of a pretrained network, the teacher.

    Give the checkpoint as ``encoder_weights`` to a method with the same ``encoder``, size and ``width``. The anomaly score is
    the squared distance between the features of student and teacher, a baseline; there is no map.

    Args:
        teacher: Any timm network; its last feature map is averaged.
        teacher_weights: ``imagenet``, a local file, or null for random weights.
        teacher_size: Height and width that images or patches are resized to for the teacher.
        encoder: The student: ``residual``, or the name of a timm network.
        image_size: Height and width of the images that a ``residual`` student takes, unless it takes patches.
        width: Channels of the first convolution of ``residual``; it ends with 8 times as many.
        patch_size: Train on random square patches of so many pixels, for a ``residual`` student of that size. The score is
            then the largest over a grid of patches that overlap by half. Null takes whole images.
        patches_per_image: Patches of each training image and step.
        lr: Learning rate of Adam.
        weight_decay: Of Adam.

    Raises:
        ConfigError: an unknown network, or a size that does not fit.
    """

    image_channels = (1, 3)

    def __init__(
        self,
        *,
        teacher: str = "resnet18",
        teacher_weights: str | None = "imagenet",
        teacher_size: ImageSize = 224,
        encoder: str = "residual",
        image_size: ImageSize = 32,
        width: int = 64,
        patch_size: int | None = None,
        patches_per_image: int = 16,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if patches_per_image < 1:
            raise ConfigError(
                f"patches_per_image must be at least 1; got {patches_per_image}. IGD's batch is 64 patches."
            )
        self.teacher = PooledTeacher(teacher, size=teacher_size)
        self.encoder = ImageEncoder(encoder, image_size=patch_size or image_size, width=width)
        self.head: nn.Module = nn.Identity()
        if self.encoder.out_features != self.teacher.out_features:
            self.head = nn.Linear(self.encoder.out_features, self.teacher.out_features)
        self.grid = PatchGrid(size=patch_size, stride=max(1, patch_size // 2)) if patch_size else None
        self.patches_per_image = patches_per_image
        self.teacher_weights = teacher_weights
        self.lr = lr
        self.weight_decay = weight_decay

    def load_pretrained(self) -> None:
        """Load the teacher's weights."""
        self.teacher.encoder.load_weights(self.teacher_weights)

    def error(self, image: Tensor) -> Tensor:
        """Squared distance between the features of student and teacher for images (B, C, H, W), shape (B,)."""
        return distillation_error(self.head(self.encoder(image)), self.teacher(image))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared distance over the batch."""
        image = batch["image"]
        if self.grid is not None:
            generator = self.step_generator(batch_idx)
            image = random_patches(image, size=self.grid.size, count=self.patches_per_image, generator=generator)
        loss = self.error(image).mean()
        self.log("train/loss", loss)
        return loss

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            Distillation error (B,), 0 or above, the largest of all patches where there are patches; and no map.

        Raises:
            ShapeError: images of another size than the student takes, or smaller than a patch.
        """
        if self.grid is None:
            return self.error(image), None
        patches = self.grid.cut(image)
        patches = patches.view(image.shape[0], -1, *patches.shape[1:])  # (B, P, C, S, S)
        errors = [self.error(some.flatten(0, 1)) for some in portions(patches, PATCHES_AT_ONCE, 1)]
        return torch.cat([error.view(image.shape[0], -1) for error in errors], 1).amax(1), None

    def configure_optimizers(self) -> Optimizer:
        """Adam on the student."""
        student = [*self.encoder.parameters(), *self.head.parameters()]
        return Adam(student, lr=self.lr, weight_decay=self.weight_decay)
