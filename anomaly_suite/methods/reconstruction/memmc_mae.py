"""MemMC-MAE: a masked autoencoder of normal images with memory in its encoder; what it fills into hidden patches tells how normal they are.

Paper: Tian, thesis 2022, ch. 7 ("Unsupervised Anomaly Detection in Medical Images with a Memory-augmented Multi-level Cross-attentional Masked
    Autoencoder"). The authors' repository holds a notice and no code.
Formulas: encoder X + MSA([X; M]) over the visible quarter of the patches (7.1); decoder Y + sum over levels l of alpha_l * CA(Y, X_l) /
    sqrt(L) with alpha_l = sigmoid(W_l [Y; C_l]) (7.2, 7.3); loss, the mean squared error of hidden patches; score, the mean of
    1 - SSIM over scales, pixels and the masks of ten seeds.
Readings: the operators are nearly those of the Meshed-Memory Transformer (Cornia et al., CVPR 2020) and the rest is that of masked
    autoencoders (He et al., CVPR 2022), so these decide what the text leaves open: patches of 16, 8 decoder blocks of width 512, 40 slots,
    AdamW with betas 0.9 and 0.95, half a cosine after the warm-up, and the prediction of all other options (each says why). A gate of (7.3)
    that depends on the block's own output cannot be; it reads C_l. X holds patch tokens only, so there is no class token. Targets are plain
    standardised pixels, because scores need pixels.
Axes: B batch, S sequences (an image and a mask), k mask seeds, N patches, K visible ones, L levels, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Reconstruction
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import PixelSpace, ReconstructionError
from anomaly_suite.nn.encoders import STANDARDIZED_RANGE, destandardize, standardize
from anomaly_suite.nn.exporting import portions
from anomaly_suite.nn.masked_weights import load_masked_autoencoder
from anomaly_suite.nn.memory_transformer import MemoryEncoder
from anomaly_suite.nn.multi_level_decoder import Gate, MultiLevelDecoder
from anomaly_suite.nn.patch_tokens import draw_visible, hidden, patchify, take_visible, unpatchify
from anomaly_suite.nn.size import ImageSize, height_width, require_image

SEQUENCES_AT_ONCE = 80
"""Images times masks scored at once, which bounds the memory."""


class Size(NamedTuple):
    """Widths and depths of both networks."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    memory_slots: int


SIZES = {
    "tiny": Size(64, 4, 4, 48, 2, 4, 16),
    "small": Size(384, 12, 6, 256, 8, 8, 40),
    "base": Size(768, 12, 12, 512, 8, 16, 40),
}


def masked_error(prediction: Tensor, target: Tensor, is_hidden: Tensor) -> Tensor:
    """Squared error of hidden patches, averaged over their numbers, then over all hidden patches of the batch.

    Args:
        prediction: Shape (S, N, P).
        target: The same shape.
        is_hidden: 1 for hidden patches, else 0, shape (S, N).

    Returns:
        A scalar, float32.
    """
    error = (prediction.float() - target.float()).square().mean(2)
    return (error * is_hidden).sum() / is_hidden.sum()


def pooled(error: Tensor, is_hidden: Tensor | None) -> Tensor:
    """Maps of several masks as one.

    Args:
        error: Shape (B, k, H, W).
        is_hidden: 1 where a mask hides a pixel, else 0, shape (k, H, W). A pixel's mean is then over the masks that hide it; one
            that is never hidden gets the mean of the others of its image. None takes the mean over all masks.

    Returns:
        Shape (B, 1, H, W).
    """
    if is_hidden is None:
        return error.mean(1, keepdim=True)
    times = is_hidden.sum(0)
    mean = (error * is_hidden).sum(1) / times.clamp_min(1)
    known = (times > 0).to(mean.dtype)
    others = mean.sum((1, 2), keepdim=True) / known.sum()  # of pixels never hidden the mean is 0
    return torch.where(times > 0, mean, others).unsqueeze(1)


