"""IGD and its parts beside plain compositions of library calls, printed as one JSON; progress goes to stderr.

    python benchmarks/igd.py
    python benchmarks/igd.py --only ms_ssim --rounds 20 --json igd.json

All candidates of a case run in turn in this process (ours, theirs, ours, theirs, ...), after one round that is not
counted. ``cpu_s`` is the median processor time of one call, ``ratio`` ours / theirs, the median over rounds, below 1 where
ours needs less.

Cases, on random images of three channels:

* ``ms_ssim_256`` (batch 4, 5 scales, window 11) and ``ms_ssim_32`` (batch 64, 4 scales, window 3): forward and backward of
  ``MSSSIM``, with gradients of one image of each pair. torchmetrics has no window of 3 beside a deviation of 1.5: at 32
  pixels it gets the deviation that makes its window as small. pytorch-msssim, which runs where it is installed, refuses 32
  pixels: there its own per-scale function is called at each scale, as its multi-scale one does.
* ``down`` and ``up``: forward and backward of the convolutions of the second residual block of a 32-pixel network beside
  ``AvgPool2d`` and ``Upsample`` with a 3 x 3 convolution.
* ``step_32``: one training step of ``IGD``, 32 pixels, residual encoder from scratch, batch 64, beside the same networks made
  of ``Conv2d``, ``AvgPool2d`` and ``Upsample`` with MS-SSIM of torchmetrics and the two optimisers. ``plain`` decodes again
  for the critic, as the released code does; ``plain_reusing`` takes the reconstructions of the generator step, as ours.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import core
import torch
import torch.nn.functional as F
from core import Outcome
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as library_ms_ssim

from anomaly_suite.contract import Batch
from anomaly_suite.losses import MSSSIM, SCALE_WEIGHTS
from anomaly_suite.methods import IGD
from anomaly_suite.nn.encoders import STANDARDIZED_RANGE, standardize
from anomaly_suite.nn.residual import DownConv, UpConv

pytorch_msssim: Any
try:
    pytorch_msssim = importlib.import_module("pytorch_msssim.ssim")
except ImportError:
    pytorch_msssim = None

PACKAGES = ("anomaly-suite", "torch", "torchmetrics", "pytorch-msssim", "lightning")
LATENT = 128
SIZE = 32
SIGMA_OF_WINDOW_3 = 0.4  # torchmetrics: side of the window = 2 * int(3.5 * sigma + 0.5) + 1

Candidates = dict[str, Callable[[], object]]

# Measuring -------------------------------------------------------------------------------------------------------


def alternate(candidates: Candidates, *, rounds: int) -> Outcome:
    """Processor seconds of the candidates, called in turn; the first one is ours."""
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):
        for name, call in candidates.items():
            start = time.process_time()
            call()
            spent[name].append(time.process_time() - start)
    spent = {name: seconds[1:] for name, seconds in spent.items()}
    ours, *others = spent
    return {
        "cpu_s": {name: float(f"{statistics.median(seconds):.4g}") for name, seconds in spent.items()},
        "ratio": {
            name: round(statistics.median(a / b for a, b in zip(spent[ours], spent[name], strict=True)), 3)
            for name in others
        },
        "load": round(os.getloadavg()[0], 2),
    }


def forward_backward(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Gradients of the mean of what the function returns."""
    function(*inputs).mean().backward()


# Cases -----------------------------------------------------------------------------------------------------------


def pytorch_msssim_by_scale(image: Tensor, other: Tensor, *, window: Tensor, weights: Sequence[float]) -> Tensor:
    """MS-SSIM of small images out of the parts of pytorch-msssim."""
    factors = []
    for scale, weight in enumerate(weights):
        ssim, structure = pytorch_msssim._ssim(image, other, 1.0, window)
        factors.append(torch.relu(ssim if scale == len(weights) - 1 else structure) ** weight)
        image, other = F.avg_pool2d(image, 2), F.avg_pool2d(other, 2)
    return torch.stack(factors).prod(0).mean()


