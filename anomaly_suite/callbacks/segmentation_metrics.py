"""mIoU and calibration errors of validation and test; every test with classes writes ``segmentation.json``."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics import MetricCollection

from anomaly_suite.callbacks.files import in_any_process, output_folder, replacing
from anomaly_suite.callbacks.passes import predictions
from anomaly_suite.contract import as_batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics.calibration_error import ECE, MCE
from anomaly_suite.metrics.segmentation import FIRST_VOID, MeanIoU, intersection_over_union


class SegmentationMetrics(Callback):
    """Mean and per-class IoU of every validation and test epoch, where predictions and batches have classes of pixels.

    Logged as ``val/mIoU``, ``val/IoU_road`` and so on: classes have the names in ``classes`` of the data module, or their
    numbers. Targets of 254 and 255 do not count; a class that is neither true nor predicted anywhere is left out. Without a
    ``target`` in the batches or a ``pred_target`` in the predictions, nothing is logged.

    Where predictions have ``confidence``, ``val/ECE`` and ``val/MCE`` say how far the probability of the predicted class is from
    the share of pixels that are right, on average and in the worst of 15 bins.

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
        self._calibration = MetricCollection([])
        self._confident = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the segmenter that is about to be tuned."""
        if not getattr(pl_module, "fine_tunes", False) or trainer.ckpt_path is not None or not trainer.val_dataloaders:
            return
        self._begin(pl_module)
        training = pl_module.training
        pl_module.eval()
        for batch, prediction in predictions(trainer, pl_module, "val", title="before tuning"):
            self._update(prediction, batch)
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
        self._confident = False
        self._calibration = MetricCollection([ECE(), MCE()], compute_groups=[["ECE", "MCE"]]).to(pl_module.device)

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
        said, target = outputs["pred_target"], batch["target"]
        self._metric.update(said, target)
        if "confidence" in outputs:
            self._confident = True
            right = (said == target).long().where(target < FIRST_VOID, target)
            self._calibration.update(outputs["confidence"], right)

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
        if in_any_process(trainer, self._confident):
            values.update({name: float(metric.compute()) for name, metric in self._calibration.items(copy_state=False)})
        for name, value in values.items():
            # All processes have the same value; the largest of them is that value, and Lightning need not warn.
            pl_module.log(
                f"{stage}/{name}{suffix}", value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max"
            )
        return values, matrix.tolist()
