"""export: a run as one file, and that file in a process without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_parts import command, one_sentence, succeed

import anomaly_suite
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetNotFoundError

pytestmark = pytest.mark.xdist_group("predict")


WITHOUT_TORCH = """
import json, sys, time
sys.modules["torch"] = None  # whoever imports it fails
began = time.perf_counter()
from anomaly_suite.deploy.onnx_predictor import OnnxPredictor
found = OnnxPredictor(sys.argv[1])(sys.argv[2])
print(json.dumps([[each.anomaly_score, each.normalized_score, each.is_anomalous, list(each.anomaly_map.shape)] for each in found]))
"""


def test_a_run_becomes_a_file_that_needs_no_torch(dae_run, monkeypatch, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(dae_run)
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    said = succeed("export", "--run", "runs", "--license", "CC0")
    assert "DAE written to runs/model.onnx (0." in said.out
    words = [sys.executable, "-c", WITHOUT_TORCH, "runs/model.onnx", str(tmp_path)]
    path = str(Path(anomaly_suite.__file__).parents[1])
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONPATH": path, "PATH": ""})
    found = json.loads(done.stdout)
    for (score, normalized, decided, shape), wanted in zip(
        found, anomaly_suite.Predictor.from_run("runs", device="cpu")(tmp_path), strict=True
    ):
        assert score == pytest.approx(wanted.anomaly_score, rel=1e-3)
        assert normalized == pytest.approx(wanted.normalized_score, abs=1e-3)
        assert (decided, shape) == (wanted.is_anomalous, [16, 16])


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
