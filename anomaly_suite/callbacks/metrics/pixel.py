"""Metrics of the pixels of images with masks."""

from __future__ import annotations

from collections.abc import Iterator

from anomaly_suite.callbacks.metrics.level import Level, Update
from anomaly_suite.contract import Batch, Prediction


class PixelLevel(Level):
    """Anomaly maps against masks, logged as ``pixel_AUROC`` and so on."""

    option = "pixel"
    logged = "pixel"
    sketched = True

    def updates(self, prediction: Prediction, batch: Batch) -> Iterator[Update]:
        """Maps, and masks of the calibration; labels of whole images say whether masks can be trusted."""
        if not ("anomaly_score" in prediction and "label" in batch and "anomaly_map" in prediction):
            return
        if "mask" not in batch or "ood_mask" in batch:
            return
        yield from self.scores(prediction["anomaly_map"].detach(), batch["mask"], per_sample=True)
        if "pred_mask" in prediction:
            yield from self.decisions(prediction["pred_mask"], batch["mask"], per_sample=True)
