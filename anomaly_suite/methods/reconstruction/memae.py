"""MemAE: an autoencoder that decodes a few learned memory items in place of its code; what normal prototypes cannot make up is anomalous.

Paper: Gong et al., "Memorizing Normality to Detect Anomaly", ICCV 2019.
Reference: the authors' released code, which is that of videos alone, as described of it; no code read.
Differs: images have padded 3 x 3 convolutions, and transposed ones of 4 x 4, as is usual for this method; LeakyReLU as in the release. Items are
    addressed by the dot product as released: cosines, as printed, differ too little for any item to reach the upper end of the published
    range of the shrinkage, 3/N. The default is its lower end, 1/N, where about half of the items are alive at first; at 3/N none is.
    ``warmup_epochs`` without shrinkage are ours.
Axes: B batch, C channels, H and W pixels, T frames, Q queries, D width of a query, N items, h and w cells of the innermost grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.dcgan import dcgan_weights, to_signed, to_unit
from anomaly_suite.nn.size import ImageSize, height_width, require_divisible, require_image

EPSILON = 1e-12  # in quotients and under the logarithm
GREY_WIDTHS, COLOUR_WIDTHS, VIDEO_WIDTHS = (16, 32, 64), (64, 128, 128, 256), (96, 128, 256, 256)
GREY_ITEMS, COLOUR_ITEMS, VIDEO_ITEMS = 100, 500, 2000
SLOPE = 0.2  # of the leaky rectifiers


def shrink(weight: Tensor, shrinkage: float) -> Tensor:
    """Weights below the shrinkage become 0, the others sum to 1; all are 0 where none reaches it.

    Args:
        weight: Shape (Q, N), rows that sum to 1.
        shrinkage: Lambda.

    Returns:
        Shape (Q, N).
    """
    above = weight - shrinkage
    kept = F.relu(above) * weight / (above.abs() + EPSILON)
    return kept / (kept.sum(1, keepdim=True) + EPSILON)


def entropy(weight: Tensor) -> Tensor:
    """Entropy of each row of weights, (Q, N) to (Q,), in nats."""
    return -(weight * (weight + EPSILON).log()).sum(1)


class Memory(nn.Module):
    """Replaces queries by convex combinations of learned items.

    Args:
        items: N.
        features: D.
        shrinkage: Lambda.
        addressing: By ``dot`` products or ``cosine``.
        temperature: By which similarities are divided.
    """

    def __init__(
        self, *, items: int, features: int, shrinkage: float, addressing: Literal["dot", "cosine"], temperature: float
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(features)
        self.items = nn.Parameter(torch.empty(items, features).uniform_(-bound, bound))
        self.shrinkage = shrinkage
        self.addressing = addressing
        self.temperature = temperature

    def address(self, query: Tensor, *, shrunk: bool = True) -> Tensor:
        """Weights (Q, N) of the items for queries (Q, D), in float32."""
        query, items = query.float(), self.items.float()
        if self.addressing == "cosine":
            query, items = F.normalize(query, dim=1), F.normalize(items, dim=1)
        weight = torch.softmax(query @ items.t() / self.temperature, 1)
        return shrink(weight, self.shrinkage) if shrunk else weight

    def forward(self, query: Tensor, *, shrunk: bool = True) -> tuple[Tensor, Tensor]:
        """Queries (Q, D) to what is read for them, of the same shape, and the weights (Q, N)."""
        weight = self.address(query, shrunk=shrunk)
        return (weight @ self.items.float()).to(query.dtype), weight


def image_networks(channels: int, widths: Sequence[int]) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of images: every level halves the sides, or doubles them."""
    encoder: list[nn.Module] = []
    for before, after in pairwise((channels, *widths)):
        encoder += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE)]
    decoder: list[nn.Module] = []
    for before, after in pairwise((widths[-1], *reversed(widths[1:]), channels)):
        decoder += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*encoder[:-2]), nn.Sequential(*decoder[:-2])  # the last layers are plain


