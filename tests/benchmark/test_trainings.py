"""Runs of a script: built as the command line builds them, written once, and not repeated."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import anomaly_suite.data
import anomaly_suite.methods  # noqa: F401 - short names
from anomaly_suite.benchmark.trainings import (
    Run,
    add_common_options,
    build,
    find,
    prepare,
    quiet_trainer,
    read_results,
    read_setting,
    run_all,
)
from anomaly_suite.errors import ConfigError

CONFIG: dict[str, Any] = {
    "model": {
        "class_path": "IGD",
        "init_args": {"encoder_weights": "kept/first-{seed}.ckpt", "width": 2, "image_size": 32},
    },
    "data": {"class_path": "Digits"},
    "trainer": {"default_root_dir": "runs/tiny", "max_epochs": 3},
}


def test_a_run_is_built_with_its_seed_and_options() -> None:
    setting = read_setting("tiny", CONFIG)
    model, data = build(Run(setting, 7, {"normal_class": 4}))
    assert model.hparams["encoder_weights"] == "kept/first-7.ckpt"
    assert (data.seed, data.normal_class) == (7, 4)  # type: ignore[attr-defined]  # that of Digits
    trainer = quiet_trainer(Run(setting, 7, {}), accelerator="cpu", max_epochs=2)
    assert (trainer.max_epochs, trainer.loggers) == (2, [])
    with pytest.raises(ConfigError, match="tiny: model and data must take the options given"):
        build(Run(setting, 7, {"normal_clas": 4}))


def test_runs_are_done_once(tmp_path: Path) -> None:
    setting = read_setting("tiny", CONFIG)
    assert read_setting("tiny", CONFIG, more=1).digest != setting.digest == read_setting("other", CONFIG).digest
    runs = [Run(setting, seed, {"normal_class": 0}) for seed in (0, 1)]
    results, done = tmp_path / "new" / "results.jsonl", []

    def work(run: Run) -> dict[str, Any]:
        done.append(run.seed)
        return {"value": run.seed}

    run_all(runs[:1], results, work)
    records = run_all(runs, results, work)
    assert done == [0, 1]
    assert [json.loads(line)["value"] for line in results.read_text(encoding="utf-8").splitlines()] == [0, 1]
    assert (find(records, runs[1]) or {})["value"] == 1
    assert find(records, Run(setting, 2, {})) is None
    with results.open("a", encoding="utf-8") as file:
        file.write('{"conf')
    with pytest.raises(ConfigError, match="line 3 is not JSON"):
        read_results(results)


def test_options_of_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_common_options(parser)
    options = parser.parse_args([str(tmp_path / "none.yaml"), "--results", "a.jsonl"])
    with pytest.raises(SystemExit):
        prepare(options, parser)
    assert "there is no" in capsys.readouterr().err
