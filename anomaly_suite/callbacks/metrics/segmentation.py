"""mIoU and calibration errors of validation and test; every test with classes adds ``segmentation`` to ``metrics.json``."""

from __future__ import annotations

import logging
import math
import statistics
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torchmetrics import MetricCollection

from anomaly_suite.callbacks.base import of_data, of_module
from anomaly_suite.callbacks.metrics.columns import flat, log_columns
from anomaly_suite.callbacks.metrics.result_file import FILENAME, begin_result, write_section
from anomaly_suite.callbacks.passes import predictions
from anomaly_suite.callbacks.processes import in_any_process
from anomaly_suite.callbacks.reading import POOL, Reader, loader_of
from anomaly_suite.callbacks.writing import WritesFiles
from anomaly_suite.codes import OUTLIER, VOID
from anomaly_suite.contract import AnomalyModule, Batch, KeyMap, Prediction
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics.calibration_error import ECE, MCE
from anomaly_suite.metrics.segmentation import MeanIoU, intersection_over_union
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)


class _Column(NamedTuple):
    """Metrics of one loader, or of all together."""

    iou: MeanIoU | None
    calibration: MetricCollection
    confident: list[bool]
    """Holds something once a batch had probabilities."""


class SegmentationMetrics(ChecksOptions, WritesFiles):
    """Mean and per-class IoU of every validation and test epoch, where predictions and batches have classes of pixels.

    Logged as ``val/mIoU``, ``val/IoU_road`` and so on: classes have the names in ``classes`` of the data module, or their
    numbers. Targets of 254 and 255 do not count; a class that is neither true nor predicted anywhere is left out. Without
    ``target`` in the batches and ``pred_target`` in the predictions, nothing is logged; with one of the two, that is said once, and
    ``mIoU`` is listed under ``undefined``. Several loaders have a result each, see ``callbacks/metrics/columns.py``.

    Where predictions have ``confidence``, ``val/ECE`` and ``val/MCE`` say how far the probability of the predicted class is from
    the share of pixels that are correct, on average and in the worst of 15 bins.

    A method that tunes a trained segmenter is also measured before its first step, as ``val/mIoU_before``: what tuning costs is the
    difference to ``val/mIoU``.

    Args:
        num_classes: K; null takes ``num_classes`` of the module.
        filename: Name of the result file of a test in the run folder, whose section ``segmentation`` has the values and the confusion
            matrix, a row for each true class.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: a ``key_map`` that cannot be; in validation or test, a module that does not declare ``num_classes`` where the option is null.
    """

    def __init__(
        self, *, num_classes: int | None = None, filename: str = FILENAME, key_map: KeyMap | None = None
    ) -> None:
        self.num_classes = num_classes
        self.filename = filename
        self._reader = Reader(key_map)
        self._columns: dict[int, _Column] = {}
        self._told: set[str] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the segmenter that is about to be tuned."""
        if (
            not of_module(pl_module, "fine_tunes", False)
            or not isinstance(pl_module, AnomalyModule)
            or trainer.ckpt_path is not None
            or not trainer.val_dataloaders
        ):
            return
        self._reader.begin()
        self._columns = {}
        training = pl_module.training
        pl_module.eval()
        several = len(trainer.num_val_batches) > 1
        key_map = self._reader.key_map
        for loader, batch, prediction in predictions(trainer, pl_module, "val", title="before tuning", key_map=key_map):
            self._update(pl_module, prediction, batch, loader if several else POOL)
        pl_module.train(training)
        self._log(trainer, pl_module, "val", suffix="_before")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reader.begin()
        self._columns = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reader.begin()
        self._columns = {}
        begin_result(trainer, self.filename)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update."""
        self._update(pl_module, outputs, batch, loader_of(args))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update."""
        self._update(pl_module, outputs, batch, loader_of(args))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and write the result file."""
        values, undefined, matrices = self._log(trainer, pl_module, "test")
        if any(values.values()) or any(undefined.values()):  # the same in every process
            content: dict[str, Any] = {"metrics": flat(values), "undefined": flat(undefined)}
            content["confusion_matrix"] = matrices[POOL]
            if len(matrices) > 1:
                content |= {f"confusion_matrix/dataloader_idx_{i}": each for i, each in matrices.items() if i != POOL}
            write_section(trainer, pl_module, self.filename, "segmentation", content)

    def _new(self, pl_module: LightningModule) -> _Column:
        classes = self.num_classes or of_module(pl_module, "num_classes", None)
        iou = None if classes is None else MeanIoU(num_classes=classes).to(pl_module.device)
        calibration = MetricCollection([ECE(), MCE()], compute_groups=[["ECE", "MCE"]]).to(pl_module.device)
        return _Column(iou, calibration, [])

    def _update(self, pl_module: LightningModule, outputs: Any, raw: Any, loader: int) -> None:
        if (read := self._reader.read(outputs, raw, loader)) is None:
            return
        prediction, batch = read
        if "pred_target" not in prediction or "target" not in batch:
            return
        for column in sorted({POOL, loader}):
            if column not in self._columns:
                self._columns[column] = self._new(pl_module)
            _add(self._columns[column], prediction, batch)

    def _log(
        self, trainer: Trainer, pl_module: LightningModule, stage: str, *, suffix: str = ""
    ) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, str]], dict[int, list[list[int]]]]:
        """Values, reasons and confusion matrices by loader, the same in every process."""
        values: dict[int, dict[str, float]] = {}
        undefined: dict[int, dict[str, str]] = {}
        matrices: dict[int, list[list[int]]] = {}
        for loader, keys in self._reader.found(trainer).items():
            # In every process, with or without batches, for all take part in the gathering.
            column = self._columns.get(loader) or self._new(pl_module)
            values[loader], matrices[loader] = _compute(trainer, column)
            undefined[loader] = {}
            one_is_there = ("target" in keys.read) != ("pred_target" in keys.read)
            if one_is_there and (reason := keys.lacks("pred_target", "target")) is not None:
                undefined[loader]["mIoU"] = f"mIoU {reason}"
        for name, reason in flat(undefined).items():
            if reason not in self._told:
                log.warning("%s has no %s: %s", stage, name, reason)
                self._told.add(reason)
        named = {loader: {f"{name}{suffix}": value for name, value in some.items()} for loader, some in values.items()}
        log_columns(pl_module, stage, named, self._reader.loaders)
        return values, undefined, matrices


