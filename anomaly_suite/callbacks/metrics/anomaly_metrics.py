"""Metrics of validation and test, logged under ``<stage>/<level>_<metric>``; every test writes ``metrics.json``."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from anomaly_suite.callbacks.metrics.columns import flat, log_columns
from anomaly_suite.callbacks.metrics.image import ImageLevel
from anomaly_suite.callbacks.metrics.level import Group, Level
from anomaly_suite.callbacks.metrics.pixel import PixelLevel
from anomaly_suite.callbacks.metrics.result_file import begin_result, write_section
from anomaly_suite.callbacks.metrics.scene import SceneLevel
from anomaly_suite.callbacks.metrics.video import FrameLevel, VideoLevel
from anomaly_suite.callbacks.monitors import require_possible_monitors
from anomaly_suite.callbacks.processes import shared_by_all
from anomaly_suite.callbacks.reading import POOL, Reader, loader_of
from anomaly_suite.callbacks.writing import WritesFiles
from anomaly_suite.contract import Batch, KeyMap, Prediction
from anomaly_suite.errors import ConfigError, MetricUndefinedError, did_you_mean
from anomaly_suite.metrics.checks import check_shapes
from anomaly_suite.metrics.levels import LevelOption
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)

POOLED = ""  # the key of all categories together
SEEN = (
    "seen",
    "unseen",
)  # all normal images with the anomalies of kinds that are in training, too, and with the others
LEVELS: tuple[type[Level], ...] = (ImageLevel, PixelLevel, SceneLevel, VideoLevel, FrameLevel)


class AnomalyMetrics(ChecksOptions, WritesFiles):
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
    out, as ``pixel_AUROC`` and so on. Maps of another size are resized to the labels. As a whole such an image is scored by the highest
    of its scored pixels, and is anomalous if one of them is; one without any is left out of metrics of images, and counted as
    ``without_scored_pixels`` in ``metrics.json``.

    A metric without a value, such as an AUROC on one label, is left out of the log, explained once, and listed under
    ``undefined`` in ``metrics.json``; it never becomes NaN or 0. So is a level of which an epoch has scores without truth, or neither: the
    warning says which keys were wanted and which were there.

    With several categories, metrics of samples are those of each and their mean, too, as ``bottle/image_AUROC``. Where some kinds of anomalies were in
    training and others not, ``seen/`` and ``unseen/`` are those of all normal images with the anomalies of either.

    Several loaders have a result each and one of all together, named as ``callbacks/metrics/columns.py`` says.

    Args:
        image: Metrics of whole images; those at the calibrated threshold need ``Calibrate``.
        pixel: Metrics of pixels, where predictions have a map and batches a mask. Their memory does not grow.
        ood: Metrics of the scored pixels of driving scenes: those of the order of scores but ``AUPRO``. Their memory does not
            grow either. ``AUROC``, ``AP`` and ``FPR95`` with ``_per_image`` after the name are means over scenes, left out where a scene
            has no anomaly; StreetHazards and BDDAnomaly, which define them, have them beside the others.
        video: Metrics of whole videos, as those of images.
        frame: Metrics of video frames: those of the order of scores but ``AUPRO``, each also with ``_inside`` or ``_oracle``
            after its name, and ``FAR``. They keep 5 to 12 bytes per frame.
        extra: Your own torchmetrics metrics by level and name, such as ``{"image": {"Brier": MyBrier()}}``, logged as
            ``image_Brier``. They are updated with raw scores and truth of the level and must give one number; a value that is
            NaN or an error is listed under ``undefined``.
        pixel_in_validation: Also compute the metrics of pixels in validation.
        exact: Keep every pixel instead of a bounded-memory sketch; for checking the sketch.
        filename: Name of the result file in the run folder.
        key_map: Our names of keys, and what other loaders and modules call them: ``{"label": "defect"}``. Common names such as
            ``gt_label`` or ``targets`` are read without it.

    Raises:
        ConfigError: an unknown metric or level, a metric that the level does not have, or a ``key_map`` that cannot be.
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
        key_map: KeyMap | None = None,
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
        self._reader = Reader(key_map)
        self._reset()

    def _reset(self) -> None:
        self._reader.begin()
        self._collections: dict[tuple[int, str, Group], MetricCollection] = {}  # by loader, category and group
        # By loader: normal and anomalous images or videos, scenes without scored pixels, and the sum of normal scores.
        self._counts: dict[int, Tensor] = {}

    def _prepare(self, trainer: Trainer) -> None:
        for level in self.levels.values():
            level.prepare(getattr(trainer, "datamodule", None))

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
        self._prepare(trainer)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reset()
        self._prepare(trainer)
        begin_result(trainer, self.filename)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update; the sanity check's outputs are not scored."""
        if not trainer.sanity_checking:
            self._update(outputs, batch, loader_of(args), testing=False)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update."""
        self._update(outputs, batch, loader_of(args), testing=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and write the result file."""
        values, undefined = self._log(trainer, pl_module, "test")
        content = {
            "metrics": flat(values),
            "undefined": flat(undefined),
            "error_bound": flat(self._error_bounds(undefined)),  # every process takes part
            "definitions": self._definitions(),
            "data": {**self._data(POOL), **self._unit()}
            | {f"dataloader_idx_{loader}": self._data(loader) for loader in values if loader != POOL},
        }
        write_section(trainer, pl_module, self.filename, None, content)

    # Update ------------------------------------------------------------------------------------------------------

    def _update(self, outputs: Any, raw: Any, loader: int, *, testing: bool) -> None:
        if (read := self._reader.read(outputs, raw, loader)) is None:
            return
        prediction, batch = read
        if not testing:  # decisions are left out: the thresholds are about to be fitted on these very images
            prediction = {key: value for key, value in prediction.items() if key not in ("pred_label", "pred_mask")}  # type: ignore[assignment]
        # One loader is the pool; of several, each has metrics of its own.
        columns = sorted({POOL, loader})
        self._count(prediction, batch, columns)
        for category, group, values, truth in self._updates(prediction, batch, testing=testing):
            for column in columns:
                key = column, category, group
                if key not in self._collections:
                    self._collections[key] = self.levels[group.option].build(group).to(values.device)
                self._collections[key].update(values, truth.to(values.device))

    def _updates(
        self, prediction: Prediction, batch: Batch, *, testing: bool
    ) -> Iterator[tuple[str, Group, Tensor, Tensor]]:
        """What a batch gives, by category and group."""
        categories = _rows_by_category(batch)
        for level in self._levels_of(testing=testing):
            for group, values, truth, per_sample in level.updates(prediction, batch):
                if not level.wants(group):
                    continue
                known = batch["scored"].to(values.device) if per_sample and "scored" in batch else None
                whole = (values, truth) if known is None else (values[known], truth[known])
                yield POOLED, group, *whole
                for category, rows in categories.items() if per_sample else ():
                    part = rows.to(values.device) if known is None else rows.to(values.device) & known
                    yield category, group, values[part], truth[part]

    def _levels_of(self, *, testing: bool) -> list[Level]:
        return [level for level in self.levels.values() if testing or self.pixel_in_validation or not level.sketched]

    def _count(self, prediction: Prediction, batch: Batch, columns: list[int]) -> None:
        if "anomaly_score" not in prediction:
            return
        if "label" in batch:
            label = batch["label"]
        elif "ood_mask" in batch:
            label = (batch["ood_mask"] == 1).flatten(1).any(1).long()
        else:
            return
        score, unscored = prediction["anomaly_score"].detach(), 0
        check_shapes(score, label)
        if "scored" in batch:
            known = batch["scored"]
            score, label, unscored = score[known], label[known], int((~known).sum())
        counts = torch.bincount(label.cpu(), minlength=2).tolist()
        more = torch.tensor([*counts, unscored, float(score[label == 0].double().sum())], dtype=torch.float64)
        for column in columns:
            self._counts[column] = self._counts.get(column, 0) + more

    # Compute -----------------------------------------------------------------------------------------------------

    def _log(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, str]]]:
        """Values and reasons by loader, the same in every process."""
        found = self._reader.found(trainer)
        values, undefined = self._compute(trainer, pl_module, list(found))
        for loader, keys in found.items():
            for level in self._levels_of(testing=stage == "test"):
                of_level = (name for name in (*values[loader], *undefined[loader]))
                if any(name.rpartition("/")[2].startswith(f"{level.logged}_") for name in of_level):
                    continue
                if (reason := level.lacks(keys, testing=stage == "test")) is not None:
                    undefined[loader] |= {f"{level.logged}_{name}": f"{name} {reason}" for name in level.names()}
            values[loader].update(_category_means(values[loader]))
            mine = self._counts.get(loader, torch.zeros(4, dtype=torch.float64)).to(pl_module.device)
            counts = self._counts[loader] = trainer.strategy.reduce(mine, reduce_op="sum").cpu()
            if stage == "val" and counts[0] > 0:
                values[loader]["normal_score"] = float(counts[3] / counts[0])
        if unscored := int(self._counts[POOL][2]):
            self._say(
                f"{stage} leaves scenes without any scored pixel out of the metrics of images: {unscored} there are"
            )
        self._tell(stage, flat(undefined))
        log_columns(pl_module, stage, values, self._reader.loaders)
        return values, undefined

    def _compute(
        self, trainer: Trainer, pl_module: LightningModule, loaders: list[int]
    ) -> tuple[dict[int, dict[str, float]], dict[int, dict[str, str]]]:
        values: dict[int, dict[str, float]] = {loader: {} for loader in loaders}
        undefined: dict[int, dict[str, str]] = {loader: {} for loader in loaders}
        # Every process has the same collections, so that all take part in every gathering.
        for key in shared_by_all(trainer, sorted(self._collections)):
            loader, category, group = key
            level = self.levels[group.option]
            if key not in self._collections:
                self._collections[key] = level.build(group).to(pl_module.device)
            for name, metric in self._collections[key].items(keep_base=True, copy_state=False):
                logged = f"{category}/" * bool(category) + f"{level.logged}_{name}"
                try:
                    values[loader][logged] = _own_value(name, metric) if group.own else float(metric.compute())
                except MetricUndefinedError as error:
                    undefined[loader][logged] = str(error)
        return values, undefined

    def _tell(self, stage: str, undefined: dict[str, str]) -> None:
        """Warn once of metrics without a value, those of one reason together."""
        for reason in sorted({why.partition(" ")[2] for why in undefined.values()}):  # without the metric's own name
            names = ", ".join(name for name, why in undefined.items() if why.partition(" ")[2] == reason)
            self._say(f"{stage} has no {names}: each {reason}")

    def _say(self, warning: str) -> None:
        if warning not in self._told:
            log.warning(warning)
            self._told.add(warning)

    def _error_bounds(self, undefined: dict[int, dict[str, str]]) -> dict[int, dict[str, float]]:
        """Certified error of the bounded-memory values that are defined, for pixels of all categories, by loader."""
        bounds: dict[int, dict[str, float]] = {loader: {} for loader in undefined}
        for (loader, category, group), collection in sorted(self._collections.items(), key=lambda item: item[0]):
            level = self.levels[group.option]
            if category != POOLED or level.exact or group.decides or group.own:
                continue
            for name, metric in collection.items(keep_base=True, copy_state=False):
                if (logged := f"{level.logged}_{name}") not in undefined[loader]:
                    bounds[loader][logged] = float(metric.error_bound())  # type: ignore[operator] # a RankMetric's
        return bounds

    def _definitions(self) -> dict[str, str]:
        """The first sentence about each metric, and what its logged name adds."""
        found = {}
        for (_, _, group), collection in self._collections.items():
            notes = self.levels[group.option].notes
            for name, metric in collection.items(copy_state=False):
                first = (type(metric).__doc__ or "").strip().partition(" See ")[0].partition("\n")[0]
                found[name] = " ".join([first, *(note for key, note in notes.items() if key in name.split("_"))])
        return found

    def _data(self, loader: int) -> dict[str, int]:
        normal, anomalous, unscored, _ = self._counts[loader].tolist()
        without = {"without_scored_pixels": int(unscored)} if unscored else {}
        return {"normal": int(normal), "anomalous": int(anomalous), **without}

    def _unit(self) -> dict[str, str]:
        units = [self.levels[group.option].unit for _, _, group in self._collections]
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
    rows = {one: torch.tensor([item == one for item in categories]) for one in sorted(set(categories))}
    if "seen_type" in batch and "label" in batch:
        normal, seen = batch["label"].cpu() == 0, batch["seen_type"].cpu()
        rows |= dict(zip(SEEN, (normal | seen, normal | ~seen), strict=True))
    return rows


def _category_means(values: dict[str, float]) -> dict[str, float]:
    """Mean over categories of every metric, under ``mean/``; nothing for a single category."""
    grouped: dict[str, list[float]] = {}
    for key, value in values.items():
        category, slash, name = key.rpartition("/")
        if slash and category not in SEEN:
            grouped.setdefault(name, []).append(value)
    return {f"mean/{name}": sum(items) / len(items) for name, items in grouped.items() if len(items) > 1}
