"""export: a run as one file, and that file in a process without torch."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_parts import command, one_sentence, succeed, table
from test_readme import block

import anomaly_suite
from anomaly_suite.deploy.onnx_predictor import OnnxPredictor
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetNotFoundError

pytestmark = pytest.mark.xdist_group("predict")


BLOCKED = "import sys; sys.modules['torch'] = None; "  # whoever imports it fails


def test_the_lines_of_the_readme_from_a_run_to_a_file_without_torch(dae_run, monkeypatch, tmp_path):
    """Predict on a new folder, export, and the file under onnxruntime; a tiny run stands for that of ``make quickstart``."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(dae_run / "runs", tmp_path / "runs" / "quickstart")
    (tmp_path / "NEW_FOLDER").mkdir()
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        cv2.imwrite(f"NEW_FOLDER/{number}.png", picture)
    lines = [shlex.split(line, comments=True) for line in block("New pictures", "").splitlines()]
    assert len(lines) <= 6
    made, predict, export, install, python = lines
    assert made == ["make", "quickstart"]
    assert install[:2] == ["pip", "install"]
    assert "3 scored in" in succeed(*predict[1:]).out
    assert "DAE written to digits.onnx (0." in succeed(*export[1:], "--license", "CC0").out
    words = [sys.executable, "-c", BLOCKED + python[2]]
    path = str(Path(anomaly_suite.__file__).parents[1])
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONPATH": path, "PATH": ""})
    rows = table(Path("runs/quickstart/predictions/NEW_FOLDER/predictions.csv"))
    assert done.stdout.count("Predicted(name=") == len(rows) == 3
    found = OnnxPredictor("digits.onnx")("NEW_FOLDER")
    assert [each.anomaly_score for each in found] == [
        float(text) for text in re.findall(r"anomaly_score=([\d.e-]+)", done.stdout)
    ]
    for each, row in zip(found, rows, strict=True):
        assert each.anomaly_score == pytest.approx(float(row["anomaly_score"]), rel=1e-3)
        assert each.normalized_score == pytest.approx(float(row["normalized_score"]), abs=1e-3)
        assert (each.is_anomalous, each.anomaly_map.shape) == (row["decision"] == "anomalous", (16, 16))


def test_other_formats_and_places(dae_run, monkeypatch, tmp_path):
    monkeypatch.chdir(dae_run)
    checkpoint = dae_run / "runs" / "checkpoints" / "model.ckpt"
    options = ["--format", "torchscript", "--output", str(tmp_path / "new" / "net")]
    succeed("export", "--run", "runs", "--ckpt_path", str(checkpoint), *options)
    assert (tmp_path / "new" / "net.pt").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        ([], ConfigError, "run"),
        (["--run", "gone"], DatasetNotFoundError, "no run (a folder with config.yaml) in 'gone'"),
        (["--run", "runs", "--format", "onx"], ConfigError, "onnx"),
        (["--run", "runs", "--ckpt_path", "gone.ckpt"], CheckpointError, "gone.ckpt"),
        (["--run", "runs", "--formt", "onnx"], ConfigError, "formt"),
    ],
)
def test_what_cannot_be_exported(dae_run, monkeypatch, words, kind, says):
    monkeypatch.chdir(dae_run)
    assert says in one_sentence(command("export", *words), kind)
