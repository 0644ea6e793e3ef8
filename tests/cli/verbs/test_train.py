"""train is fit, test and report in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import FAST, TINY, command, one_sentence, succeed

from anomaly_suite.errors import ConfigError
from anomaly_suite.io.runs import find_run

pytestmark = pytest.mark.xdist_group("flow")


def test_one_command_leaves_what_three_do(flow, cwd):
    said = succeed("train", *TINY, "--trainer.default_root_dir", "runs/all").out
    run = find_run("runs/all")
    mine, theirs = (json.loads((folder / "metrics.json").read_text())["metrics"] for folder in (run, flow.folder))
    assert mine == pytest.approx(theirs)
    assert (run / "test_scores.csv").is_file()
    assert "ADACL on Digits" in said  # the report
    assert str(run) in said.replace("\n", "")


@pytest.mark.parametrize("words", [["--trainer.fast_dev_run", "true"], ["--trainer.enable_checkpointing", "false"]])
def test_what_leaves_nothing_to_test_is_refused_before_the_fit(words, cwd):
    said = one_sentence(command("train", *FAST, *words), ConfigError)
    assert said.startswith(f"train must leave a checkpoint; got {words[0].removeprefix('--')}=")
    assert not Path("runs/fast/config.yaml").exists()