def ms_ssim(*, size: int, batch: int, scales: int, window: int, rounds: int) -> Outcome:
    """Forward and backward of MS-SSIM."""
    image = torch.rand(batch, 3, size, size)
    other = torch.rand(batch, 3, size, size, requires_grad=True)
    weights = tuple(weight / sum(SCALE_WEIGHTS[:scales]) for weight in SCALE_WEIGHTS[:scales])
    sigma = 1.5 if window == 11 else SIGMA_OF_WINDOW_3
    theirs = partial(library_ms_ssim, data_range=1.0, sigma=sigma, kernel_size=window, betas=weights)
    candidates: Candidates = {
        "ours": partial(forward_backward, MSSSIM(scales=scales, window_size=window), image, other),
        "torchmetrics": partial(forward_backward, theirs, other, image),
    }
    if pytorch_msssim is not None and size > 16 * (window - 1):
        whole = partial(pytorch_msssim.ms_ssim, data_range=1.0, win_size=window, weights=list(weights))
        candidates["pytorch_msssim"] = partial(forward_backward, whole, image, other)
    elif pytorch_msssim is not None:
        kernel = pytorch_msssim._fspecial_gauss_1d(window, 1.5).repeat(3, 1, 1, 1)
        parts = partial(pytorch_msssim_by_scale, window=kernel, weights=weights)
        candidates["pytorch_msssim_by_scale"] = partial(forward_backward, parts, image, other)
    return alternate(candidates, rounds=rounds)


def convolution(kind: str, *, batch: int, width: int, rounds: int) -> Outcome:
    """A convolution next to a change of resolution, of 16 x 16 pixels to or from 8 x 8."""
    narrow, wide = 2 * width, 4 * width
    if kind == "down":
        ours: nn.Module = DownConv(narrow, wide)
        plain: nn.Module = nn.Sequential(nn.Conv2d(narrow, wide, 3, padding=1), nn.AvgPool2d(2))
        image = torch.rand(batch, narrow, 16, 16, requires_grad=True)
    else:
        ours = UpConv(wide, narrow)
        plain = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(wide, narrow, 3, padding=1))
        image = torch.rand(batch, wide, 8, 8, requires_grad=True)
    return alternate(
        {"ours": partial(forward_backward, ours, image), "plain": partial(forward_backward, plain, image)},
        rounds=rounds,
    )