def _add(column: _Column, prediction: Prediction, batch: Batch) -> None:
    if column.iou is None:
        raise ConfigError(
            "segmentation metrics need the number of classes; the module has no num_classes. Set segmentation.num_classes."
        )
    pred_target, target = prediction["pred_target"], batch["target"]
    column.iou.update(pred_target, target)
    if "confidence" in prediction:
        column.confident.append(True)
        correct = (pred_target == target).byte().masked_fill_(target >= OUTLIER, VOID)
        column.calibration.update(prediction["confidence"], correct)


def _compute(trainer: Trainer, column: _Column) -> tuple[dict[str, float], list[list[int]]]:
    """Values and confusion matrix; both empty where nothing was compared in any process, which all must ask."""
    matrix = None if column.iou is None else column.iou.counts()
    if matrix is None or not bool(matrix.any()):
        return {}, []
    iou = intersection_over_union(matrix).tolist()
    names = of_data(trainer, "classes", ())
    names = names if names is not None and len(names) == len(iou) else range(len(iou))
    known = {
        f"IoU_{name}".replace(" ", "_"): value for name, value in zip(names, iou, strict=True) if not math.isnan(value)
    }
    values = {"mIoU": statistics.fmean(known.values()), **known}
    if in_any_process(trainer, bool(column.confident)):
        values.update({name: float(metric.compute()) for name, metric in column.calibration.items(copy_state=False)})
    return values, matrix.tolist()
