"""ADACL: a small network regresses normal images and augmented copies of them to two intervals of labels.

Paper: Khazaie, MSc thesis 2022, ch. 4, "Augment to Detect Anomalies with Continuous Labelling".
Reference: no code was released.
Differs: the text is silent on layer sizes, learning rates, cut-paste shapes and mix-up's coefficients; ours are the choices listed in the
    constants and arguments below. The loss is taken on the raw output, because the printed clipping to [0, 1] has no gradient
    outside that range (``clip_in_loss=True`` is the literal reading). ``anomaly_score`` is the raw output: clipping it would
    tie all scores outside [0, 1]. The validation normals and their augmented copies come from the data module
    (``validation: augmented``, ``val_size: 150``). The sample configurations end after whole cycles of the learning rate: the thesis
    prints at most 10 epochs for MNIST and 15 for CIFAR-10, and the cycle of 4 epochs, a choice, would be at or near its peak there.
Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Generator, Tensor, nn

from anomaly_suite.augment import CUT_SHARE, MIX_SHARE, Operation, pseudo_anomaly
from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.layout import channels_last

NEGATIVE_SLOPE = 0.2  # of the leaky rectifiers
INITIAL_BIAS = 0.5  # the middle of the label range, so that no output starts outside it


class ADACLNet(nn.Sequential):
    """Four convolutions, global max pooling, two linear layers; one unbounded score per image.

    Args:
        in_channels: Channels of the image.
        widths: Output channels of the four convolutions.
        strides: Their strides.
        kernel_size: Their kernel, odd.
        hidden: Width between the two linear layers.
    """

    def __init__(
        self, *, in_channels: int, widths: Sequence[int], strides: Sequence[int], kernel_size: int, hidden: int
    ) -> None:
        layers: list[nn.Module] = []
        for before, after, stride in zip((in_channels, *widths[:-1]), widths, strides, strict=True):
            layers += [
                nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(NEGATIVE_SLOPE),
            ]
        layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten()]  # B widths[-1]
        layers += [nn.Linear(widths[-1], hidden), nn.LeakyReLU(NEGATIVE_SLOPE)]
        last = nn.Linear(hidden, 1)
        nn.init.constant_(last.bias, INITIAL_BIAS)
        super().__init__(*layers, last, nn.Flatten(0))  # B

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to scores (B,)."""
        self.lay_out()
        score: Tensor = super().forward(image)  # type: ignore[no-untyped-call]
        return score

    def lay_out(self) -> None:
        """Weights with channels last: usually a fifth faster on CPUs."""
        channels_last(self)


def draw_labels(
    count: int, low: float, high: float, *, continuous: bool, generator: Generator, device: torch.device
) -> Tensor:
    """Targets for ``count`` normal images, then ``count`` augmented ones.

    Args:
        count: Images of each kind.
        low: Upper end of the normal interval [0, low].
        high: Lower end of the anomalous interval [high, 1].
        continuous: Fresh uniform draws (section 4.2), or 0 and 1.
        generator: Source of the draws, on ``device``.
        device: Where the labels live.

    Returns:
        Shape (2 * count,), float32.
    """
    if not continuous:
        return torch.tensor([0.0, 1.0], dtype=torch.float32, device=device).repeat_interleave(count)
    draw = torch.rand(2, count, generator=generator, dtype=torch.float32, device=device)
    return torch.cat([low * draw[0], high + (1 - high) * draw[1]])


def label_loss(output: Tensor, target: Tensor, *, loss: Literal["mse", "bce"], clip: bool) -> Tensor:
    """Mean squared error (section 4.3) or one of its ablations.

    Args:
        output: Raw scores. Shape (2 * B,).
        target: Labels in [0, 1]. Shape (2 * B,).
        loss: ``mse``, or ``bce`` on logits.
        clip: Clip the output of ``mse`` to [0, 1] first.

    Returns:
        Shape ().
    """
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(output, target)
    return F.mse_loss(output.clamp(0, 1) if clip else output, target)


