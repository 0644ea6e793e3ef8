"""One more pass over evaluation scenes, outside Lightning's loops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import track

from anomaly_suite.contract import Batch, Prediction, as_batch


def predictions(
    trainer: Trainer, pl_module: LightningModule, stage: Literal["val", "test"], *, title: str
) -> Iterator[tuple[Batch, Prediction]]:
    """Predict what the stage's loaders yield, with the trainer's device, precision and limits, under a progress bar.

    Args:
        trainer: In or after the stage.
        pl_module: An ``AnomalyModule``, in evaluation mode.
        stage: Whose loaders.
        title: Of the progress bar.
    """
    loaders: Any = trainer.val_dataloaders if stage == "val" else trainer.test_dataloaders
    limits = trainer.num_val_batches if stage == "val" else trainer.num_test_batches
    counts = [None if math.isinf(limit) else int(limit) for limit in limits]  # infinite where a loader has no length
    loaders = loaders if isinstance(loaders, list) else [loaders]
    batches = chain.from_iterable(islice(loader, count) for loader, count in zip(loaders, counts, strict=True))
    total = None if None in counts else sum(filter(None, counts))
    console = Console(stderr=True, quiet=not trainer.is_global_zero or trainer.progress_bar_callback is None)
    for raw in track(batches, title, total=total, console=console):
        # Not around the yield: the mode would then hold for the caller, too.
        with torch.inference_mode(), trainer.precision_plugin.val_step_context():
            batch = trainer.strategy.batch_to_device(
                trainer.precision_plugin.convert_input(as_batch(raw)), pl_module.device
            )
            prediction: Prediction = pl_module.predict(batch)  # type: ignore[operator] # an AnomalyModule's
        yield batch, prediction
