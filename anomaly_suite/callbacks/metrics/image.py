"""Metrics of whole images."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar

from torch import Tensor

from anomaly_suite.callbacks.metrics.level import Group, Level, Update
from anomaly_suite.contract import VARIANTS, Batch, Prediction
from anomaly_suite.metrics.levels import LevelOption


class ImageLevel(Level):
    """One score and one label per image, logged as ``image_AUROC`` and so on.

    Of a method with several scores (``contract.VARIANTS``), each has its own, such as ``image_AUROC_clean``.
    """

    option: ClassVar[LevelOption] = "image"
    logged = "image"
    score = "anomaly_score"
    truth = "label"
    notes: ClassVar[dict[str, str]] = {name: f"Of the {name} score, whichever is used." for name in VARIANTS}

    def names_of(self, group: Group) -> list[str]:
        """Metrics of one group that were asked for; each of the several scores has all that rank."""
        if group.scope in VARIANTS:
            return [f"{name}_{group.scope}" for name in super().names_of(Group(self.option))]
        return super().names_of(group)

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
        for name in VARIANTS:
            if f"{name}_score" in prediction:
                values: Tensor = prediction[f"{name}_score"].detach()  # type: ignore[literal-required] # of the contract
                yield Update(Group(self.option, name), values, batch["label"], per_sample=True)
        if "pred_label" in prediction:
            yield from self.decisions(prediction["pred_label"], batch["label"], per_sample=True)
