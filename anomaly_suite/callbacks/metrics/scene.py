"""Metrics of the scored pixels of driving scenes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from torchmetrics import Metric, MetricCollection

from anomaly_suite.callbacks.metrics.level import Group, Level, Update
from anomaly_suite.contract import Batch, Prediction
from anomaly_suite.metrics.image_mean import ImageMean, OfImage
from anomaly_suite.metrics.levels import OF_IMAGE, PER_IMAGE
from anomaly_suite.metrics.scored import scored_pixels

IMAGES = Group("ood", PER_IMAGE)


class SceneLevel(Level):
    """All scored pixels of all scenes together, void left out, logged as ``pixel_AUROC`` and so on.

    ``pixel_AUROC_per_image`` and so on are means over scenes: of the names that ask for them, and of data modules whose benchmark
    defines its metrics so.
    """

    option = "ood"
    logged = "pixel"
    score = "anomaly_map"
    truth = "ood_mask"
    sketched = True

    def __init__(self, names: Sequence[str], *, exact: bool, own: Mapping[str, Metric]) -> None:
        super().__init__(names, exact=exact, own=own)
        self._asked = list(self.names_of(IMAGES))

    def prepare(self, data: Any) -> None:
        """Add the means over images to the metrics that were asked for, where the benchmark takes them."""
        means = getattr(data, "mean_over_images", False)
        more = (
            [f"{name}_{PER_IMAGE}" for name in self.names_of(Group(self.option)) if name in OF_IMAGE] if means else []
        )
        self._names[IMAGES] = list(dict.fromkeys([*self._asked, *more]))

    def build(self, group: Group) -> MetricCollection:
        """New metrics of one group; the means over images have a state each."""
        if group != IMAGES:
            return super().build(group)
        names = self.names_of(group)
        members: dict[str, Metric | MetricCollection] = {
            name: ImageMean(metric=cast(OfImage, name.partition("_")[0])) for name in names
        }
        return MetricCollection(members, compute_groups=False)

    def expected(self, read: Collection[str], *, testing: bool) -> bool:
        """Whether there were labels of unknown objects."""
        return "ood_mask" in read

    def updates(self, prediction: Prediction, batch: Batch) -> Iterator[Update]:
        """Maps, resized to the labels where they differ."""
        if "anomaly_map" in prediction and "ood_mask" in batch and self.names():
            anomaly_map = prediction["anomaly_map"].detach()
            yield from self.scores(*scored_pixels(anomaly_map, batch["ood_mask"]))
            yield Update(IMAGES, anomaly_map, batch["ood_mask"])
