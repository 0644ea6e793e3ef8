"""Thresholds and score ranges from validation data, stored in the module and so in its checkpoint."""

from __future__ import annotations

import logging
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from anomaly_suite.callbacks.base import of_data
from anomaly_suite.callbacks.reading import POOL, Found, Reader, loader_of
from anomaly_suite.callbacks.thresholds import CurveRule, choose_threshold, expected_fpr, sentence
from anomaly_suite.contract import AnomalyModule, Batch, Calibration, KeyMap, Level, Prediction
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics import F1Max
from anomaly_suite.metrics.scored import scored_pixels
from anomaly_suite.metrics.state import Curve
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)

Rule = Literal["auto", "max_f1", "youden", "quantile", "gumbel", "fixed"]
LEVELS: tuple[Level, ...] = ("image", "pixel")
QUANTILES = ("quantile", "gumbel")  # rules that need normals alone
ON_NORMALS: dict[Level, CurveRule] = {"image": "gumbel", "pixel": "quantile"}
"""What ``auto`` takes where there are normals only; docs/decisions.md has the comparison."""


class Calibrate(ChecksOptions, Callback):
    """Fit the module's thresholds at the end of every validation epoch, on all validation loaders together.

    Images: one score each; for weak video, one score a video, and the record says ``unit: videos``.
    Pixels: with masks, all pixels, of driving scenes the scored ones; without, the pixels of normal images, which are known to be normal.
    All thresholds come from one validation: one of an earlier validation that the last has no data for is dropped, with a warning.
    A fit that ends without a threshold, or trains on after the last validation, warns of it.

    At the end of a fit and of a validation one line for each threshold says what it was fitted on and which share of normal samples
    to expect above it (``expected_fpr`` in the record). The thresholds are also in :attr:`thresholds` and in this callback's state:
    another module than an ``AnomalyModule`` carries none, and its predictions no decisions.

    Args:
        rule: ``auto`` takes ``max_f1`` where validation has both labels, and where it has normals only ``gumbel`` for images and
            ``quantile`` for pixels. ``max_f1`` has the best F1, ``youden`` the best TPR - FPR. ``quantile`` is a quantile of the scores
            of normals, ``gumbel`` that of an extreme-value distribution fitted to them, which can lie above them all. ``fixed`` takes
            the two thresholds below as they are, in ``test`` and ``predict`` without a validation, too.
        quantile: Share of normal images that stay unflagged under ``quantile`` and ``gumbel``, in (0, 1).
        pixel_quantile: The same for pixels.
        image_threshold: For ``fixed``; None leaves images as they are.
        pixel_threshold: For ``fixed``; None leaves pixels as they are.
        key_map: Our names of keys, and what other loaders and modules call them: ``{"label": "defect"}``. Common names such as
            ``gt_label`` or ``targets`` are read without it.

    Raises:
        ConfigError: a share outside (0, 1), ``fixed`` without a threshold or a threshold without ``fixed``; at the end
            of validation, a rule that needs both labels where there is one.
    """

    def __init__(
        self,
        *,
        rule: Rule = "auto",
        quantile: float = 0.9,
        pixel_quantile: float = 0.995,
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
        key_map: KeyMap | None = None,
    ) -> None:
        if not (0 < quantile < 1 and 0 < pixel_quantile < 1):
            raise ConfigError(f"quantile and pixel_quantile must lie in (0, 1); got {quantile} and {pixel_quantile}.")
        given = image_threshold is not None or pixel_threshold is not None
        if given != (rule == "fixed"):
            raise ConfigError(
                "rule: fixed and a threshold belong together; "
                f"got rule: {rule}, image_threshold: {image_threshold}, pixel_threshold: {pixel_threshold}."
            )
        self.rule = rule
        self.quantiles: dict[Level, float] = {"image": quantile, "pixel": pixel_quantile}
        self.fixed: dict[Level, float | None] = {"image": image_threshold, "pixel": pixel_threshold}
        self.record: dict[str, dict[str, Any]] = {}
        """What the module's calibration holds, see :class:`~anomaly_suite.contract.Calibration`."""
        self.is_fitted = False
        """Whether the last validation gave a threshold."""
        self._step = 0  # global step of the last calibration
        self._told: set[str] = set()
        self._reader = Reader(key_map)
        self._reset()

    @property
    def thresholds(self) -> dict[str, float]:
        """By level, ``image`` and ``pixel``: scores at or above it are anomalous."""
        return {level: float(entry["threshold"]) for level, entry in self.record.items()}

    def state_dict(self) -> dict[str, Any]:
        """The record, and the step of the last calibration, for a run that is resumed."""
        return {"step": self._step, "record": {level: dict(entry) for level, entry in self.record.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them; former checkpoints have the step alone."""
        self._step, self.record = state_dict["step"], dict(state_dict.get("record", {}))

    def _reset(self) -> None:
        self._scores: dict[Level, F1Max] = {"image": F1Max(), "pixel": F1Max(exact=False)}
        self._units: dict[Level, str] = {"image": "images", "pixel": "pixels"}
        self._reader.begin()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reset()
        self.is_fitted = False

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Collect scores; nothing is collected in the sanity check."""
        if trainer.sanity_checking:
            return
        step = self._reader.read(outputs, batch, loader_of(args))
        if step is not None and "anomaly_score" in step[0] and "label" in step[1]:
            self._collect(*step)

    def _collect(self, prediction: Prediction, batch: Batch) -> None:
        score, label = prediction["anomaly_score"], batch["label"]
        if "snippet_features" in batch:
            self._units["image"] = "videos"
        if "scored" in batch:
            self._update("image", score[batch["scored"]], label[batch["scored"]])
        else:
            self._update("image", score, label)
        if "anomaly_map" not in prediction:
            return
        anomaly_map = prediction["anomaly_map"]
        if "ood_mask" in batch:
            self._update("pixel", *scored_pixels(anomaly_map, batch["ood_mask"]))
        elif "mask" in batch:
            self._update("pixel", anomaly_map, batch["mask"])
        elif bool((label == 0).any()):
            normal = anomaly_map[label == 0]
            self._update("pixel", normal, torch.zeros_like(normal, dtype=torch.bool))

    def _update(self, level: Level, score: Tensor, target: Tensor) -> None:
        if len(score):
            self._scores[level].to(score.device).update(score.detach(), target)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the thresholds, the same in every process."""
        if trainer.sanity_checking:
            return
        found = self._reader.found(trainer)
        fitted: dict[str, dict[str, Any]] = {}
        for level, metric in self._scores.items():
            curve = metric.to(pl_module.device).curve()
            if entry := self._entry(level, curve):
                fitted[level] = entry
                split = of_data(trainer, "validated_on", None) or of_data(trainer, "validation", "unknown")
                entry.setdefault("split", split)
                if len(found) > 1:
                    entry["loaders"] = len(found) - 1
        self._say_what_lacks(found[POOL], fitted)
        self._keep(trainer, pl_module, fitted)
        if fitted and trainer.state.fn != TrainerFn.FITTING:  # of a fit, its end says the last
            self._tell(pl_module)

    def _entry(self, level: Level, curve: Curve) -> dict[str, Any] | None:
        """What the record will say of a level; None where there is nothing to say."""
        fixed, quantile = self.fixed[level], self.quantiles[level]
        if not len(curve.threshold) or (self.rule == "fixed" and fixed is None):
            return self._fixed_entry(level)
        anomalous, normal = int(curve.true[-1]), int(curve.false[-1])
        rule: CurveRule | Literal["fixed"]
        if fixed is not None:
            rule, threshold = "fixed", float(fixed)
        elif (chosen := self._rule_for(level, normal, anomalous)) is not None:
            rule, threshold = chosen, choose_threshold(curve, chosen, quantile)
        else:
            return None
        entry: dict[str, Any] = {
            **{"threshold": threshold, "low": float(curve.threshold[-1]), "high": float(curve.threshold[0])},
            **{"rule": rule, "normal": normal, "anomalous": anomalous},
        }
        if rule in QUANTILES:
            entry["quantile"] = quantile
        if self._units[level] == "videos":
            entry["unit"] = "videos"
        if (fpr := expected_fpr(curve, rule, threshold, quantile)) is not None:
            entry["expected_fpr"] = round(fpr, 6)
        return entry

    def _fixed_entry(self, level: Level) -> dict[str, Any] | None:
        """The record of a fixed threshold where no score was seen: the range of the last calibration, if there was one."""
        threshold = self.fixed[level]
        if threshold is None:
            return None
        former = self.record.get(level, {})
        low, high = former.get("low", threshold), former.get("high", threshold)
        return {"threshold": float(threshold), "low": low, "high": high, "rule": "fixed"}

    def _keep(self, trainer: Trainer, pl_module: LightningModule, fitted: dict[str, dict[str, Any]]) -> None:
        """Put new thresholds into the module, if it is one that carries them, and drop older ones beside them."""
        if not fitted:
            return
        self.is_fitted = True
        self._step = trainer.global_step
        carried = _carried_by(pl_module)
        former = self.record if carried is None else carried.record
        if self.rule != "fixed" and (stale := [level for level in former if level not in fitted]):
            rank_zero_warn(
                f"the {' and '.join(stale)} threshold of an earlier validation is dropped: this one has no data for it by rule: "
                f"{self.rule}, and thresholds of two validations do not belong together. Validate on normal and anomalous samples."
            )
            former = {level: entry for level, entry in former.items() if level in fitted}
        if carried is None:
            self.record = {**former, **fitted}
            return
        carried.record = dict(former)
        for level in LEVELS:
            if level in fitted:
                carried.set(level, **fitted[level])
        self.record = carried.record

    def _tell(self, pl_module: LightningModule) -> None:
        """One line for each threshold, and one where predictions do not follow them."""
        for level, entry in self.record.items():
            rank_zero_info(f"Calibrate: {sentence(level, entry)}.")
        if _carried_by(pl_module) is None:
            rank_zero_info(
                f"{type(pl_module).__name__} is no AnomalyModule, so its predictions carry no decisions: compare scores with "
                "Calibrate.thresholds, which are also in the callback's state in a checkpoint."
            )

    def _say_what_lacks(self, found: Found, fitted: dict[str, dict[str, Any]]) -> None:
        """Once: which keys were wanted, and which were there."""
        lacks = {"image": found.lacks("anomaly_score", "label")}
        if self.rule in ("max_f1", "youden") and "anomaly_map" in found.read and "ood_mask" not in found.read:
            lacks["pixel"] = found.lacks("anomaly_map", "mask")
        for level, what in lacks.items():
            if what and self.rule != "fixed" and level not in fitted and level not in self._told:
                self._told.add(level)
                rank_zero_warn(f"Calibrate sets no {level} threshold by rule: {self.rule}: it {what}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what the module carries: its checkpoint may have been calibrated anew."""
        self._take_carried(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set fixed thresholds, which need no validation."""
        if self._set_fixed(trainer, pl_module):
            self._tell(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set fixed thresholds, which need no validation."""
        if self._set_fixed(trainer, pl_module):
            self._tell(pl_module)

    def _set_fixed(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether there were any that a validation had not set."""
        self._take_carried(pl_module)
        new: dict[str, dict[str, Any]] = {}
        for level in LEVELS:
            entry = self._fixed_entry(level)
            if entry and self.thresholds.get(level) != entry["threshold"]:
                new[level] = entry
        self._keep(trainer, pl_module, new)
        return bool(new)

    def _take_carried(self, pl_module: LightningModule) -> None:
        if (calibration := _carried_by(pl_module)) is not None:
            self.record = calibration.record

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the thresholds are, and warn where they are not those of the model that the fit leaves behind."""
        if isinstance(pl_module, AnomalyModule) and not pl_module.is_fitted:
            return
        self._set_fixed(trainer, pl_module)
        advice = "Validate after the last step (check_val_every_n_epoch, val_check_interval), or run calibrate on the checkpoint."
        if not self.record:
            if not self._told:  # else the reason has been said
                rank_zero_warn(
                    f"the fit ends at step {trainer.global_step} without a threshold: no validation gave one. {advice}"
                )
            return
        self._tell(pl_module)
        if self._step != trainer.global_step and self.rule != "fixed":
            rank_zero_warn(
                f"the thresholds were calibrated at step {self._step}, but the fit ends at step {trainer.global_step}. {advice}"
            )

    def _rule_for(self, level: Level, normal: int, anomalous: int) -> CurveRule | None:
        unit = self._units[level]
        if self.rule == "auto":
            if normal == 0:
                kind = unit.removesuffix("s")
                log.warning("Validation has no normal %s, so no %s threshold is set; add normals.", unit, kind)
                return None
            return "max_f1" if anomalous else ON_NORMALS[level]
        if normal == 0 or (self.rule not in QUANTILES and anomalous == 0):
            if level == "pixel":
                return None  # masks may be missing where labels are not
            raise ConfigError(
                f"calibration rule {self.rule} cannot work on {normal} normal and {anomalous} anomalous validation {unit}. "
                "Use rule: auto, quantile or gumbel, or a validation set with both."
            )
        return cast(CurveRule, self.rule)


def _carried_by(pl_module: LightningModule) -> Calibration | None:
    """The calibration of the module, by which its predictions have decisions; somebody else's may have one, too."""
    calibration = getattr(pl_module, "calibration", None)
    return calibration if isinstance(calibration, Calibration) else None
