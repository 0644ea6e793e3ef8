"""Component metrics of driving scenes, logged as ``test/component_SIoU`` and so on; every test adds ``components`` to ``metrics.json``."""

from __future__ import annotations

import logging
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from anomaly_suite.callbacks.metrics.columns import flat, log_columns
from anomaly_suite.callbacks.metrics.result_file import FILENAME, begin_result, write_section
from anomaly_suite.callbacks.passes import predictions
from anomaly_suite.callbacks.reading import POOL, Reader, loader_of
from anomaly_suite.callbacks.writing import WritesFiles
from anomaly_suite.contract import AnomalyModule, Batch, KeyMap, Prediction
from anomaly_suite.errors import ConfigError, MetricUndefinedError
from anomaly_suite.metrics.components import PPV, MeanF1, SIoU
from anomaly_suite.metrics.ranking import F1Max
from anomaly_suite.metrics.scored import at_label_size, scored_pixels
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)


class _Column(NamedTuple):
    """Metrics of one loader, or of all together."""

    components: MetricCollection
    best: F1Max


class ComponentMetrics(ChecksOptions, WritesFiles):
    """SIoU, PPV and MeanF1 of the objects of a test set, by the SegmentMeIfYouCan protocol; see ``metrics.components``.

    They need a threshold. With ``best``, as the protocol has it and an ``AnomalyModule`` can do, the test is followed by a second pass over the same scenes:
    the threshold with the best pixel F1 is known only at the end of the first, and neither memory nor disk would hold all maps
    of a large set. A number needs no second pass.

    A metric without a value, such as PPV where nothing is predicted, is left out of the log and listed under ``undefined``. Several
    loaders have a result each, with ``best`` a threshold each, see ``callbacks/metrics/columns.py``.

    Args:
        threshold: ``best``, or a raw score from which on a pixel is called anomalous; null computes nothing.
        min_object: Pixels of the smallest object that counts: 100 on the benchmark's anomaly track, 10 on its obstacle track
            and on Lost and Found.
        min_predicted: Pixels of the smallest predicted component that counts: 500, or 50 on the obstacle track.
        filename: Name of the result file in the run folder; the values are its section ``components``.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: a size below 1, another word than ``best``, or a ``key_map`` that cannot be.
    """

    def __init__(
        self,
        *,
        threshold: float | Literal["best"] | None = None,
        min_object: int = 100,
        min_predicted: int = 500,
        filename: str = FILENAME,
        key_map: KeyMap | None = None,
    ) -> None:
        if isinstance(threshold, str) and threshold != "best":
            raise ConfigError(f"threshold of component metrics is best, a number or null; got {threshold!r}.")
        self.threshold = threshold
        self.filename = filename
        members: dict[str, Metric | MetricCollection] = {
            "SIoU": SIoU(min_object=min_object, min_predicted=min_predicted),
            "PPV": PPV(min_object=min_object, min_predicted=min_predicted),
            "MeanF1": MeanF1(min_object=min_object, min_predicted=min_predicted),
        }
        self._names = list(members)
        self._components = MetricCollection(
            members, compute_groups=[list(members)]
        )  # never updated: each column has a copy
        self._reader = Reader(key_map)
        self._columns: dict[int, _Column] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        begin_result(trainer, self.filename)
        self._reader.begin()
        self._columns = {}

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Count components, or look for the threshold."""
        if self.threshold is None or (read := self._reader.read(outputs, batch, loader_of(args))) is None:
            return
        if not _has_objects(*read):
            return
        prediction, batch = read
        for loader in sorted({POOL, loader_of(args)}):
            column = self._column(loader, pl_module)
            if self.threshold == "best":
                column.best.update(*scored_pixels(prediction["anomaly_map"].detach(), batch["ood_mask"]))
            else:
                _count(column, prediction["anomaly_map"], batch, float(self.threshold))

    def _column(self, loader: int, pl_module: LightningModule) -> _Column:
        if loader not in self._columns:
            components, best = self._components.clone().to(pl_module.device), F1Max(exact=False).to(pl_module.device)
            self._columns[loader] = _Column(components, best)
        return self._columns[loader]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the second pass if there is one, log, and write the result file."""
        if self.threshold is None:
            return
        thresholds: dict[int, float] = {}
        values: dict[int, dict[str, float]] = {}
        undefined: dict[int, dict[str, str]] = {}
        for loader, keys in self._reader.found(trainer).items():  # the same in every process
            values[loader], undefined[loader] = {}, {}
            if not keys.outputs:  # no batch came
                continue
            if (reason := keys.lacks("anomaly_map", "ood_mask")) is None:
                try:
                    thresholds[loader] = self._threshold_of(loader, pl_module)
                except MetricUndefinedError as error:
                    reason = str(error)
            undefined[loader] = {} if reason is None else {name: f"{name} {reason}" for name in self._names}
        if self.threshold == "best" and thresholds and isinstance(pl_module, AnomalyModule):
            self._pass_again(trainer, pl_module, thresholds)
        for loader in thresholds:
            for name, metric in self._columns[loader].components.items(copy_state=False):
                try:
                    values[loader][name] = float(metric.compute())
                except MetricUndefinedError as error:
                    undefined[loader][name] = str(error)
        log_columns(pl_module, "test", _named(values), self._reader.loaders)
        for reason in sorted({why.partition(" ")[2] for why in flat(undefined).values()}):
            names = ", ".join(name for name, why in flat(undefined).items() if why.partition(" ")[2] == reason)
            log.warning("component metrics %s: each %s", names, reason)
        if not any(values.values()) and not any(undefined.values()):
            return
        content = {"metrics": flat(values), "undefined": flat(undefined)}
        shown: dict[str, Any] = {
            "threshold" if loader == POOL else f"threshold/dataloader_idx_{loader}": value
            for loader, value in thresholds.items()
        }
        shown["chosen"] = self.threshold
        write_section(trainer, pl_module, self.filename, "components", {**shown, **content})

    def _threshold_of(self, loader: int, pl_module: LightningModule) -> float:
        """The threshold of a column, which every process has then."""
        best = self._column(loader, pl_module).best
        if self.threshold is not None and self.threshold != "best":
            return float(self.threshold)
        if not isinstance(pl_module, AnomalyModule):
            raise MetricUndefinedError(
                f"needs a second pass for threshold: best, and {type(pl_module).__name__} is no AnomalyModule, whose predict can be called "
                "again. Give a number."
            )
        try:
            return float(best.threshold())
        except MetricUndefinedError as error:
            raise MetricUndefinedError(f"has no best threshold: {error}") from error

    def _pass_again(self, trainer: Trainer, pl_module: AnomalyModule, thresholds: dict[int, float]) -> None:
        key_map = self._reader.key_map
        for loader, batch, prediction in predictions(trainer, pl_module, "test", title="components", key_map=key_map):
            if _has_objects(prediction, batch):
                for column in sorted({POOL, loader} & thresholds.keys()):
                    _count(self._columns[column], prediction["anomaly_map"], batch, thresholds[column])


def _named(columns: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    return {
        loader: {f"component_{name}": value for name, value in values.items()} for loader, values in columns.items()
    }


def _count(column: _Column, anomaly_map: Tensor, batch: Batch, threshold: float) -> None:
    anomaly_map = at_label_size(anomaly_map.detach(), batch["ood_mask"])
    column.components.update(anomaly_map >= threshold, batch["ood_mask"])


def _has_objects(prediction: Prediction, batch: Batch) -> bool:
    return "anomaly_map" in prediction and "ood_mask" in batch
