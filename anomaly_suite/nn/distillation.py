"""Learning from a pretrained network: its pooled features, and the distance to them.

Axes: B batch, C channels, H and W pixels, D teacher width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.exporting import is_exporting, plain
from anomaly_suite.nn.size import ImageSize, height_width, resize_antialiased


class PooledTeacher(nn.Module):
    """Averaged last feature map of a timm network that never changes.

    Args:
        name: Any timm network with feature maps.
        size: Height and width that images are resized to.

    Raises:
        ConfigError: an unknown network, or one without feature maps.
    """

    def __init__(self, name: str, *, size: ImageSize) -> None:
        super().__init__()
        self.size = height_width(size)
        self.encoder = ImageEncoder(name, image_size=self.size)
        self.encoder.freeze()
        self.out_features = self.encoder.out_features

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Features of images.

        Args:
            image: Shape (B, C, H, W), in [0, 1], C 1 or 3.

        Returns:
            Shape (B, D).
        """
        resized = _resize(image, self.size)
        features: Tensor = self.encoder(resized)
        return features


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) in another size, bilinear and antialiased."""
    if not is_exporting():
        return resize_antialiased(image, size)
    # ONNX's exporters know no antialiasing, but products.
    down, across = (
        _triangles(plain(before), after, image) for before, after in zip(image.shape[2:], size, strict=True)
    )
    return down @ image @ across.T


def _triangles(before: int, after: int, like: Tensor) -> Tensor:
    """Weights (after, before) of the pixels of one axis: triangles around each new pixel, as wide as an old or a new one."""
    scale = before / after
    pixel, centre = (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5 for count in (before, after))
    weight = (1 - (pixel - scale * centre.unsqueeze(1)).abs() / max(scale, 1.0)).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


def distillation_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared L2 distance over the second axis, in float32.

    Args:
        student: Shape (B, D) or (B, D, H, W).
        teacher: Shape of ``student``, or one that broadcasts to it.

    Returns:
        Shape (B,) or (B, H, W).
    """
    return ((student.float() - teacher.float()) ** 2).sum(1)