class Sum(nn.Module):
    """Two branches, added."""

    def __init__(self, residual: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


def plain_encoder(*, width: int, out_features: int, norm: str) -> nn.Sequential:
    """Encoder or critic of 32 pixels out of library layers, its weights in our order."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for level in range(3):
        before, after, side = width << level, width << level + 1, SIZE >> level
        norms = [nn.BatchNorm2d(before) if norm == "batch" else nn.LayerNorm((before, side, side)) for _ in range(2)]
        residual = nn.Sequential(
            norms[0],
            nn.ReLU(),
            nn.Conv2d(before, before, 3, padding=1, bias=False),
            norms[1],
            nn.ReLU(),
            nn.Conv2d(before, after, 3, padding=1),
            nn.AvgPool2d(2),
        )
        layers.append(Sum(residual, nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1))))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width * 16, out_features))


def plain_decoder(*, width: int) -> nn.Sequential:
    """Decoder of 32 pixels out of library layers, its weights in our order."""
    layers: list[nn.Module] = [nn.Linear(LATENT, 8 * width * 16), nn.Unflatten(1, (8 * width, 4, 4))]
    for before, after in itertools.pairwise((8 * width, 4 * width, 2 * width, width)):
        residual = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
        )
        layers.append(Sum(residual, nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 1))))
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))


class PlainIGD:
    """Section 3 of the paper written down with library calls.

    Args:
        width: Channels of the first convolution.
        reuse: Train the critic on the reconstructions of the generator step.
    """

    def __init__(self, *, width: int, reuse: bool) -> None:
        self.reuse = reuse
        self.encoder = nn.Sequential(
            plain_encoder(width=width, out_features=8 * width, norm="batch"), nn.Linear(8 * width, LATENT)
        )
        self.decoder = plain_decoder(width=width)
        self.critic = plain_encoder(width=width, out_features=1, norm="layer")
        self.center, self.variance = torch.full((LATENT,), 0.1), torch.tensor(10.0)
        generator = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizers = (
            torch.optim.Adam(generator, lr=1e-4, betas=(0.0, 0.9), weight_decay=1e-6),
            torch.optim.Adam(self.critic.parameters(), lr=1e-4, betas=(0.0, 0.9)),
        )
        self.betas = tuple(weight / sum(SCALE_WEIGHTS[:4]) for weight in SCALE_WEIGHTS[:4])

    def step(self, image: Tensor) -> None:
        """One generator and one critic step on images (B, 3, 32, 32) in [0, 1]."""
        x = standardize(image)
        alpha, zeta = torch.rand(len(x), 1) / 2, torch.rand(len(x), 1, 1, 1)

        code = self.encoder(x)
        rebuilt = self.decoder(code)
        similarity = library_ms_ssim(
            rebuilt, x, data_range=STANDARDIZED_RANGE, sigma=SIGMA_OF_WINDOW_3, kernel_size=3, betas=self.betas
        )
        error = 0.85 * (1 - similarity) + 0.15 * (x - rebuilt).abs().mean() / STANDARDIZED_RANGE
        abnormality = 1 - torch.exp(-((code - self.center) ** 2).sum(1) / self.variance)
        mixed = self.decoder(alpha * code + (1 - alpha) * code.flip(0))
        loss = error + abnormality.mean() + 0.1 * (self.critic(mixed) ** 2).mean()
        self._update(self.optimizers[0], loss)

        with torch.no_grad():
            if not self.reuse:
                code = self.encoder(x)
                rebuilt, mixed = self.decoder(code), self.decoder(alpha * code + (1 - alpha) * code.flip(0))
            real = zeta * x + (1 - zeta) * rebuilt
        loss = ((self.critic(mixed.detach()) - alpha) ** 2).mean() + (self.critic(real) ** 2).mean()
        self._update(self.optimizers[1], loss)

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        for one in self.optimizers:
            one.zero_grad()
        loss.backward()
        optimizer.step()


class Stopwatch(Callback):
    """Times training steps of the module beside other candidates once, before its first one."""

    def __init__(self, others: Candidates, *, rounds: int) -> None:
        self.others = others
        self.rounds = rounds
        self.outcome: Outcome = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """Time ``training_step``, which steps both optimisers itself."""
        ours = partial(pl_module.training_step, batch, batch_idx)
        self.outcome = alternate({"ours": ours, **self.others}, rounds=self.rounds)


def step(*, batch: int, width: int, rounds: int) -> Outcome:
    """A training step of IGD at 32 pixels."""
    image = torch.rand(batch, 3, SIZE, SIZE)
    others: Candidates = {
        "plain": partial(PlainIGD(width=width, reuse=False).step, image),
        "plain_reusing": partial(PlainIGD(width=width, reuse=True).step, image),
    }
    stopwatch = Stopwatch(others, rounds=rounds)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[stopwatch],
    )
    model = IGD(image_size=SIZE, encoder="residual", encoder_weights=None, latent_dim=LATENT, width=width)
    trainer.fit(model, torch.utils.data.DataLoader([{"image": one, "label": 0} for one in image], batch_size=batch))
    return stopwatch.outcome


# Driver ----------------------------------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="IGD and its parts beside library calls, printed as one JSON.")
    parser.add_argument("--only", default="", help="cases to run: comma-separated beginnings of their names")
    parser.add_argument("--rounds", type=int, default=10, help="counted calls of every candidate")
    parser.add_argument("--threads", type=int, default=1, help="threads of the calculations")
    parser.add_argument("--batch", type=int, default=64, help="images of 32 pixels in a batch")
    parser.add_argument("--width", type=int, default=64, help="channels at full resolution of the networks")
    parser.add_argument("--json", default="", help="also write the report to this file, after every case")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")

    sizes = {"batch": options.batch, "width": options.width}
    cases: dict[str, Callable[..., Outcome]] = {
        "ms_ssim_256": partial(ms_ssim, size=256, batch=4, scales=5, window=11),
        "ms_ssim_32": partial(ms_ssim, size=SIZE, batch=options.batch, scales=4, window=3),
        "down": partial(convolution, "down", **sizes),
        "up": partial(convolution, "up", **sizes),
        "step_32": partial(step, **sizes),
    }
    report: Outcome = {
        "versions": core.versions(PACKAGES),
        "machine": core.machine(),
        "setting": {key: value for key, value in vars(options).items() if key != "json"},
        "cases": {},
    }
    for name in core.chosen(cases, options.only, parser):
        report["cases"][name] = cases[name](rounds=options.rounds)
        core.save(report, options.json)
        print(f"{name}: ratio {report['cases'][name]['ratio']}", file=sys.stderr)
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
