"""``calibrate``: thresholds of a checkpoint by another rule, from a validation pass; a copy of the checkpoint holds them."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.cli import LightningCLI

from anomaly_suite.cli.lightning import run_lightning
from anomaly_suite.cli.verbs.run import expand_run
from anomaly_suite.contract.checkpoint_file import read_checkpoint, save_checkpoint
from anomaly_suite.errors import ConfigError


def calibrate(words: list[str]) -> None:
    """Run the verb ``calibrate``.

    Args:
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, or no checkpoint, in one sentence.
    """
    _save(run_lightning("validate", expand_run(words)))


def _save(cli: LightningCLI) -> None:
    """Write a copy of the checkpoint with the new thresholds beside it."""
    if "calibrate" in cli.config["validate"].disable:
        raise ConfigError(
            "calibrate needs the callback of its name; got it among those to disable. Take it out of disable."
        )
    if cli.config["validate"].ckpt_path is None:
        raise ConfigError("calibrate has no checkpoint to copy. Give --run RUN or --ckpt_path FILE.")
    source = Path(cli.config["validate"].ckpt_path)
    checkpoint = read_checkpoint(source)
    checkpoint["state_dict"]["calibration._extra_state"] = cli.model.calibration.get_extra_state()
    target = source.with_name(f"{source.stem}-calibrated.ckpt")
    save_checkpoint(target, checkpoint)
    print(f"calibrated checkpoint: {target}")
