"""One more pass over evaluation scenes, outside Lightning's loops."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from rich.console import Console
from rich.progress import track

from anomaly_suite.contract import AnomalyModule, Batch, KeyMap, Prediction, as_batch


def predictions(
    trainer: Trainer,
    pl_module: AnomalyModule,
    stage: Literal["val", "test"],
    *,
    title: str,
    key_map: KeyMap | None = None,
) -> Iterator[tuple[int, Batch, Prediction]]:
    """Predict what the stage's loaders yield, with the trainer's device, precision and limits, under a progress bar.

    Args:
        trainer: In or after the stage.
        pl_module: In evaluation mode.
        stage: Whose loaders.
        title: Of the progress bar.
        key_map: Our names of keys, and what they are called in the batches.

    Yields:
        Number of the loader, batch and prediction.
    """
    loaders: Any = trainer.val_dataloaders if stage == "val" else trainer.test_dataloaders
    limits = trainer.num_val_batches if stage == "val" else trainer.num_test_batches
    counts = [None if math.isinf(limit) else int(limit) for limit in limits]  # infinite where a loader has no length
    loaders = CombinedLoader(loaders, "sequential").flattened
    batches = (
        (index, raw)
        for index, (loader, count) in enumerate(zip(loaders, counts, strict=True))
        for raw in islice(loader, count)
    )
    total = None if None in counts else sum(filter(None, counts))
    console = Console(stderr=True, quiet=not trainer.is_global_zero or trainer.progress_bar_callback is None)
    for index, raw in track(batches, title, total=total, console=console):
        # Not around the yield: the mode would then hold for the caller, too.
        with torch.inference_mode(), trainer.precision_plugin.val_step_context():
            batch = trainer.strategy.batch_to_device(
                trainer.precision_plugin.convert_input(as_batch(raw, key_map=key_map)), pl_module.device
            )
            prediction = pl_module.predict(batch)
        yield index, batch, prediction
