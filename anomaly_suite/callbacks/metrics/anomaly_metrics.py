"""Metrics of validation and test, logged under ``<stage>/<level>_<metric>``; every test writes ``metrics.json``."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from anomaly_suite.callbacks.metrics.image import ImageLevel
from anomaly_suite.callbacks.metrics.level import Group, Level, Update
from anomaly_suite.callbacks.metrics.pixel import PixelLevel
from anomaly_suite.callbacks.metrics.result_file import begin_result, log_values, write_section
from anomaly_suite.callbacks.metrics.scene import SceneLevel
from anomaly_suite.callbacks.metrics.video import FrameLevel, VideoLevel
from anomaly_suite.callbacks.monitors import require_possible_monitors
from anomaly_suite.callbacks.processes import shared_by_all
from anomaly_suite.contract import Batch, Prediction, as_batch
from anomaly_suite.errors import ConfigError, MetricUndefinedError, did_you_mean
from anomaly_suite.metrics.levels import LevelOption
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)

POOLED = ""  # the key of all categories together
LEVELS: tuple[type[Level], ...] = (ImageLevel, PixelLevel, SceneLevel, VideoLevel, FrameLevel)


class AnomalyMetrics(ChecksOptions, Callback):
    """Image, pixel, video and frame metrics of every validation and test epoch.

    Logged as ``val/image_AUROC``, ``test/pixel_AUPRO`` and so on, and ``val/normal_score``, the mean raw score of normal
    images or videos, which needs no anomalies: monitor it to choose an epoch from normals alone. Several categories are also
    logged one by one (``test/bottle/image_AUROC``) and averaged (``test/mean/image_AUROC``).

    Batches of videos have ``video_AUROC`` and so on of whole videos and, where the truth of frames is known,
    ``frame_AUROC`` and so on of the frames of all videos together, every frame counting the same. Two more figures say how
    much of that is finding *when* something happens:

    - ``frame_AUROC_inside`` is the same of anomalous videos alone, where knowing which videos are anomalous does not help;
    - ``frame_AUROC_oracle`` is what the label of the video reaches when it is used as the score of its frames; it is a figure of
      the data set, and a ``frame_AUROC`` below it does not show that events are found in time.

    ``frame_FAR`` is the share of the frames of normal videos with a score above 0.5, for scores in [0, 1]. It and the two
    figures need the labels of the videos beside those of the frames. ``frame_PRAUC`` is what released video codes call AP.

    Driving scenes, whose batches have ``ood_mask``, are ranked by pixel: all scored pixels of all images together, void left
    out, as ``pixel_AUROC`` and so on. Maps of another size are resized to the labels. In ``metrics.json`` such an image counts
    as anomalous if one of its scored pixels is.

    A metric without a value, such as an AUROC on one label, is left out of the log, explained once, and listed under
    ``undefined`` in ``metrics.json``; it never becomes NaN or 0.

    Args:
        image: Metrics of whole images; those at the calibrated threshold need ``Calibrate``.
        pixel: Metrics of pixels, where predictions have a map and batches a mask. Their memory does not grow.
        ood: Metrics of the scored pixels of driving scenes: those of the order of scores but ``AUPRO``. Their memory does not
            grow either.
        video: Metrics of whole videos, as those of images.
        frame: Metrics of video frames: those of the order of scores but ``AUPRO``, each also with ``_inside`` or ``_oracle``
            after its name, and ``FAR``. They keep 5 to 12 bytes per frame.
        extra: Your own torchmetrics metrics by level and name, such as ``{"image": {"Brier": MyBrier()}}``, logged as
            ``image_Brier``. They are updated with raw scores and truth of the level and must give one number; a value that is
            NaN or an error is listed under ``undefined``.
        pixel_in_validation: Also compute the metrics of pixels in validation.
        exact: Keep every pixel instead of a bounded-memory sketch; for checking the sketch.
        filename: Name of the result file in the run folder.

    Raises:
        ConfigError: an unknown metric or level, or a metric that the level does not have.
    """

    def __init__(
        self,
        *,
        image: Sequence[str] = ("AUROC", "AP", "F1Max", "Accuracy", "Sensitivity", "Specificity"),
        pixel: Sequence[str] = ("AUROC", "AP", "F1Max", "FPR95", "AUPRO", "IoU", "Dice", "IoUMax", "DiceMax"),
        ood: Sequence[str] = ("AUROC", "AP", "FPR95"),
        video: Sequence[str] = ("AUROC", "AP", "F1Max", "Accuracy", "Sensitivity", "Specificity"),
        frame: Sequence[str] = (
            *("AUROC", "AP", "EER", "PRAUC", "FAR"),
            *("AUROC_inside", "AP_inside", "AUROC_oracle", "AP_oracle"),
        ),
        extra: Mapping[str, Mapping[str, Metric]] | None = None,
        pixel_in_validation: bool = False,
        exact: bool = False,
        filename: str = "metrics.json",
    ) -> None:
        wanted: dict[LevelOption, Sequence[str]] = {
            "image": image,
            "pixel": pixel,
            "ood": ood,
            "video": video,
            "frame": frame,
        }
        own = _own_metrics(extra, wanted)
        self.levels: dict[LevelOption, Level] = {
            kind.option: kind(wanted[kind.option], exact=exact, own=own.get(kind.option, {})) for kind in LEVELS
        }
        if "PRAUC" in (*pixel, *ood) and not exact:
            raise ConfigError(
                "pixel and ood: PRAUC needs every pixel; got exact: false. Use exact: true, or AP in its place."
            )
        self.pixel_in_validation = pixel_in_validation
        self.exact = exact
        self.filename = filename
        self._told: set[str] = set()  # warnings given; the next epoch would only repeat them
        self._reset()

    def _reset(self) -> None:
        self._collections: dict[tuple[str, Group], MetricCollection] = {}  # by category and group
        self._counts = torch.zeros(2, dtype=torch.long)  # normal and anomalous images or videos
        self._normal_sum = torch.zeros((), dtype=torch.float64)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a monitored metric that validation cannot have.

        Raises:
            ConfigError: see :func:`~anomaly_suite.callbacks.monitors.require_possible_monitors`.
        """
        require_possible_monitors(trainer, self.levels.values(), with_pixels=self.pixel_in_validation)

    # The two epochs that are scored ------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reset()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reset()
        begin_result(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update; the sanity check's outputs are not scored."""
        if not trainer.sanity_checking:
            # Decisions are left out: the thresholds are about to be fitted on these very images.
            self._update(_without_decisions(outputs), batch, with_pixels=self.pixel_in_validation)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update."""
        self._update(outputs, batch, with_pixels=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and write the result file."""
        values, undefined = self._log(trainer, pl_module, "test")
        content = {
            "metrics": values,
            "undefined": undefined,
            "error_bound": self._error_bounds(undefined),  # every process takes part
            "definitions": self._definitions(),
            "data": {"normal": int(self._counts[0]), "anomalous": int(self._counts[1]), **self._unit()},
        }
        write_section(trainer, pl_module, self.filename, None, content)

    # Update ------------------------------------------------------------------------------------------------------

    def _update(self, outputs: Any, raw: Any, *, with_pixels: bool) -> None:
        if not isinstance(outputs, Mapping):
            return
        prediction, batch = cast(Prediction, outputs), as_batch(raw)
        self._count(prediction, batch)
        categories = _rows_by_category(batch)
        for level in self.levels.values():
            if level.sketched and not with_pixels:
                continue
            for update in level.updates(prediction, batch):
                if not level.wants(update.group):
                    continue
                self._add(level, POOLED, update)
                for category, rows in categories.items() if update.per_sample else ():
                    part = rows.to(update.values.device)
                    self._add(level, category, update._replace(values=update.values[part], truth=update.truth[part]))

    def _add(self, level: Level, category: str, update: Update) -> None:
        key = category, update.group
        if key not in self._collections:
            self._collections[key] = level.build(update.group).to(update.values.device)
        self._collections[key].update(update.values, update.truth)

    def _count(self, prediction: Prediction, batch: Batch) -> None:
        if "anomaly_score" not in prediction:
            return
        if "label" in batch:
            label = batch["label"]
        elif "ood_mask" in batch:
            label = (batch["ood_mask"] == 1).flatten(1).any(1).long()
        else:
            return
        self._counts += torch.bincount(label.cpu(), minlength=2)
        self._normal_sum += prediction["anomaly_score"].detach()[label == 0].double().sum().cpu()

    # Compute -----------------------------------------------------------------------------------------------------

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> tuple[dict[str, float], dict[str, str]]:
        values, undefined = self._compute(trainer, pl_module)
        values.update(_category_means(values))
        counts = pl_module.trainer.strategy.reduce(
            torch.cat([self._counts.double(), self._normal_sum[None]]).to(pl_module.device), reduce_op="sum"
        ).cpu()
        self._counts = counts[:2].long()
        if stage == "val" and counts[0] > 0:
            values["normal_score"] = float(counts[2] / counts[0])
        self._tell(stage, undefined)
        log_values(pl_module, {f"{stage}/{name}": value for name, value in values.items()})
        return values, undefined

    def _compute(self, trainer: Trainer, pl_module: LightningModule) -> tuple[dict[str, float], dict[str, str]]:
        values: dict[str, float] = {}
        undefined: dict[str, str] = {}
        # Every process has the same collections, so that all take part in every gathering.
        for category, group in shared_by_all(trainer, sorted(self._collections)):
            level = self.levels[group.option]
            if (category, group) not in self._collections:
                self._collections[category, group] = level.build(group).to(pl_module.device)
            for name, metric in self._collections[category, group].items(keep_base=True, copy_state=False):
                key = f"{category}/" * bool(category) + f"{level.logged}_{name}"
                try:
                    values[key] = _own_value(name, metric) if group.own else float(metric.compute())
                except MetricUndefinedError as error:
                    undefined[key] = str(error)
        return values, undefined

    def _tell(self, stage: str, undefined: dict[str, str]) -> None:
        """Warn once of metrics without a value, those of one reason together."""
        for reason in sorted({why.partition(" ")[2] for why in undefined.values()}):  # without the metric's own name
            names = ", ".join(name for name, why in undefined.items() if why.partition(" ")[2] == reason)
            if (warning := f"{stage} has no {names}: each {reason}") not in self._told:
                log.warning(warning)
                self._told.add(warning)

    def _error_bounds(self, undefined: dict[str, str]) -> dict[str, float]:
        """Certified error of the bounded-memory values that are defined, for pooled pixels."""
        members = {
            f"{self.levels[group.option].logged}_{name}": metric
            for (category, group), collection in sorted(self._collections.items())
            if category == POOLED and not (self.levels[group.option].exact or group.decides or group.own)
            for name, metric in collection.items(keep_base=True, copy_state=False)
        }
        return {
            name: float(metric.error_bound())  # type: ignore[operator] # a RankMetric's
            for name, metric in members.items()
            if name not in undefined
        }

    def _definitions(self) -> dict[str, str]:
        """The first sentence about each metric, and what its logged name adds."""
        found = {}
        for (_, group), collection in self._collections.items():
            notes = self.levels[group.option].notes
            for name, metric in collection.items(copy_state=False):
                first = (type(metric).__doc__ or "").strip().partition(" See ")[0].partition("\n")[0]
                found[name] = " ".join([first, *(note for key, note in notes.items() if key in name.split("_"))])
        return found

    def _unit(self) -> dict[str, str]:
        units = [self.levels[group.option].unit for _, group in self._collections]
        return next(({"unit": unit} for unit in units if unit), {})


def _own_metrics(
    extra: Mapping[str, Mapping[str, Metric]] | None, levels: Mapping[LevelOption, Any]
) -> dict[str, dict[str, Metric]]:
    """Check a user's metrics."""
    for level, metrics in (extra or {}).items():
        if not isinstance(metrics, Mapping):
            raise ConfigError(
                f"extra: {level} must map names to metrics; got {type(metrics).__name__}. Write for example "
                f'{{"{level}": {{"Brier": MyBrier()}}}}.'
            )
    found = {level: dict(metrics) for level, metrics in (extra or {}).items()}
    for level, metrics in found.items():
        if level not in levels:
            raise ConfigError(
                f"extra has no level {level!r}; known are {', '.join(levels)}.{did_you_mean(level, levels)}"
            )
        for name, metric in metrics.items():
            if not isinstance(metric, Metric):
                raise ConfigError(
                    f"extra: {level}: {name} must be a torchmetrics.Metric; got {type(metric).__name__}. Give an instance, "
                    "in YAML with class_path and init_args."
                )
            if name in levels[level]:  # type: ignore[index] # checked above
                raise ConfigError(f"extra: {level} has {name} already. Give your metric another name.")
    return found


def _own_value(name: str, metric: Metric) -> float:
    """The value of a user's metric, whose faults must not lose the others."""
    try:
        value = float(metric.compute())
    except Exception as error:  # a stranger's code raises anything
        raise MetricUndefinedError(f"{name} could not be computed: {type(error).__name__}: {error}") from error
    if math.isnan(value):
        raise MetricUndefinedError(f"{name} is not a number on this data.")
    return value


def _rows_by_category(batch: Batch) -> dict[str, Tensor]:
    """Which rows belong to each category, shape (B,) bool; empty where batches have none."""
    categories = batch.get("category", [])
    return {one: torch.tensor([item == one for item in categories]) for one in sorted(set(categories))}


def _without_decisions(outputs: Any) -> Any:
    if not isinstance(outputs, Mapping):
        return None
    return {key: value for key, value in outputs.items() if key not in ("pred_label", "pred_mask")}


def _category_means(values: dict[str, float]) -> dict[str, float]:
    """Mean over categories of every metric, under ``mean/``; nothing for a single category."""
    grouped: dict[str, list[float]] = {}
    for key, value in values.items():
        _category, slash, name = key.rpartition("/")
        if slash:
            grouped.setdefault(name, []).append(value)
    return {f"mean/{name}": sum(items) / len(items) for name, items in grouped.items() if len(items) > 1}
