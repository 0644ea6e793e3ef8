"""Metrics of the pixels of images with masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from anomaly_suite.callbacks.metrics.level import Level, Update
from anomaly_suite.contract import Batch, Prediction


class PixelLevel(Level):
    """Anomaly maps against masks, logged as ``pixel_AUROC`` and so on."""

    option = "pixel"
    logged = "pixel"
    score = "anomaly_map"
    truth = "mask"
    sketched = True

    def expected(self, read: Collection[str], *, testing: bool) -> bool:
        """Whether there were maps or masks, of images."""
        return super().expected(read, testing=testing) and not {"ood_mask", "target"} & set(read)

    def updates(self, prediction: Prediction, batch: Batch) -> Iterator[Update]:
        """Maps, and masks of the calibration."""
        if "anomaly_map" not in prediction or "mask" not in batch or "ood_mask" in batch:
            return
        yield from self.scores(prediction["anomaly_map"].detach(), batch["mask"], per_sample=True)
        if "pred_mask" in prediction:
            yield from self.decisions(prediction["pred_mask"], batch["mask"], per_sample=True)
