"""Thresholds and score ranges from validation data, stored in the module and so in its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from anomaly_suite.callbacks.base import of_data
from anomaly_suite.contract import AnomalyModule, as_batch
from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics import F1Max
from anomaly_suite.metrics.state import Curve
from anomaly_suite.options import ChecksOptions

log = logging.getLogger(__name__)

Rule = Literal["auto", "max_f1", "youden", "quantile", "fixed"]


def choose_threshold(curve: Curve, rule: Literal["max_f1", "youden", "quantile"], quantile: float) -> float:
    """Threshold at and above which a score is called anomalous.

    Args:
        curve: Counts of anomalous and normal samples at every distinct score, from the highest down.
        rule: ``max_f1`` and ``youden`` (TPR - FPR) take the highest best threshold; ``quantile`` the lowest one that
            flags at most ``1 - quantile`` of the normal samples.
        quantile: Share of normal samples to leave unflagged; read only by its rule.

    Returns:
        A score that occurs, or for ``quantile`` the next number above the highest, when no score flags few enough.
    """
    true, false, total, normal = curve.true, curve.false, curve.true[-1], curve.false[-1]
    if rule == "max_f1":
        return float(curve.threshold[(2 * true / (true + false + total)).argmax()])
    if rule == "youden":
        return float(curve.threshold[(true / total - false / normal).argmax()])
    allowed = int((false <= (1 - quantile) * normal + 1e-9).sum())  # the sum 1 - quantile is not exact
    if allowed:
        return float(curve.threshold[allowed - 1])
    highest = curve.threshold[0].float()  # scores are float32, their gathered copies are not
    return float(torch.nextafter(highest, highest.new_tensor(float("inf"))))


class Calibrate(ChecksOptions, Callback):
    """Fit the module's thresholds at the end of every validation epoch.

    Images: one score each; for weak video, one score a video, and the record says ``unit: videos``.
    Pixels: with masks, all pixels; without, the pixels of normal images, which are known to be normal.
    A fit that ends without a threshold, or trains on after the last validation, warns of it.

    Args:
        rule: ``auto`` takes ``max_f1`` where validation has both labels and ``quantile`` where it has normals only;
            ``fixed`` takes the two thresholds below as they are.
        quantile: Share of normal images that stay unflagged under ``quantile``, in (0, 1).
        pixel_quantile: The same for pixels.
        image_threshold: For ``fixed``; None leaves images uncalibrated.
        pixel_threshold: For ``fixed``; None leaves pixels uncalibrated.

    Raises:
        ConfigError: a share outside (0, 1), ``fixed`` without a threshold or a threshold without ``fixed``; at the end
            of validation, a rule that needs both labels where there is one.
    """

    def __init__(
        self,
        *,
        rule: Rule = "auto",
        quantile: float = 0.99,
        pixel_quantile: float = 0.995,
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
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
        self.quantiles = {"image": quantile, "pixel": pixel_quantile}
        self.fixed = {"image": image_threshold, "pixel": pixel_threshold}
        self._step = 0  # global step of the last calibration
        self._reset()

    def state_dict(self) -> dict[str, Any]:
        """The step of the last calibration, for a run that is resumed."""
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self._step = state_dict["step"]

    def _reset(self) -> None:
        self._scores = {"image": F1Max(), "pixel": F1Max(exact=False)}
        self._units = {"image": "images", "pixel": "pixels"}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch."""
        self._reset()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Collect scores; nothing is collected in the sanity check."""
        if trainer.sanity_checking or not isinstance(outputs, Mapping) or "anomaly_score" not in outputs:
            return
        checked = as_batch(batch)
        if "label" not in checked:
            return
        label = checked["label"]
        if "snippet_features" in checked:
            self._units["image"] = "videos"
        self._scores["image"].to(label.device).update(outputs["anomaly_score"], label)
        if "anomaly_map" not in outputs:
            return
        anomaly_map = outputs["anomaly_map"]
        if "mask" in checked:
            self._scores["pixel"].to(label.device).update(anomaly_map, checked["mask"])
        elif bool((label == 0).any()):
            normal = anomaly_map[label == 0]
            self._scores["pixel"].to(label.device).update(normal, torch.zeros_like(normal, dtype=torch.bool))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the module's calibration, the same in every process."""
        if trainer.sanity_checking or not isinstance(pl_module, AnomalyModule):
            return
        self._step = trainer.global_step
        split = of_data(trainer, "validation", "unknown")
        for level, metric in self._scores.items():
            curve = metric.to(pl_module.device).curve()
            if not len(curve.threshold):
                continue
            anomalous, normal = int(curve.true[-1]), int(curve.false[-1])
            rule = self._rule_for(level, normal, anomalous)
            if rule is None:
                continue
            quantile, fixed = self.quantiles[level], self.fixed[level]
            threshold = choose_threshold(curve, rule, quantile) if rule != "fixed" else fixed
            if threshold is None:
                continue
            low, high = float(curve.threshold[-1]), float(curve.threshold[0])
            how: dict[str, str | int | float] = {"rule": rule, "split": split, "normal": normal, "anomalous": anomalous}
            if rule == "quantile":
                how["quantile"] = quantile
            if self._units[level] == "videos":
                how["unit"] = "videos"
            pl_module.calibration.set(level, threshold=threshold, low=low, high=high, **how)  # type: ignore[arg-type]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn where the thresholds are not those of the model that the fit leaves behind."""
        if not isinstance(pl_module, AnomalyModule) or not pl_module.is_fitted:
            return
        advice = "Validate after the last step (check_val_every_n_epoch, val_check_interval), or run calibrate on the checkpoint."
        if not pl_module.calibration.record:
            rank_zero_warn(
                f"the fit ends at step {trainer.global_step} without a threshold: no validation gave one. {advice}"
            )
        elif self._step != trainer.global_step:
            rank_zero_warn(
                f"the thresholds were calibrated at step {self._step}, but the fit ends at step {trainer.global_step}. {advice}"
            )

    def _rule_for(
        self, level: str, normal: int, anomalous: int
    ) -> Literal["max_f1", "youden", "quantile", "fixed"] | None:
        if self.rule == "fixed":
            return "fixed"
        unit = self._units[level]
        if self.rule == "auto":
            if normal == 0:
                kind = unit.removesuffix("s")
                log.warning("Validation has no normal %s, so no %s threshold is set; add normals.", unit, kind)
                return None
            return "max_f1" if anomalous else "quantile"
        if normal == 0 or (self.rule != "quantile" and anomalous == 0):
            if level == "pixel":
                return None  # masks may be missing where labels are not
            raise ConfigError(
                f"calibration rule {self.rule} cannot work on {normal} normal and {anomalous} anomalous validation {unit}. "
                "Use rule: auto or quantile, or a validation set with both."
            )
        return self.rule
