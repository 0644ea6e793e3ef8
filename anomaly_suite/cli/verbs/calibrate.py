"""``calibrate``: thresholds of a checkpoint by another rule, from a validation pass; a copy of the checkpoint holds them."""

from __future__ import annotations

import itertools
from pathlib import Path

from lightning.pytorch.cli import LightningCLI

from anomaly_suite.callbacks.calibrate import Calibrate
from anomaly_suite.callbacks.thresholds import sentence
from anomaly_suite.cli.lightning import run_lightning
from anomaly_suite.cli.verbs.run import expand_run
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.contract.checkpoint_file import read_checkpoint, save_checkpoint
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.atomic import try_file


def calibrate(words: list[str]) -> None:
    """Run the verb ``calibrate``.

    Args:
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, or no checkpoint, in one sentence.
        FileWriteError: the copy cannot be written; where that shows after the pass alone, the thresholds are printed.
    """
    words = expand_run(words)
    for word, following in itertools.pairwise(["", *words, ""]):
        source = Path(word.partition("=")[2] or following)
        if word.split("=")[0] == "--ckpt_path" and source.name:
            try_file(_target(source))
    _save(run_lightning("validate", words))


def _require_method(model: object) -> None:
    """Refuse a module whose checkpoint holds no thresholds.

    Raises:
        ConfigError: it is no method of this package or derived from one.
    """
    if not isinstance(model, AnomalyModule):
        raise ConfigError(
            f"calibrate writes thresholds into the checkpoint of an AnomalyModule; {type(model).__name__} has none there. Read those that validate "
            "prints, or derive the class from AnomalyModule."
        )


def _target(source: Path) -> Path:
    return source.with_name(f"{source.stem}-calibrated.ckpt")


def _save(cli: LightningCLI) -> None:
    """Write a copy of the checkpoint with the new thresholds beside it."""
    _require_method(cli.model)
    if "calibrate" in cli.config["validate"].disable:
        raise ConfigError(
            "calibrate needs the callback of its name; got it among those to disable. Take it out of disable."
        )
    if cli.config["validate"].ckpt_path is None:
        raise ConfigError("calibrate has no checkpoint to copy. Give --run RUN or --ckpt_path FILE.")
    callbacks = [each for each in cli.trainer.callbacks if isinstance(each, Calibrate)]  # type: ignore[attr-defined]
    if not any(each.is_fitted for each in callbacks):
        raise ConfigError(
            "calibrate needs a validation that gives a threshold; got none, and no checkpoint is written. Validate on labelled samples "
            "(--data.validation holdout), and do not disable calibrate."
        )
    source = Path(cli.config["validate"].ckpt_path)
    checkpoint = read_checkpoint(source)
    checkpoint["state_dict"]["calibration._extra_state"] = cli.model.calibration.get_extra_state()
    for level, entry in cli.model.calibration.record.items():  # before the file, which a full disk may refuse
        print(sentence(level, entry))
    save_checkpoint(_target(source), checkpoint)
    print(f"calibrated checkpoint: {_target(source)}")