class ADACL(AnomalyModule):
    """Augment to Detect Anomalies with Continuous Labelling.

    Args:
        in_channels: 1 for grey, 3 for colour images.
        widths: Channels of the four convolutions; with the default kernel 249,281 parameters on grey images.
        strides: Their strides; (2, 2, 1, 1) takes about two thirds of the time on a CPU.
        kernel_size: 3, or 5 as in the wider variant with ``widths`` (32, 48, 64, 64).
        hidden: Width of the head.
        low: Normal labels are uniform in [0, low].
        high: Anomalous labels are uniform in [high, 1].
        labels: ``continuous`` as published, or ``discrete`` 0 and 1 for the ablation of figures 4.8 and 4.9.
        loss: ``mse`` as published, or ``bce`` on logits for the ablation of figure 4.7.
        clip_in_loss: Clip the output to [0, 1] before the squared error: literal, but an output outside never learns.
        operations: Which augmentations to draw from, one that is named twice twice as often; all five if None.
        mix_share: Smallest and largest weight of the rotated image in mix-up.
        cut_share: Smallest and largest side of a rectangle of cut-paste, as a share of the image's.
        lr_min: Smallest learning rate of the triangular cycle.
        lr_max: Largest.
        half_period: Epochs from the smallest to the largest. A training should end after whole cycles, where the rate is low;
            one that ends near the peak is warned of.

    Shapes: images (B, C, H, W) in [0, 1], square if an operation rotates; score (B,); no map.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        widths: tuple[int, int, int, int] = (32, 64, 128, 128),
        strides: tuple[int, int, int, int] = (1, 2, 2, 1),
        kernel_size: int = 3,
        hidden: int = 64,
        low: float = 0.3,
        high: float = 0.7,
        labels: Literal["continuous", "discrete"] = "continuous",
        loss: Literal["mse", "bce"] = "mse",
        clip_in_loss: bool = False,
        operations: list[Operation] | None = None,
        mix_share: tuple[float, float] = MIX_SHARE,
        cut_share: tuple[float, float] = CUT_SHARE,
        lr_min: float = 1e-4,
        lr_max: float = 2e-3,
        half_period: float = 2.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,)
        for name, (least, most) in {"mix_share": mix_share, "cut_share": cut_share}.items():
            if not 0 < least <= most < 1:
                raise ConfigError(
                    f"{name} must be two shares between 0 and 1, the smaller one first; got {(least, most)}."
                )
        for name, pair in {"low and high": (low, high), "lr_min and lr_max": (lr_min, lr_max)}.items():
            if pair[0] > pair[1]:
                raise ConfigError(f"{name} must stand in this order; got {pair[0]} and {pair[1]}. Exchange them.")
        if kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd, so that it has a middle; got {kernel_size}. The thesis has 3.")
        self.net = ADACLNet(
            in_channels=in_channels, widths=widths, strides=strides, kernel_size=kernel_size, hidden=hidden
        )

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            The network's raw output (B,), near 0.15 for most normal images and near 0.85 for anomalous ones, and no map.
        """
        return self.net(image), None

    def on_train_start(self) -> None:
        """Warn of a last epoch near the peak of the cycle: the weights still move then, and the AUROC with them."""
        super().on_train_start()
        cycle, epochs = 2 * self.hparams["half_period"], self.trainer.max_epochs or -1
        height = 1 - abs(1 - epochs % cycle / self.hparams["half_period"])  # of the last rate, 0 lowest, 1 highest
        if epochs > 0 and self.trainer.max_steps < 0 and height >= 0.5:
            whole = max(1, int(epochs // cycle))
            rank_zero_warn(
                f"ADACL should end where its cyclic learning rate is low, after a multiple of {cycle:g} epochs (2 * half_period); "
                f"max_epochs is {epochs}, {height:.0%} of the way up to lr_max. Set max_epochs to {whole * cycle:g} or "
                f"{(whole + 1) * cycle:g}, or change half_period."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Regress normal images and their pseudo-anomalies in one pass: in two, batch norm would tell them apart."""
        normal = batch["image"]
        generator = self.step_generator(batch_idx)
        shares = {name: self.hparams[name] for name in ("mix_share", "cut_share")}
        anomalous = pseudo_anomaly(normal, generator, self.hparams["operations"], **shares)
        output = self.net(torch.cat([normal, anomalous])).float()
        target = draw_labels(
            len(normal),
            self.hparams["low"],
            self.hparams["high"],
            continuous=self.hparams["labels"] == "continuous",
            generator=generator,
            device=self.device,
        )
        loss = label_loss(output, target, loss=self.hparams["loss"], clip=self.hparams["clip_in_loss"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(normal))
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with a triangular cyclic learning rate, changed every step of the optimiser.

        Raises:
            ConfigError: a training loader without length: the cycle is counted in epochs.
        """
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr_min"])
        per_epoch = self.steps_per_epoch()
        if math.isinf(per_epoch):
            raise ConfigError(
                f"half_period={self.hparams['half_period']} is in epochs, and the training loader has no length. Set "
                "limit_train_batches to the batches of an epoch."
            )
        scheduler = torch.optim.lr_scheduler.CyclicLR(
            optimizer,
            base_lr=self.hparams["lr_min"],
            max_lr=self.hparams["lr_max"],
            step_size_up=max(1, round(self.hparams["half_period"] * per_epoch)),
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
