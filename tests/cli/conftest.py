"""One run through all verbs, made once for the tests that look at what it left."""

from __future__ import annotations

import sys

import pytest
from cli_parts import TINY, Flow, succeed

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
