"""Component metrics of driving scenes, logged as ``test/component_SIoU`` and so on; every test adds ``components`` to ``metrics.json``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from anomaly_suite.callbacks.metrics.result_file import FILENAME, begin_result, log_values, write_section
from anomaly_suite.callbacks.passes import predictions
from anomaly_suite.callbacks.processes import in_any_process
from anomaly_suite.callbacks.writing import WritesFiles
from anomaly_suite.contract import Batch, as_batch
from anomaly_suite.errors import ConfigError, MetricUndefinedError
from anomaly_suite.metrics.components import PPV, MeanF1, SIoU
from anomaly_suite.metrics.ranking import F1Max
from anomaly_suite.metrics.scored import at_label_size, scored_pixels
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)


class ComponentMetrics(ChecksOptions, WritesFiles):
    """SIoU, PPV and MeanF1 of the objects of a test set, by the SegmentMeIfYouCan protocol; see ``metrics.components``.

    They need a threshold. With ``best``, as the protocol has it, the test is followed by a second pass over the same scenes:
    the threshold with the best pixel F1 is known only at the end of the first, and neither memory nor disk would hold all maps
    of a large set. A number needs no second pass.

    A metric without a value, such as PPV where nothing is predicted, is left out of the log and listed under ``undefined``.

    Args:
        threshold: ``best``, or a raw score from which on a pixel is called anomalous; null computes nothing.
        min_object: Pixels of the smallest object that counts: 100 on the benchmark's anomaly track, 10 on its obstacle track
            and on Lost and Found.
        min_predicted: Pixels of the smallest predicted component that counts: 500, or 50 on the obstacle track.
        filename: Name of the result file in the run folder; the values are its section ``components``.

    Raises:
        ConfigError: a size below 1, or another word than ``best``.
    """

    def __init__(
        self,
        *,
        threshold: float | Literal["best"] | None = None,
        min_object: int = 100,
        min_predicted: int = 500,
        filename: str = FILENAME,
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
        self._components = MetricCollection(members, compute_groups=[list(members)])
        self._best = F1Max(exact=False)
        self._seen = False

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        begin_result(trainer, self.filename)
        self._seen = False
        for metric in (self._components, self._best):
            metric.reset()
            metric.to(pl_module.device)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Count components, or look for the threshold."""
        if self.threshold is None or not isinstance(outputs, Mapping):
            return
        batch = as_batch(batch)
        if not _has_objects(outputs, batch):
            return
        self._seen = True
        if self.threshold == "best":
            self._best.update(*scored_pixels(outputs["anomaly_map"].detach(), batch["ood_mask"]))
        else:
            self._count(outputs["anomaly_map"], batch, float(self.threshold))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the second pass if there is one, log, and write the result file."""
        if self.threshold is None or not in_any_process(trainer, self._seen):
            return
        try:
            threshold = float(self._best.threshold() if self.threshold == "best" else self.threshold)
        except MetricUndefinedError as error:
            log.warning("component metrics have no best threshold: %s", error)
            return
        if self.threshold == "best":
            for batch, prediction in predictions(trainer, pl_module, "test", title="components"):
                if _has_objects(prediction, batch):
                    self._count(prediction["anomaly_map"], batch, threshold)
        values: dict[str, float] = {}
        undefined: dict[str, str] = {}
        for name, metric in self._components.items(copy_state=False):
            try:
                values[name] = float(metric.compute())
            except MetricUndefinedError as error:
                undefined[name] = str(error)
        log_values(pl_module, {f"test/component_{name}": value for name, value in values.items()})
        for reason in undefined.values():
            log.warning("component metrics: %s", reason)
        content = {"threshold": threshold, "chosen": self.threshold, "metrics": values, "undefined": undefined}
        write_section(trainer, pl_module, self.filename, "components", content)

    def _count(self, anomaly_map: Tensor, batch: Batch, threshold: float) -> None:
        anomaly_map = at_label_size(anomaly_map.detach(), batch["ood_mask"])
        self._components.update(anomaly_map >= threshold, batch["ood_mask"])


def _has_objects(prediction: Mapping[str, Any], batch: Batch) -> bool:
    return "anomaly_map" in prediction and "ood_mask" in batch
