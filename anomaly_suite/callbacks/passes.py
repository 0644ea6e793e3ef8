"""One more pass over evaluation scenes, outside Lightning's loops."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import track

from anomaly_suite.contract import Batch, Prediction, as_batch


def predictions(
    trainer: Trainer, pl_module: LightningModule, stage: Literal["val", "test"], *, title: str
) -> Iterator[tuple[Batch, Prediction]]:
    """Predict what the stage's first loader yields, with the trainer's device, precision and limits, under a progress bar.

    Args:
        trainer: In or after the stage.
        pl_module: An ``AnomalyModule``, in evaluation mode.
        stage: Whose loader.
        title: Of the progress bar.
    """
    loaders = trainer.val_dataloaders if stage == "val" else trainer.test_dataloaders
    count = int((trainer.num_val_batches if stage == "val" else trainer.num_test_batches)[0])
    loader: Any = loaders[0] if isinstance(loaders, list) else loaders
    console = Console(stderr=True, quiet=not trainer.is_global_zero or trainer.progress_bar_callback is None)
    for raw in track(islice(loader, count), title, total=count, console=console):
        # Not around the yield: the mode would then hold for the caller, too.
        with torch.inference_mode(), trainer.precision_plugin.val_step_context():
            batch = trainer.strategy.batch_to_device(
                trainer.precision_plugin.convert_input(as_batch(raw)), pl_module.device
            )
            prediction: Prediction = pl_module.predict(batch)  # type: ignore[operator] # an AnomalyModule's
        yield batch, prediction
