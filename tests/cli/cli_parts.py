"""A command line run in this process, and what its tests share."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from anomaly_suite.cli import main
from anomaly_suite.contract import Calibration

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
MODEL = ["--model", "ADACL", "--model.widths", "[4, 8, 8, 8]", "--model.hidden", "8"]
DIGITS = ["--data", "Digits", "--data.normal_class", "3", "--data.image_size", "16", "--data.eval_batch_size", "512"]
AUGMENTED = ["--data.validation", "augmented"]
TINY = [*MODEL, *DIGITS, *AUGMENTED, "--data.train_batch_size", "64", "--trainer.max_epochs", "2", *QUIET]
FAST = [*TINY, "--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.default_root_dir", "runs/fast"]
OWN = ["--model", "my_method.MeanImage", "--data", "Digits", "--data.normal_class", "3", "--data.image_size", "16"]


@dataclass
class Done:
    code: int
    out: str
    err: str


def command(*words: str) -> Done:
    """Run ``anomaly-suite WORDS`` as a process would, but in this one."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["/somewhere/bin/anomaly-suite", *words])
        patch.setattr(sys, "path", list(sys.path))  # main adds the current folder
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code  # type: ignore[assignment]  # always a number here
    return Done(code, out.getvalue(), err.getvalue())


def succeed(*words: str) -> Done:
    done = command(*words)
    assert done.code == 0, done.err
    return done


def load(checkpoint):
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def weights(checkpoint):
    return {name: value for name, value in load(checkpoint)["state_dict"].items() if name != "calibration._extra_state"}


def thresholds(checkpoint):
    calibration = Calibration()
    calibration.set_extra_state(load(checkpoint)["state_dict"]["calibration._extra_state"])
    return calibration.record


def table(file):
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


@dataclass
class Flow:
    root: Path
    folder: Path
    said: dict[str, Done]
    model_before_calibrate: bytes


def one_sentence(done, kind):
    """The only line on standard error that the package writes, without its prefix."""
    lines = [line for line in done.err.splitlines() if line.startswith("anomaly-suite: ")]
    assert len(lines) == 1
    assert done.err.endswith(f"{lines[0]}\n")
    assert "Traceback" not in done.err
    prefix = f"anomaly-suite: {kind.__name__}: "
    assert lines[0].startswith(prefix)
    return lines[0].removeprefix(prefix)


def matches(pattern, sentence):
    """Whether the pieces between ``.*`` occur in this order."""
    position = 0
    for piece in pattern.split(".*"):
        position = sentence.find(piece.strip(), position)
        if position < 0:
            return False
    return True
