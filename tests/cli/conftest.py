"""One run through all verbs, made once for the tests that look at what it left."""

from __future__ import annotations

import sys

import pytest
from cli_parts import AUGMENTED, DIGITS, QUIET, TINY, Flow, succeed

from anomaly_suite.io.runs import find_run


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my_method", "my_data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def flow(tmp_path_factory):
    """fit, test, predict, calibrate and report, once."""
    root = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        said = {"fit": succeed("fit", *TINY, "--trainer.default_root_dir", "runs/tiny")}
        said["test"] = succeed("test", "--run", "runs/tiny")
        said["predict"] = succeed("predict", "--run", "runs/tiny")
        folder = root / find_run("runs/tiny")
        before = (folder / "checkpoints" / "model.ckpt").read_bytes()
        rule = ["--calibrate.rule", "quantile", "--calibrate.quantile", "0.75"]
        said["calibrate"] = succeed("calibrate", "--run", "runs/tiny", *rule)
        said["report"] = succeed("report", "runs/tiny")
    return Flow(root, folder, said, before)


@pytest.fixture(scope="session")
def dae_run(tmp_path_factory):
    """A folder with a run of a method that gives maps, in ``runs``."""
    root = tmp_path_factory.mktemp("dae")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        model = ["--model", "DAE", "--model.image_size", "16", "--model.in_channels", "1", "--model.widths", "[4, 8]"]
        options = ["--model.latent_dim", "4", *DIGITS, *AUGMENTED, *QUIET, "--trainer.max_epochs", "1"]
        succeed("fit", *model, *options, "--trainer.logger", "false", "--trainer.default_root_dir", "runs")
    return root
