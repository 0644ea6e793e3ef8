"""Options of the trainer in their ranges, before Lightning divides by them or leaves them unread."""

from __future__ import annotations

import math
import numbers
import os
from typing import Any

from jsonargparse import Namespace

from anomaly_suite.errors import ConfigError
from anomaly_suite.ranges import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE, Range

OPEN = Range(-1, math.inf, whole=True)  # -1 has no end, or is all
RANGES = {
    "max_epochs": OPEN,
    "max_steps": OPEN,
    "min_epochs": COUNT_OR_NONE,
    "min_steps": COUNT_OR_NONE,
    "num_nodes": COUNT,
    "check_val_every_n_epoch": COUNT,
    "accumulate_grad_batches": COUNT,
    "num_sanity_val_steps": OPEN,
    "log_every_n_steps": COUNT_OR_NONE,
    "reload_dataloaders_every_n_epochs": COUNT_OR_NONE,
    "val_check_interval": POSITIVE,
    "gradient_clip_val": NOT_NEGATIVE,
}

PER_CORE = 4
"""Processes that a CPU is asked for at most, by core."""


def check_trainer(settings: Any) -> None:
    """Check the options that are numbers.

    Args:
        settings: Options of ``Trainer`` by name, as parsed.

    Raises:
        ConfigError: one that is out of its range, more devices than any machine of this size has, or a smallest number of epochs or steps above the largest.
    """
    require_mapping("trainer", settings)
    for name, wanted in RANGES.items():
        value = settings.get(name)
        if isinstance(value, numbers.Real) and not wanted.holds(value):
            raise ConfigError(f"trainer.{name} must be {wanted.wants(value)}; got {value}. Give it such a value.")
    most_devices, given = max(16, PER_CORE * (os.cpu_count() or 1)), str(settings.get("devices"))
    if given.isdecimal() and int(given) > most_devices:  # on a CPU each is a process, and Lightning starts them all
        raise ConfigError(
            f"trainer.devices must be at most {most_devices} on this machine; got {given}. Give as many as there are GPUs, or a few processes."
        )
    for what in ("epochs", "steps"):
        least, most = settings.get(f"min_{what}") or 0, settings.get(f"max_{what}")
        if most is not None and 0 <= most < least:
            raise ConfigError(
                f"trainer.min_{what} must be at most trainer.max_{what}; got {least} and {most}. Change one of the two."
            )


def require_end(settings: Any, *, single_pass: bool) -> None:
    """Refuse a fit that nothing ends: Lightning would train 1,000 epochs.

    Args:
        settings: Options of ``Trainer`` by name, as parsed.
        single_pass: Whether the method ends by itself.

    Raises:
        ConfigError: neither epochs nor steps nor time end it.
    """
    ends = (settings.get("max_epochs"), settings.get("max_time"), settings.get("fast_dev_run") or None)
    if not single_pass and all(end is None for end in ends) and settings.get("max_steps") in (None, -1):
        raise ConfigError(
            "fit needs to know when to end; got neither trainer.max_epochs nor max_steps nor max_time. Give --trainer.max_epochs N "
            "(-1 trains until it is stopped); anomaly-suite list configs METHOD shows configurations with the published number."
        )


def require_checkpoint(settings: Any, *, who: str) -> None:
    """Refuse a fit that leaves nothing for what follows.

    Args:
        settings: Options of ``Trainer`` by name, as parsed.
        who: Must leave it.

    Raises:
        ConfigError: with the option.
    """
    for name, wrong in {
        "fast_dev_run": bool(settings.get("fast_dev_run")),
        "enable_checkpointing": settings.get("enable_checkpointing") is False,
    }.items():
        if wrong:
            raise ConfigError(
                f"{who} must leave a checkpoint; got trainer.{name}={settings[name]}, which leaves none. Leave it out."
            )


def require_mapping(name: str, settings: Any) -> None:
    """Refuse a group of options that is something else than a mapping, which the parser lets through.

    Args:
        name: Of the group.
        settings: What was parsed.

    Raises:
        ConfigError: no mapping.
    """
    if not isinstance(settings, Namespace | dict):
        raise ConfigError(
            f"{name} must be a mapping of options to values; got {settings!r}. Write for example {name}: {{}}."
        )
