"""What callbacks and schedulers of Lightning monitor, looked at before they do: a metric that is not there is told in one sentence."""

from __future__ import annotations

from typing import Literal, NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from anomaly_suite.errors import ConfigError, did_you_mean


class Monitor(NamedTuple):
    """Who monitors which metric, and when it is looked at."""

    owner: str
    name: str
    when: Literal["epoch", "validation"]


def monitors(trainer: Trainer, *, also_later: bool = False) -> list[Monitor]:
    """All that stop or raise an error where their metric is missing; those that were told to go on (``strict=False``) are left out.

    Args:
        trainer: Within a fit.
        also_later: Also those that do not look yet.
    """
    found = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.strict:
            by_epoch = bool(callback._check_on_train_epoch_end)
            found.append(Monitor("EarlyStopping", callback.monitor, "epoch" if by_epoch else "validation"))
        # Before the first validation it waits, and between its epochs and steps it does not look.
        waits = not also_later and not trainer.fit_loop.epoch_loop.val_loop._has_run
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and not waits:
            if callback._every_n_epochs != 1:
                continue
            by_epoch = bool(callback._should_save_on_train_epoch_end(trainer))
            found.append(Monitor("ModelCheckpoint", callback.monitor, "epoch" if by_epoch else "validation"))
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.strict and config.monitor is not None and config.interval == "epoch":
            found.append(Monitor("ReduceLROnPlateau", config.monitor, "epoch"))
    return found


def require_monitors(trainer: Trainer, when: Literal["epoch", "validation"]) -> None:
    """Look for the metrics that are about to be monitored.

    Args:
        trainer: Within a fit, after a validation, or where there is none.
        when: At the end of which loop.

    Raises:
        ConfigError: a metric that was not logged; with those that were.
    """
    if trainer.fast_dev_run or trainer.sanity_checking:  # type: ignore[attr-defined]
        return
    logged = [str(name) for name in trainer.callback_metrics]
    for monitor in monitors(trainer):
        if monitor.when == when and monitor.name not in logged:
            raise ConfigError(
                f"{monitor.owner} monitors {monitor.name!r}, which nothing has logged; logged are {', '.join(logged) or 'none'}."
                f"{did_you_mean(monitor.name, logged) or ' Monitor one of these, or add what logs it.'}"
            )
