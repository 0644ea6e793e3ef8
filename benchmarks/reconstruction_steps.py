"""What a training step and an inference of the reconstruction family cost: processor milliseconds an image, one thread, as a Markdown table.

    python benchmarks/reconstruction_steps.py
    python benchmarks/reconstruction_steps.py --only ADGAN FAnoGAN --batch-size 8 --batches 24

All methods see the same random images of 32 x 32 x 3 and have the widths of their defaults. A training step is what one batch costs in a
fit by Lightning's trainer, in the mean: methods that step some networks every fifth batch alone are averaged over whole cycles. Phases are
measured each by itself. Parameters are those of all networks, inference uses fewer.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

import anomaly_suite.methods
from anomaly_suite.contract import AnomalyModule

SIDE = 32
WARM_UP = 6  # batches that are not counted: whole cycles of critic and generator
_RESIDUAL = {"encoder": "residual", "encoder_weights": None}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "DAE": ("DAE", {}),
    "VAE": ("VAE", {}),
    "MSSSIMAutoencoder": ("MSSSIMAutoencoder", _RESIDUAL),
    "IGD": ("IGD", _RESIDUAL),
    "MemAE": ("MemAE", {}),
    "OCGAN": ("OCGAN", {"mining_from": 1.0}),
    "OCGAN, mining": ("OCGAN", {"mining_from": 0.0}),
    "FAnoGAN, its GAN": ("FAnoGAN", {"gan_epochs": 100}),
    "FAnoGAN, its encoder": ("FAnoGAN", {"gan_epochs": 1}),
    "ADGAN, visual": ("ADGAN", {"gan_epochs": 100, "critic_steps": 5}),
    "ADGAN, joint": ("ADGAN", {"gan_epochs": 1, "critic_steps": 5}),
}
ENDS_FIRST = {"FAnoGAN, its encoder", "ADGAN, joint"}  # what is measured comes after an epoch of the first phase


class Clock(Callback):
    """Processor seconds of the counted batches."""

    def __init__(self, first: int) -> None:
        self.first, self.seen, self.began, self.counted = first, 0, 0.0, 0

    def on_train_batch_start(self, *args: Any) -> None:
        """Begin with the first batch that counts."""
        if self.seen == self.first:
            self.began = time.process_time()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Count a batch."""
        self.seen += 1
        if self.seen > self.first:
            self.counted, self.seconds = self.counted + 1, time.process_time() - self.began


def measure(name: str, *, batch_size: int, batches: int) -> dict[str, float]:
    """Processor milliseconds an image of a training step and of an inference, and millions of parameters."""
    method, options = CASES[name]
    seed_everything(0, verbose=False)
    model: AnomalyModule = getattr(anomaly_suite.methods, method)(image_size=SIDE, **options)
    epochs = 2 if name in ENDS_FIRST else 1
    count = WARM_UP + batches if epochs == 1 else max(WARM_UP, batches)
    image = torch.rand(count * batch_size, 3, SIDE, SIDE)
    loader = DataLoader(TensorDataset(image, torch.zeros(len(image), dtype=torch.long)), batch_size=batch_size)
    clock = Clock(WARM_UP if epochs == 1 else count)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[clock], **quiet).fit(model, loader)  # type: ignore[arg-type]
    model.trainer = None  # type: ignore[assignment] # of a run that is over
    if "has_encoder" in dict(model.named_buffers()):
        model.get_buffer("has_encoder").fill_(1)
    model.eval()
    with torch.inference_mode():
        model(image[:batch_size])
        began = time.process_time()
        for _ in range(batches):
            model(image[:batch_size])
        inference = time.process_time() - began
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()) / 1e6,
        "step": 1000 * clock.seconds / clock.counted / batch_size,
        "inference": 1000 * inference / batches / batch_size,
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Costs of the reconstruction family, as a Markdown table.")
    parser.add_argument("--only", nargs="+", help="rows whose names begin so")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=12, help="that are counted")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print("| | million parameters | training step, ms an image | inference, ms an image |\n|---|---|---|---|")
    for name in CASES:
        if options.only and not name.startswith(tuple(options.only)):
            continue
        found = measure(name, batch_size=options.batch_size, batches=options.batches)
        print(f"| {name} | {found['parameters']:.2f} | {found['step']:.2f} | {found['inference']:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
