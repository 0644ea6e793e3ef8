"""Metrics of the scored pixels of driving scenes."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from anomaly_suite.callbacks.metrics.level import Level, Update
from anomaly_suite.contract import Batch, Prediction
from anomaly_suite.metrics.scored import scored_pixels


class SceneLevel(Level):
    """All scored pixels of all scenes together, void left out, logged as ``pixel_AUROC`` and so on."""

    option = "ood"
    logged = "pixel"
    score = "anomaly_map"
    truth = "ood_mask"
    sketched = True

    def expected(self, read: Collection[str], *, testing: bool) -> bool:
        """Whether there were labels of unknown objects."""
        return "ood_mask" in read

    def updates(self, prediction: Prediction, batch: Batch) -> Iterator[Update]:
        """Maps, resized to the labels where they differ."""
        if "anomaly_map" in prediction and "ood_mask" in batch and self._names:
            yield from self.scores(*scored_pixels(prediction["anomaly_map"].detach(), batch["ood_mask"]))