class MemMCMAE(AnomalyModule):
    """Masked autoencoder with memory-augmented self-attention and a decoder that reads all levels of the encoder.

    ``memory_slots: 0`` is the thesis' row "MAE + multi-level decoder"; with ``cross_attention: false`` and ``skips: false`` too it is a
    plain masked autoencoder.

    Args:
        size: ``base`` is that of the paper, a ViT-B; ``tiny`` is for CPUs, with images of 32 pixels and patches of 4.
        image_size: Height and width, multiples of ``patch_size``; other images are refused. The paper gives none; 224 is that of masked
            autoencoders.
        patch_size: Side of a patch in pixels; 16 for the same reason.
        weights: What training starts from: a file of a masked autoencoder in timm's names (its encoder must fit; a decoder in it is
            taken as far as it goes), the run of a training of this method, or null. The paper starts from random weights.
        mask_ratio: Share of patches that are hidden.
        mask_seeds: k; seeds 0 to k - 1 give a mask each, the same for all images, so that scores do not depend on the batch.
        memory_slots: Keys and values of each encoder block's memory; 0 for none, null as the size has it. The paper gives no number; 40
            is that of the Meshed-Memory Transformer.
        decay_memory: Weight decay on memory too, which pulls it towards 0; the paper does not say, and nothing says it is meant.
        cross_attention: Off, the decoder reads the last level alone, as its input.
        gate: ``channel``, as the Meshed-Memory Transformer; the paper's "linear layer with a sigmoid" may as well be ``scalar``, which has
            50 million weights less in ``base``.
        scale_levels: Divide the sum over L levels by the root of L, as the Meshed-Memory Transformer; (7.2) does not.
        cross_residual: Add the cross-attention to its input; (7.2) as printed does not, and then self-attention reaches the output
            through queries and gates alone.
        skips: Add outputs of earlier blocks to inputs of later ones in both networks: "U-Net-like" in the text, in none of its formulas.
        attention: ``dot`` is "standard ViT"; ``cosine`` is the text's "cosine similarity", without a temperature, as none is given.
        comparison: Of an image and what was filled in: ``ms_ssim`` adds the scales of 1 - SSIM, ``ms_ssim_product`` multiplies them for the
            score, as the thesis' chapter 6 defines it, with the same map; ``mse``.
        pixel_space: Where they are compared: ``unit`` is [0, 1]; the thesis' appendix has ``standardized``, with a range of 4.7579.
        score: ``pasted`` takes the image itself at visible patches. ``masked`` also divides by how often each patch was hidden. ``literal``
            takes predictions everywhere, as the text has it, though the loss never trains those of visible patches.
        map_unit: The map's values by ``pixel``, or their mean in each ``patch``; the score is the mean of either.
        ssim_scales: Of MS-SSIM, 1 to 5; null takes 5 with a window of 11, up to 4 with others.
        ssim_window: Of MS-SSIM, odd; null is 11 from 176 pixels on, else 3.
        optimizer: ``adamw``; ``adam`` is the text's word, but its decay of 0.05 is then part of the gradient and wrecks the training.
        lr: Highest learning rate, for batches of 256; it falls to 0 by half a cosine.
        betas: Of the optimiser; not given in the paper, those of masked autoencoders.
        weight_decay: Of the optimiser, not on biases, normalisations and memory.
        warmup_epochs: In which the learning rate rises linearly, step by step.

    Shapes: images (B, 1 or 3, H, W) in [0, 1]; score (B,); map (B, 1, H, W).

    Raises:
        ConfigError: an option outside its range, or sizes that do not fit.
    """

    image_channels = (1, 3)
    visible: Tensor

    def __init__(
        self,
        *,
        size: Literal["tiny", "small", "base"] = "base",
        image_size: ImageSize = 224,
        patch_size: int = 16,
        weights: str | None = None,
        mask_ratio: float = 0.75,
        mask_seeds: int = 10,
        memory_slots: int | None = None,
        decay_memory: bool = False,
        cross_attention: bool = True,
        gate: Gate = "channel",
        scale_levels: bool = True,
        cross_residual: bool = True,
        skips: bool = True,
        attention: Literal["dot", "cosine"] = "dot",
        comparison: Literal["ms_ssim", "ms_ssim_product", "mse"] = "ms_ssim",
        pixel_space: PixelSpace = "unit",
        score: Literal["pasted", "masked", "literal"] = "pasted",
        map_unit: Literal["pixel", "patch"] = "pixel",
        ssim_scales: int | None = None,
        ssim_window: int | None = None,
        optimizer: Literal["adamw", "adam"] = "adamw",
        lr: float = 1.5e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.05,
        warmup_epochs: int = 5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if comparison == "ms_ssim_product" and score == "masked":
            raise ConfigError(
                "score=masked needs a comparison that has a value for every patch; got comparison=ms_ssim_product, which multiplies means "
                "over the image. Use ms_ssim or mse, or another score."
            )
        self.image_size, self.patch_size = height_width(image_size), patch_size
        self.grid = _grid(self.image_size, patch_size)
        self.patches = math.prod(self.grid)
        self.num_visible = _visible(self.patches, mask_ratio)
        self.encoder, self.decoder = _networks(SIZES[size], self.grid, self.hparams)
        self.error: ReconstructionError | None = None
        if comparison != "mse":
            self.error = ReconstructionError(
                image_size=min(self.image_size),
                value_range=STANDARDIZED_RANGE if pixel_space == "standardized" else 1.0,
                rho=0.0,
                scales=ssim_scales,
                window_size=ssim_window,
            )
        masks = [
            draw_visible(1, self.patches, self.num_visible, generator=torch.Generator().manual_seed(seed))
            for seed in range(mask_seeds)
        ]
        self.register_buffer("visible", torch.cat(masks), persistent=False)  # k K
        self.lr, self.warmup_epochs = lr, warmup_epochs

    def load_pretrained(self) -> None:
        """Load what training starts from."""
        if self.hparams["weights"] is not None:
            load_masked_autoencoder(self.encoder, self.decoder, self.hparams["weights"])

    # Training --------------------------------------------------------------------------------------------------------

    def predict_patches(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Pixels of all patches, of which some are seen.

        Args:
            tokens: Embedded patches, shape (S, N, D).
            visible: Numbers of the patches that are seen, int64 (S, K).

        Returns:
            Shape (S, N, P * P * 3), standardised.
        """
        levels = self.encoder(take_visible(tokens, visible), every_level=self.decoder.levels > 0)
        out: Tensor = self.decoder(levels, visible)
        return out

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of hidden patches, each image under a mask of its own."""
        image = self.standardized(batch["image"])
        generator = self.step_generator(batch_idx)
        visible = draw_visible(len(image), self.patches, self.num_visible, generator=generator)
        prediction = self.predict_patches(self.encoder.embed(image), visible)
        loss = masked_error(prediction, patchify(image, self.patch_size), hidden(visible, self.patches))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def standardized(self, image: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) in [0, 1] as the networks see them, (B, 3, H, W).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        x = standardize(image)
        require_image(x, channels=3, size=self.image_size)
        return x

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, by the place in the run alone: a resumed run needs no scheduler state."""
        epochs, progress = self.epochs_behind(batch_idx), self.training_progress(batch_idx)
        rate = self.lr * learning_rate(epochs, progress, warmup=self.warmup_epochs)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def configure_optimizers(self) -> Optimizer:
        """AdamW, or Adam; :meth:`on_train_batch_start` sets the rate."""
        spared = () if self.hparams["decay_memory"] else ("memory_key", "memory_value")
        groups: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, weight in self.named_parameters():
            part = name.rpartition(".")[2]
            groups[weight.ndim > 1 and part not in ("gate_bias", *spared)].append(weight)
        options: list[dict[str, Any]] = [
            {"params": groups[True], "weight_decay": self.hparams["weight_decay"]},
            {"params": groups[False], "weight_decay": 0.0},
        ]
        first, second = self.hparams["betas"]
        kind = AdamW if self.hparams["optimizer"] == "adamw" else Adam
        return kind(options, lr=self.lr, betas=(first, second))

    # The score -------------------------------------------------------------------------------------------------------

    def fill(self, image: Tensor) -> Tensor:
        """What the network makes of images under each mask of the module.

        Args:
            image: Shape (B, 1 or 3, H, W), in [0, 1].

        Returns:
            Predictions of all patches, shape (B, k, 3, H, W), in [0, 1].
        """
        count = self.visible.shape[0]
        tokens = self.encoder.embed(self.standardized(image))
        tokens = tokens.unsqueeze(1).expand(-1, count, -1, -1).flatten(0, 1)  # B*k N D
        visible = self.visible.repeat(image.shape[0], 1)
        predicted = unpatchify(self.predict_patches(tokens, visible), self.patch_size, self.grid)
        return destandardize(predicted.float()).clamp(0, 1).view(-1, count, 3, *self.image_size)

    def hidden_pixels(self) -> Tensor:
        """1 for the pixels that a mask hides, else 0: float32 (k, H, W)."""
        cells = hidden(self.visible, self.patches).view(-1, *self.grid)
        return cells.repeat_interleave(self.patch_size, 1).repeat_interleave(self.patch_size, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,), the mean of the map (but for ``ms_ssim_product``), and ``anomaly_map`` (B, 1, H, W).

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        at_once = max(1, SEQUENCES_AT_ONCE // self.visible.shape[0])
        found = [self._score(some) for some in portions(image, at_once)]
        return torch.cat([score for score, _ in found]), torch.cat([error for _, error in found])

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) with what the first mask hides filled in (B, 3, H, W), and the pixels that it hides."""
        is_hidden = self.hidden_pixels()[:1] > 0
        filled = self.fill(image)[:, 0]
        hidden = is_hidden.view(1, 1, *self.image_size)
        made = torch.where(hidden, filled, image.to(filled.dtype).expand(-1, 3, -1, -1))
        return Reconstruction(made.float(), hidden.expand(len(image), -1, -1, -1))

    def _score(self, image: Tensor) -> tuple[Tensor, Tensor]:
        is_hidden, filled = self.hidden_pixels(), self.fill(image)
        true = image.to(filled.dtype).expand(-1, 3, -1, -1).unsqueeze(1).expand_as(filled)
        kind = self.hparams["score"]
        if kind != "literal":
            filled = torch.where(is_hidden.unsqueeze(1) > 0, filled, true)
        value, error = self._compare(true.flatten(0, 1), filled.flatten(0, 1))
        count = self.visible.shape[0]
        error = error.reshape(-1, count, *self.image_size)  # B k H W
        error = pooled(error, is_hidden if kind == "masked" else None)
        if self.hparams["map_unit"] == "patch":
            cells = F.avg_pool2d(error, self.patch_size)
            error = cells.repeat_interleave(self.patch_size, 2).repeat_interleave(self.patch_size, 3)
        if self.hparams["comparison"] == "ms_ssim_product":
            return value.view(-1, count).mean(1), error
        return error.mean((1, 2, 3)), error

    def _compare(self, true: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """Error of image pairs (S, 3, H, W) in [0, 1], as values (S,) and maps (S, 1, H, W)."""
        if self.hparams["pixel_space"] == "standardized":
            true, filled = standardize(true), standardize(filled)
        if self.error is not None:
            return self.error.with_map(true, filled)
        error = (true - filled).square().mean(1, keepdim=True)
        return error.mean((1, 2, 3)), error


def learning_rate(epochs: float, progress: float, *, warmup: int) -> float:
    """Share of the highest learning rate: linear over the warm-up, then half a cosine to 0 at the end of the run.

    Args:
        epochs: That lie behind.
        progress: Share of the run that lies behind, in [0, 1]; 0 throughout in a run without an end.
        warmup: Epochs.
    """
    if epochs < warmup:
        return epochs / warmup
    begun = warmup / epochs * progress if epochs else 0.0  # share of the run at which the cosine begins
    share = (progress - begun) / (1 - begun) if begun < 1 else 1.0
    return (1 + math.cos(math.pi * share)) / 2


def _grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    if any(side % patch_size or side < 2 * patch_size for side in image_size):
        raise ConfigError(
            f"image_size must be a multiple of patch_size={patch_size}, at least two of them; got {image_size}. Use 224 with patches of 16, or "
            "32 with 4."
        )
    return image_size[0] // patch_size, image_size[1] // patch_size


def _visible(patches: int, mask_ratio: float) -> int:
    """How many of an image's patches are seen."""
    count = round(patches * (1 - mask_ratio))
    if not 0 < count < patches:
        raise ConfigError(
            f"mask_ratio must leave some of the {patches} patches visible and some hidden; got {mask_ratio}. Use 0.75."
        )
    return count


def _networks(size: Size, grid: tuple[int, int], options: Mapping[str, Any]) -> tuple[MemoryEncoder, MultiLevelDecoder]:
    """Encoder and decoder of a size, by the options of the method."""
    patch_size, slots = options["patch_size"], options["memory_slots"]
    shared = {"grid": grid, "skips": options["skips"], "cosine": options["attention"] == "cosine"}
    encoder = MemoryEncoder(
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        patch_size=patch_size,
        slots=size.memory_slots if slots is None else slots,
        **shared,
    )
    decoder = MultiLevelDecoder(
        in_features=size.width,
        width=size.decoder_width,
        depth=size.decoder_depth,
        heads=size.decoder_heads,
        levels=size.depth if options["cross_attention"] else 0,
        out_features=3 * patch_size**2,
        gate=options["gate"],
        scaled=options["scale_levels"],
        residual=options["cross_residual"],
        **shared,
    )
    return encoder, decoder
