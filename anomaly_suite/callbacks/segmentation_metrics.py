"""mIoU of validation and test, logged as ``<stage>/mIoU``; every test with classes writes ``segmentation.json``."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from anomaly_suite.callbacks.files import output_folder, replacing
from anomaly_suite.contract import as_batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics.segmentation import MeanIoU, intersection_over_union


class SegmentationMetrics(Callback):
    """Mean and per-class IoU of every validation and test epoch, where predictions and batches have classes of pixels.

    Logged as ``val/mIoU``, ``val/IoU_road`` and so on: classes have the names in ``classes`` of the data module, or their
    numbers. Targets of 254 and 255 do not count; a class that is neither true nor predicted anywhere is left out. Without a
    ``target`` in the batches or a ``pred_target`` in the predictions, nothing is logged.

    A method that tunes a trained segmenter is also measured before its first step, as ``val/mIoU_before``: what tuning costs is the
    difference to ``val/mIoU``.

    Args:
        num_classes: K; null takes ``num_classes`` of the module.
        filename: Name of the result file of a test in the run folder; it has the confusion matrix too, a row for each true
            class.
    """

    def __init__(self, *, num_classes: int | None = None, filename: str = "segmentation.json") -> None:
        self.num_classes = num_classes
        self.filename = filename
        self._metric: MeanIoU | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the segmenter that is about to be tuned."""
        loaders = trainer.val_dataloaders
        if not getattr(pl_module, "fine_tunes", False) or trainer.ckpt_path is not None or not loaders:
            return
        self._begin(pl_module)
        training = pl_module.training
        pl_module.eval()
        loader = loaders[0] if isinstance(loaders, list) else loaders
        with torch.inference_mode():
            for raw in itertools.islice(loader, int(trainer.num_val_batches[0])):
                batch = trainer.strategy.batch_to_device(as_batch(raw), pl_module.device)
                self._update(pl_module.predict(batch), batch)  # type: ignore[operator] # an AnomalyModule's
        pl_module.train(training)
        self._log(trainer, pl_module, "val", suffix="_before")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._begin(pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._begin(pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update."""
        self._update(outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update."""
        self._update(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and write the result file."""
        values, matrix = self._log(trainer, pl_module, "test")
        folder = output_folder(trainer, None)  # every process takes part
        if values and trainer.is_global_zero:
            result = {"metrics": values, "confusion_matrix": matrix}
            with replacing(folder / self.filename) as file:
                file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    def _begin(self, pl_module: LightningModule) -> None:
        classes = self.num_classes or getattr(pl_module, "num_classes", None)
        # In every process, with or without batches, for all take part in the gathering.
        self._metric = None if classes is None else MeanIoU(num_classes=classes).to(pl_module.device)

    def _update(self, outputs: Any, raw: Any) -> None:
        if not isinstance(outputs, Mapping) or "pred_target" not in outputs:
            return
        batch = as_batch(raw)
        if "target" not in batch:
            return
        if self._metric is None:
            raise ConfigError(
                "segmentation metrics need the number of classes; the module has no num_classes. Set segmentation.num_classes."
            )
        self._metric.update(outputs["pred_target"], batch["target"])

    def _log(
        self, trainer: Trainer, pl_module: LightningModule, stage: str, *, suffix: str = ""
    ) -> tuple[dict[str, float], list[list[int]]]:
        matrix = None if self._metric is None else self._metric.counts()
        if matrix is None or not bool(matrix.any()):
            return {}, []
        iou = intersection_over_union(matrix).tolist()
        names = getattr(trainer.datamodule, "classes", None)  # type: ignore[attr-defined] # the trainer's own attribute
        names = names if names is not None and len(names) == len(iou) else range(len(iou))
        known = {
            f"IoU_{name}".replace(" ", "_"): value
            for name, value in zip(names, iou, strict=True)
            if not math.isnan(value)
        }
        values = {"mIoU": statistics.fmean(known.values()), **known}
        for name, value in values.items():
            # All processes have the same value; the largest of them is that value, and Lightning need not warn.
            pl_module.log(
                f"{stage}/{name}{suffix}", value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max"
            )
        return values, matrix.tolist()
