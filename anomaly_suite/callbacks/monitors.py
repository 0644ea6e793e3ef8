"""Monitored metrics that a validation of normals cannot have, refused before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Trainer

from anomaly_suite.callbacks.base import of_data
from anomaly_suite.callbacks.metrics.level import Level
from anomaly_suite.contract.monitors import monitors
from anomaly_suite.errors import ConfigError

INSTEAD = "Monitor val/normal_score or a loss that the method logs"


def require_possible_monitors(trainer: Trainer, levels: Iterable[Level], *, with_pixels: bool) -> None:
    """Refuse to begin a fit that would wait for a metric in vain.

    Args:
        trainer: At the start of a fit; its data module says what validation holds.
        levels: Of the metrics that are computed.
        with_pixels: Whether validation computes those of pixels.

    Raises:
        ConfigError: with what can be monitored.
    """
    of_both, never = set[str](), set[str]()  # names without the stage
    for level in levels:
        (of_both if with_pixels or not level.sketched else never).update(_ranked(level))
    never -= of_both
    anomalies = of_data(trainer, "validates_anomalies", None)
    for monitor in monitors(trainer, also_later=True):
        stage, _, name = monitor.name.partition("/")
        name = name.rpartition("/")[2]  # a category may stand before it
        if stage == "val" and name in never:
            raise ConfigError(
                f"{monitor.owner} monitors {monitor.name!r}, which validation does not compute. {INSTEAD}, or set "
                "pixel_in_validation: true of AnomalyMetrics."
            )
        if stage == "val" and name in of_both and anomalies is False:
            data = type(trainer.datamodule).__name__  # type: ignore[attr-defined]
            how = of_data(trainer, "validation", "unknown")
            raise ConfigError(
                f"{monitor.owner} monitors {monitor.name!r}, which needs normal and anomalous samples; {data} with validation: {how} "
                f"validates {'nothing' if how == 'none' else 'normal ones only'}. {INSTEAD}, or choose validation: augmented or test."
            )


def _ranked(level: Level) -> set[str]:
    """Logged names of the metrics that need normal and anomalous samples."""
    ranked = [names for group, names in level._names.items() if not (group.own or group.decides or group.scope)]
    return {f"{level.logged}_{name}" for names in ranked for name in names}
