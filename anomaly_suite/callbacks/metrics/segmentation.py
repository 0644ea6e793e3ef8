"""mIoU and calibration errors of validation and test; every test with classes adds ``segmentation`` to ``metrics.json``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torchmetrics import MetricCollection

from anomaly_suite.callbacks.base import of_data, of_module
from anomaly_suite.callbacks.metrics.result_file import FILENAME, begin_result, log_values, write_section
from anomaly_suite.callbacks.passes import predictions
from anomaly_suite.callbacks.processes import in_any_process
from anomaly_suite.callbacks.writing import WritesFiles
from anomaly_suite.codes import OUTLIER, VOID
from anomaly_suite.contract import as_batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics.calibration_error import ECE, MCE
from anomaly_suite.metrics.segmentation import MeanIoU, intersection_over_union
from anomaly_suite.options import ChecksOptions


class SegmentationMetrics(ChecksOptions, WritesFiles):
    """Mean and per-class IoU of every validation and test epoch, where predictions and batches have classes of pixels.

    Logged as ``val/mIoU``, ``val/IoU_road`` and so on: classes have the names in ``classes`` of the data module, or their
    numbers. Targets of 254 and 255 do not count; a class that is neither true nor predicted anywhere is left out. Without a
    ``target`` in the batches or a ``pred_target`` in the predictions, nothing is logged.

    Where predictions have ``confidence``, ``val/ECE`` and ``val/MCE`` say how far the probability of the predicted class is from
    the share of pixels that are correct, on average and in the worst of 15 bins.

    A method that tunes a trained segmenter is also measured before its first step, as ``val/mIoU_before``: what tuning costs is the
    difference to ``val/mIoU``.

    Args:
        num_classes: K; null takes ``num_classes`` of the module.
        filename: Name of the result file of a test in the run folder, whose section ``segmentation`` has the values and the confusion
            matrix, a row for each true class.

    Raises:
        ConfigError: in validation or test, a module that does not declare ``num_classes`` where the option is null.
    """

    def __init__(self, *, num_classes: int | None = None, filename: str = FILENAME) -> None:
        self.num_classes = num_classes
        self.filename = filename
        self._metric: MeanIoU | None = None
        self._calibration = MetricCollection([])
        self._confident = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the segmenter that is about to be tuned."""
        if (
            not of_module(pl_module, "fine_tunes", False)
            or trainer.ckpt_path is not None
            or not trainer.val_dataloaders
        ):
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
        begin_result(trainer, self.filename)

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
        if values:  # the same in every process
            content = {"metrics": values, "confusion_matrix": matrix}
            write_section(trainer, pl_module, self.filename, "segmentation", content)

    def _begin(self, pl_module: LightningModule) -> None:
        classes = self.num_classes or of_module(pl_module, "num_classes", None)
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
        pred_target, target = outputs["pred_target"], batch["target"]
        self._metric.update(pred_target, target)
        if "confidence" in outputs:
            self._confident = True
            correct = (pred_target == target).byte().masked_fill_(target >= OUTLIER, VOID)
            self._calibration.update(outputs["confidence"], correct)

    def _log(
        self, trainer: Trainer, pl_module: LightningModule, stage: str, *, suffix: str = ""
    ) -> tuple[dict[str, float], list[list[int]]]:
        matrix = None if self._metric is None else self._metric.counts()
        if matrix is None or not bool(matrix.any()):
            return {}, []
        iou = intersection_over_union(matrix).tolist()
        names = of_data(trainer, "classes", ())
        names = names if names is not None and len(names) == len(iou) else range(len(iou))
        known = {
            f"IoU_{name}".replace(" ", "_"): value
            for name, value in zip(names, iou, strict=True)
            if not math.isnan(value)
        }
        values = {"mIoU": statistics.fmean(known.values()), **known}
        if in_any_process(trainer, self._confident):
            values.update({name: float(metric.compute()) for name, metric in self._calibration.items(copy_state=False)})
        log_values(pl_module, {f"{stage}/{name}{suffix}": value for name, value in values.items()})
        return values, matrix.tolist()
