"""Metrics of whole images."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar

from anomaly_suite.callbacks.metrics.level import Level, Update
from anomaly_suite.contract import Batch, Prediction
from anomaly_suite.metrics.levels import LevelOption


class ImageLevel(Level):
    """One score and one label per image, logged as ``image_AUROC`` and so on."""

    option: ClassVar[LevelOption] = "image"
    logged = "image"
    score = "anomaly_score"
    truth = "label"

    def takes(self, prediction: Prediction, batch: Batch) -> bool:
        """Whether the batch holds labelled samples of this level."""
        return "anomaly_score" in prediction and "label" in batch and "snippet_features" not in batch

    def expected(self, read: Collection[str], *, testing: bool) -> bool:
        """Whether there were images, or nothing that could be read; scenes need no label of the whole."""
        return "snippet_features" not in read and ("label" in read or not {"ood_mask", "target"} & set(read))

    def updates(self, prediction: Prediction, batch: Batch) -> Iterator[Update]:
        """Scores, and decisions of the calibration."""
        if not self.takes(prediction, batch):
            return
        yield from self.scores(prediction["anomaly_score"].detach(), batch["label"], per_sample=True)
        if "pred_label" in prediction:
            yield from self.decisions(prediction["pred_label"], batch["label"], per_sample=True)
