"""``calibrate``: thresholds of a run by another rule, from a validation pass; a copy of its checkpoint holds them, and the run uses it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_suite.callbacks.calibrate import Calibrate
from anomaly_suite.callbacks.thresholds import sentence
from anomaly_suite.cli.lightning import SuiteCLI, run_lightning
from anomaly_suite.cli.verbs.run import expand_run, taken
from anomaly_suite.contract import AnomalyModule, Calibration
from anomaly_suite.contract.checkpoint_file import read_checkpoint, save_checkpoint
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.atomic import try_file
from anomaly_suite.io.runs import CALIBRATED, find_checkpoint, find_run, read_record, update_record

STATE = "calibration._extra_state"
UNDO = "--undo"


def calibrate(words: list[str]) -> None:
    """Run the verb ``calibrate``.

    ``--run RUN`` lets the next test, prediction or export of the run use the new thresholds; ``--run RUN --undo`` goes back to those of the fit.

    Args:
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, or no checkpoint, in one sentence.
        FileWriteError: the copy cannot be written; where that shows after the pass alone, the thresholds are printed.
    """
    value, _ = taken(words, "--run", needs="the folder of an earlier fit")
    run = None if value is None else find_run(value)
    if any(word.partition("=")[0] == UNDO for word in words):
        _undo(run, words)
        return
    words = expand_run(words, calibrated=False)
    for word, following in itertools.pairwise(["", *words, ""]):
        source = Path(word.partition("=")[2] or following)
        if word.split("=")[0] == "--ckpt_path" and source.name:
            try_file(_target(source))
    done = run_lightning("validate", words)
    if done.trainer.is_global_zero:
        _save(done, run)


def _undo(run: Path | None, words: list[str]) -> None:
    """Let a run use the thresholds of its fit again.

    Raises:
        ConfigError: no run, or other options beside it.
    """
    others = [word for word in words if word.startswith("-") and word.partition("=")[0] not in ("--run", UNDO)]
    if run is None or others:
        raise ConfigError(
            f"{UNDO} goes with --run RUN alone; got {' '.join(others) or 'no run'}. Write anomaly-suite calibrate --run RUN {UNDO}."
        )
    if read_record(run).get("calibrated") is None:
        raise ConfigError(
            f"{UNDO} needs a run that was calibrated; '{run}' uses the thresholds of its fit. Leave it out."
        )
    former, kept = find_checkpoint(run), find_checkpoint(run, calibrated=False)
    update_record(run, calibrated=None)
    _print_change(_record_of(former), _record_of(kept))
    print(f"'{run}' uses the thresholds of its fit again; the others are kept in {former}")


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
    return source.with_name(f"{source.stem}{CALIBRATED}.ckpt")


def _save(cli: SuiteCLI, run: Path | None) -> None:
    """Write a copy of the checkpoint with the new thresholds beside it, and let the run use it."""
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
    of_run = run is not None and source.resolve() == find_checkpoint(run, calibrated=False).resolve()
    former = _record_of(find_checkpoint(run) if of_run and run is not None else source)
    checkpoint["state_dict"][STATE] = cli.model.calibration.get_extra_state()
    record = cli.model.calibration.record
    _print_change(former, record)  # before the file, which a full disk may refuse
    for level, entry in record.items():
        print(sentence(level, entry))
    save_checkpoint(_target(source), checkpoint)
    print(f"calibrated checkpoint: {_target(source)}")
    if of_run and run is not None:
        update_record(run, calibrated=_target(source).relative_to(run).as_posix())
        print(
            f"test, predict and export --run {run} use it from now on; anomaly-suite calibrate --run {run} {UNDO} goes back"
        )
    else:
        print(f"use it with --ckpt_path {_target(source)}")


def _record_of(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Thresholds in a checkpoint; none where it has none."""
    calibration, state = Calibration(), read_checkpoint(checkpoint)["state_dict"].get(STATE)
    if state is not None:
        calibration.set_extra_state(state)
    return calibration.record


def _print_change(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> None:
    """One line for each level: the threshold before and now."""
    for level in dict.fromkeys((*old, *new)):
        before, after = (
            f"{record[level]['threshold']:.6g} (by {record[level].get('rule', 'an unknown rule')})"
            if level in record
            else "none"
            for record in (old, new)
        )
        print(f"{level} threshold: old {before}, new {after}")
