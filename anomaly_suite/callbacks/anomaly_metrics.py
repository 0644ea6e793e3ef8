"""Metrics of validation and test, logged under ``<stage>/<level>_<metric>``; every test writes ``metrics.json``."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from anomaly_suite import metrics
from anomaly_suite.callbacks.files import output_folder, replacing
from anomaly_suite.contract import Batch, Prediction, as_batch
from anomaly_suite.errors import ConfigError, MetricUndefinedError, did_you_mean
from anomaly_suite.metrics.checks import check_shapes
from anomaly_suite.metrics.scored import scored_pixels

log = logging.getLogger(__name__)

POOLED = ""  # the key of all categories together
RANKING = ("AUROC", "AP", "F1Max", "FPR95", "EER", "IoUMax", "DiceMax", "AUPRO", "PRAUC")
THRESHOLDED = ("Accuracy", "Sensitivity", "Specificity", "IoU", "Dice")
OF_FRAMES = ("AUROC", "AP", "F1Max", "FPR95", "EER", "PRAUC")
OF_SCENES = (*OF_FRAMES, "IoUMax", "DiceMax")
SKETCHED = {"pixel": "pixel", "ood": "pixel"}  # collections of bounded memory, and the level that they are logged as
INSIDE, ORACLE = "inside", "oracle"
FALSE_ALARM = 0.5  # a frame above it counts in FAR, as in the DeepMIL paper
NOTES = {  # what the logged name adds to the definition of its metric
    INSIDE: "Of the frames of anomalous videos alone.",
    ORACLE: "Of a score that is the label of the whole video for all its frames, whatever the method says.",
    "FAR": f"Of the frames of normal videos; those with a score above {FALSE_ALARM} are called anomalous.",
}


class AnomalyMetrics(Callback):
    """Image, pixel, video and frame metrics of every validation and test epoch.

    Logged as ``val/image_AUROC``, ``test/pixel_AUPRO`` and so on, and ``val/normal_score``, the mean raw score of normal
    images or videos, which needs no anomalies: monitor it to choose an epoch from normals alone. Several categories are also
    logged one by one (``test/bottle/image_AUROC``) and averaged (``test/mean/image_AUROC``).

    Batches of videos have ``video_AUROC`` and so on of whole videos and, where the truth of frames is known,
    ``frame_AUROC`` and so on of the frames of all videos together, every frame counting the same. Two more figures say how
    much of that is finding *when* something happens:

    - ``frame_AUROC_inside`` is the same of anomalous videos alone, where knowing which videos are anomalous does not help;
    - ``frame_AUROC_oracle`` is what the labels of the videos reach as scores, constant over each video; it is a figure of
      the data set, and a ``frame_AUROC`` below it is little evidence that events are found in time.

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
            after its name, and ``FAR``. They keep 5 to 12 bytes a frame.
        pixel_in_validation: Also compute the metrics of pixels in validation.
        exact: Keep every pixel instead of a bounded-memory sketch; for checking the sketch.
        filename: Name of the result file in the run folder.

    Raises:
        ConfigError: an unknown metric, or one that the level does not have.
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
        pixel_in_validation: bool = False,
        exact: bool = False,
        filename: str = "metrics.json",
    ) -> None:
        scoped = [f"{name}_{scope}" for scope in (INSIDE, ORACLE) for name in OF_FRAMES]
        self._members: dict[str, list[str]] = {}  # names by collection: level, then scope, then @ for decisions
        special = {"frame": (*OF_FRAMES, "FAR", *scoped), "ood": OF_SCENES}
        for level, names in {"image": image, "pixel": pixel, "ood": ood, "video": video, "frame": frame}.items():
            known = special.get(level, (*RANKING, *THRESHOLDED))
            for name in names:
                if name not in known:
                    raise ConfigError(
                        f"{level} has no metric {name!r}; known are {', '.join(known)}.{did_you_mean(name, known)}"
                    )
                metric, _, scope = name.partition("_")
                decides = "@" if metric in (*THRESHOLDED, "FAR") else ""
                self._members.setdefault(f"{level}_{scope}".rstrip("_") + decides, []).append(name)
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
        self._collections: dict[tuple[str, str], MetricCollection] = {}  # by category and key of self._members
        self._counts = torch.zeros(2, dtype=torch.long)  # normal and anomalous images or videos
        self._normal_sum = torch.zeros((), dtype=torch.float64)

    # The two epochs that are scored ------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reset()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reset()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Update; the sanity check's outputs are not scored."""
        if not trainer.sanity_checking:
            # Decisions are left out: the thresholds are about to be fitted on these very images.
            self._update(_raw(outputs), batch, with_pixels=self.pixel_in_validation)

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
        self._write(trainer, pl_module, values, undefined)

    # Update ------------------------------------------------------------------------------------------------------

    def _update(self, outputs: Prediction | None, raw: Any, *, with_pixels: bool) -> None:
        if not isinstance(outputs, Mapping):
            return
        batch = as_batch(raw)
        if "frame_score" in outputs and "frame_label" in batch:
            self._update_frames(outputs["frame_score"].detach(), batch)
        if with_pixels and "anomaly_map" in outputs and "ood_mask" in batch and "ood" in self._members:
            self._add(POOLED, "ood", *scored_pixels(outputs["anomaly_map"].detach(), batch["ood_mask"]))
        if "anomaly_score" not in outputs:
            return
        score = outputs["anomaly_score"].detach()
        if "label" not in batch:
            if "ood_mask" in batch:
                self._count(score, (batch["ood_mask"] == 1).flatten(1).any(1).long())
            return
        label = batch["label"]
        self._count(score, label)
        categories = batch.get("category")
        groups: list[tuple[str, Tensor | slice]] = [(POOLED, slice(None))]
        if categories is not None and len(set(categories)) > 0:
            for category in sorted(set(categories)):
                members = torch.tensor([item == category for item in categories], device=score.device)
                groups.append((category, members))
        level = "video" if "snippet_features" in batch else "image"
        for category, rows in groups:
            self._add(category, level, score[rows], label[rows])
            if "pred_label" in outputs:
                self._add(category, f"{level}@", outputs["pred_label"][rows], label[rows])
            if with_pixels and "anomaly_map" in outputs and "mask" in batch and "ood_mask" not in batch:
                mask = batch["mask"][rows]
                self._add(category, "pixel", outputs["anomaly_map"].detach()[rows], mask)
                if "pred_mask" in outputs:
                    self._add(category, "pixel@", outputs["pred_mask"][rows], mask)

    def _count(self, score: Tensor, label: Tensor) -> None:
        self._counts += torch.bincount(label.cpu(), minlength=2)
        self._normal_sum += score[label == 0].double().sum().cpu()

    def _update_frames(self, score: Tensor, batch: Batch) -> None:
        truth = batch["frame_label"]
        check_shapes(score, truth)
        self._add(POOLED, "frame", score, truth)
        if "label" in batch and "frame_count" in batch:
            anomalous = batch["label"].bool().repeat_interleave(batch["frame_count"])  # F, the label of a frame's video
            self._add(POOLED, f"frame_{INSIDE}", score[anomalous], truth[anomalous])
            self._add(POOLED, f"frame_{ORACLE}", anomalous.byte(), truth)
            self._add(POOLED, "frame@", score > FALSE_ALARM, anomalous)

    def _add(self, category: str, key: str, values: Tensor, truth: Tensor) -> None:
        """Add scores, or decisions where the key says so, and their truth."""
        if key not in self._members:
            return
        if (category, key) not in self._collections:
            self._collections[category, key] = self._build(key).to(values.device)
        self._collections[category, key].update(values, truth)

    def _build(self, key: str) -> MetricCollection:
        ranking = not key.endswith("@")
        # The first of the group keeps the state, and AUPRO needs more.
        names = sorted(self._members[key], key=lambda name: name != "AUPRO")
        exact = {"exact": self.exact or key not in SKETCHED} if ranking else {}
        members: dict[str, Metric | MetricCollection] = {
            name: getattr(metrics, name.partition("_")[0])(**exact) for name in names
        }
        return MetricCollection(members, compute_groups=[names] if ranking else False)

    # Compute -----------------------------------------------------------------------------------------------------

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> tuple[dict[str, float], dict[str, str]]:
        self._share_keys(pl_module)
        values: dict[str, float] = {}
        undefined: dict[str, str] = {}
        for (category, members), collection in sorted(self._collections.items()):
            prefix = f"{category}/" if category else ""
            level = SKETCHED.get(members, members.rstrip("@").partition("_")[0])
            for name, metric in collection.items(keep_base=True, copy_state=False):
                key = f"{prefix}{level}_{name}"
                try:
                    values[key] = float(metric.compute())
                except MetricUndefinedError as error:
                    undefined[key] = str(error)
        values.update(_category_means(values))
        counts = pl_module.trainer.strategy.reduce(
            torch.cat([self._counts.double(), self._normal_sum[None]]).to(pl_module.device), reduce_op="sum"
        ).cpu()
        self._counts = counts[:2].long()
        if stage == "val" and counts[0] > 0:
            values["normal_score"] = float(counts[2] / counts[0])
        for reason in sorted({why.partition(" ")[2] for why in undefined.values()}):  # without the metric's own name
            names = ", ".join(name for name, why in undefined.items() if why.partition(" ")[2] == reason)
            if (warning := f"{stage} has no {names}: each {reason}") not in self._told:
                log.warning(warning)
                self._told.add(warning)
        for name, value in values.items():
            # All processes have the same value; the largest of them is that value, and Lightning need not warn.
            pl_module.log(f"{stage}/{name}", value, sync_dist=True, reduce_fx="max")
        return values, undefined

    def _share_keys(self, pl_module: LightningModule) -> None:
        """Give every process the same collections, so that all take part in every gathering."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        keys: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(keys, sorted(self._collections))
        for category, key in sorted({pair for part in keys for pair in part} - set(self._collections)):
            self._collections[category, key] = self._build(key).to(pl_module.device)

    def _write(
        self, trainer: Trainer, pl_module: LightningModule, values: dict[str, float], undefined: dict[str, str]
    ) -> None:
        folder, bounds = output_folder(trainer, None), self._error_bounds(undefined)  # every process takes part in both
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        units = {"unit": "videos"} if any(key.startswith("video") for _, key in self._collections) else {}
        members = {name: item for group in self._collections.values() for name, item in group.items(copy_state=False)}
        result = {
            "metrics": values,
            "undefined": undefined,
            "error_bound": bounds,
            "definitions": {name: _definition(name, metric) for name, metric in members.items()},
            "method": type(pl_module).__name__,
            "dataset": type(data).__name__ if data is not None else "unknown",
            "data": {"normal": int(self._counts[0]), "anomalous": int(self._counts[1]), **units},
            "validation": getattr(data, "validation", "unknown"),
            "calibration": getattr(getattr(pl_module, "calibration", None), "record", {}),
            "seed": torch.initial_seed(),
            "checkpoint": trainer.ckpt_path,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "versions": _versions(),
        }
        with replacing(folder / self.filename) as file:
            file.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")

    def _error_bounds(self, undefined: dict[str, str]) -> dict[str, float]:
        """Certified error of the bounded-memory values that are defined, for pooled pixels."""
        members = {
            f"{level}_{name}": metric
            for key, level in SKETCHED.items()
            if (POOLED, key) in self._collections and not self.exact
            for name, metric in self._collections[POOLED, key].items(keep_base=True, copy_state=False)
        }
        return {
            name: float(metric.error_bound())  # type: ignore[operator]
            for name, metric in members.items()
            if name not in undefined
        }


def _raw(outputs: Any) -> Any:
    decisions = ("pred_label", "pred_mask")
    if not isinstance(outputs, Mapping):
        return None
    return {key: value for key, value in outputs.items() if key not in decisions}


def _category_means(values: dict[str, float]) -> dict[str, float]:
    """Mean over categories of every metric, under ``mean/``; nothing for a single category."""
    grouped: dict[str, list[float]] = {}
    for key, value in values.items():
        _category, slash, name = key.rpartition("/")
        if slash:
            grouped.setdefault(name, []).append(value)
    return {f"mean/{name}": sum(items) / len(items) for name, items in grouped.items() if len(items) > 1}


def _definition(name: str, metric: Metric) -> str:
    first = (type(metric).__doc__ or "").strip().partition(" See ")[0].partition("\n")[0]
    return " ".join([first, *(note for key, note in NOTES.items() if key in name.split("_"))])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("anomaly-suite", "torch", "lightning", "torchmetrics", "timm", "albumentations", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