def video_networks(channels: int, widths: Sequence[int]) -> tuple[nn.Sequential, nn.Sequential]:
    """The same of clips; the outermost level leaves the number of frames."""
    strides = [(1, 2, 2), *[(2, 2, 2)] * (len(widths) - 1)]
    encoder: list[nn.Module] = []
    for (before, after), stride in zip(pairwise((channels, *widths)), strides, strict=True):
        encoder += [nn.Conv3d(before, after, 3, stride, 1), nn.BatchNorm3d(after), nn.LeakyReLU(SLOPE)]
    decoder: list[nn.Module] = []
    for (before, after), stride in zip(pairwise((*reversed(widths), channels)), reversed(strides), strict=True):
        more = (stride[0] - 1, stride[1] - 1, stride[2] - 1)
        decoder += [nn.ConvTranspose3d(before, after, 3, stride, 1, more), nn.BatchNorm3d(after), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*encoder[:-2]), nn.Sequential(*decoder[:-2])


class MemAE(AnomalyModule):
    """Memory-augmented autoencoder of images, or of clips of frames.

    The score of an image is the mean squared error on the scale of [-1, 1], the map its mean over channels. That of a clip is the length of the
    error over the channels of a frame, in the mean over pixels and frames, the map its mean over frames. The protocol of videos scales
    the scores of every video by its own lowest and highest, which are of the test: not done here.

    Clips are images of ``frames * in_channels`` channels, frame after frame. ``train/alive`` is the share of queries for which an item is
    alive, ``train/items`` their number for each query. A memory in which none is alive makes one image of everything, and never learns:
    an epoch of that kind is said.

    Args:
        in_channels: C.
        image_size: Height and width, divisible by two as often as there are widths.
        frames: T of a clip, divisible by two one time less often; 1 for images. Released: 16.
        widths: Channels of each level, outermost first; null is 16, 32, 64 for grey images, 64, 128, 128, 256 for others, and 96, 128, 256, 256 for
            clips.
        items: N; null is 100 for grey images, 500 for others and 2000 for clips.
        code: What a query is: the ``whole`` code, or each of its ``cells``, which lets the decoder put local parts together anew; null is
            ``whole`` for images and ``cells`` for clips.
        addressing: Similarity of queries and items: ``dot`` as released, or ``cosine`` as printed.
        temperature: By which it is divided.
        shrinkage: Lambda: smaller weights become 0; null is 1/N.
        warmup_epochs: First epochs without shrinkage.
        entropy_weight: Weight of the entropy of the weights.
        lr: Learning rate of Adam.

    Shapes: images (B, C, H, W) or clips (B, T * C, H, W) in [0, 1]; score (B,); map (B, 1, H, W).

    Raises:
        ConfigError: an option outside its range, or sizes that do not fit.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: ImageSize = 32,
        frames: int = 1,
        widths: Sequence[int] | None = None,
        items: int | None = None,
        code: Literal["whole", "cells"] | None = None,
        addressing: Literal["dot", "cosine"] = "dot",
        temperature: float = 1.0,
        shrinkage: float | None = None,
        warmup_epochs: int = 0,
        entropy_weight: float = 0.0002,
        lr: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.in_channels, self.image_size, self.frames = in_channels, height_width(image_size), frames
        self.image_channels = (in_channels * frames,)
        self.warmup_epochs, self.entropy_weight, self.lr = warmup_epochs, entropy_weight, lr
        kind = 2 if frames > 1 else int(in_channels > 1)
        widths = tuple(widths or (GREY_WIDTHS, COLOUR_WIDTHS, VIDEO_WIDTHS)[kind])
        items = items or (GREY_ITEMS, COLOUR_ITEMS, VIDEO_ITEMS)[kind]
        self.whole = (code or ("whole" if kind < 2 else "cells")) == "whole"
        require_divisible(self.image_size, len(widths))
        grid = [side // 2 ** len(widths) for side in self.image_size]
        if frames > 1:
            halvings = len(widths) - 1
            if frames % 2**halvings:
                raise ConfigError(
                    f"frames must be divisible by {2**halvings} for {len(widths)} widths; got {frames}. Released: 16 frames."
                )
            grid.insert(0, frames // 2**halvings)
        self.encoder, self.decoder = (video_networks if frames > 1 else image_networks)(in_channels, widths)
        for net in (self.encoder, self.decoder):
            dcgan_weights(net)
        self.memory = Memory(
            items=items,
            features=widths[-1] * (math.prod(grid) if self.whole else 1),
            shrinkage=(1 / items) % 1 if shrinkage is None else shrinkage,  # a single item keeps its weight of 1
            addressing=addressing,
            temperature=temperature,
        )
        self._told = False

    def decode(self, x: Tensor, *, shrunk: bool = True) -> tuple[Tensor, Tensor]:
        """Reconstruct images or clips by the memory.

        Args:
            x: Shape (B, C, H, W) or (B, T * C, H, W), in [-1, 1].
            shrunk: Whether small weights become 0.

        Returns:
            A reconstruction of the shape of ``x``, and the weights (Q, N) of all queries.

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        require_image(x, channels=self.in_channels * self.frames, size=self.image_size)
        shape = x.shape
        if self.frames > 1:
            x = x.view(len(x), self.frames, self.in_channels, *shape[2:]).transpose(1, 2)  # (B, C, T, H, W)
        code = self.encoder(x)  # (B, width, h, w) or (B, width, t, h, w)
        rows = code.flatten(1) if self.whole else code.movedim(1, -1).flatten(0, -2)  # (Q, D)
        read, weight = self.memory(rows, shrunk=shrunk)
        if self.whole:
            read = read.view(code.shape)
        else:
            read = read.view(code.shape[0], *code.shape[2:], code.shape[1]).movedim(-1, 1)
        made: Tensor = self.decoder(read)
        return (made.transpose(1, 2).reshape(shape) if self.frames > 1 else made), weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error, and the weighted entropy of the addresses."""
        x = to_signed(batch["image"])
        made, weight = self.decode(x, shrunk=self.current_epoch >= self.warmup_epochs)
        error = (x.float() - made.float()).square().mean()
        spread = entropy(weight).mean()
        loss = error + self.entropy_weight * spread
        items = (weight > 0).sum(1).float()
        values = {"loss": loss, "reconstruction": error, "entropy": spread, "items": items.mean()}
        self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})
        self.log("train/alive", (items > 0).float().mean(), on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Say once if no item was alive."""
        super().on_train_epoch_end()
        if not self._told and self.trainer.callback_metrics.get("train/alive", torch.tensor(1.0)) == 0:
            self._told = True
            count = len(self.memory.items)
            rank_zero_warn(
                f"MemAE makes one image of everything: shrinkage={self.memory.shrinkage:.4g} lets none of its {count} items live, and their "
                f"weights near 1/{count} at first never grow. Lower it to {1 / count:.4g}, or give warmup_epochs."
            )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images or clips.

        Args:
            image: Shape (B, C, H, W) or (B, T * C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W), on the scale of [-1, 1].

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        x = to_signed(image)
        squared = (x.float() - self.decode(x)[0].float()).square()
        if self.frames > 1:
            squared = squared.view(len(x), self.frames, self.in_channels, *x.shape[2:]).sum(2).sqrt()  # (B, T, H, W)
        anomaly_map = squared.mean(1, keepdim=True)
        return anomaly_map.mean((1, 2, 3)), anomaly_map

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) or clips (B, T * C, H, W) in [0, 1], decoded from memory."""
        return Reconstruction(to_unit(self.decode(to_signed(image))[0]))

    def configure_optimizers(self) -> Optimizer:
        """Adam, for encoder, memory and decoder."""
        return Adam(self.parameters(), lr=self.lr)
