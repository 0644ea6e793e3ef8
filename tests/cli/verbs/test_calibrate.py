"""The second checkpoint that calibrate writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_parts import command, one_sentence, succeed, thresholds, weights

from anomaly_suite import data, methods
from anomaly_suite.cli.verbs.calibrate import calibrate
from anomaly_suite.cli.verbs.run import of_run
from anomaly_suite.deploy.predictor import Predictor
from anomaly_suite.errors import ConfigError, FileWriteError
from anomaly_suite.io.runs import find_checkpoint

pytestmark = pytest.mark.xdist_group("flow")


def test_calibrate_writes_a_second_checkpoint(flow):
    old, new = (flow.folder / "checkpoints" / name for name in ("model.ckpt", "model-calibrated.ckpt"))
    assert old.read_bytes() == flow.model_before_calibrate
    assert str(new.relative_to(flow.root)) in flow.said["calibrate"].out
    before, after = weights(old), weights(new)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    record = thresholds(new)["image"]
    assert (record["rule"], record["quantile"], record["split"]) == ("quantile", 0.75, "augmented")
    assert record["threshold"] != thresholds(old)["image"]["threshold"]
    said = "by quantile from 12 normal and 12 anomalous images (validation: augmented); expect 23.1 % of normal images"  # 3 / 13
    assert said in flow.said["calibrate"].out
    digits = data.Digits(normal_class=3, image_size=16, validation="augmented", eval_batch_size=512)
    (batch,) = digits.val_dataloader()
    model = methods.ADACL.load_from_checkpoint(old, weights_only=True).eval()
    with torch.no_grad():
        normal = model(batch["image"][batch["label"] == 0])[0]
    assert record["normal"] == len(normal) == 12
    assert int((normal >= record["threshold"] - 1e-6).sum()) == 3  # a quarter of twelve
    assert not list(new.parent.glob("*.tmp"))


def test_the_calibrated_checkpoint_can_be_tested(flow, monkeypatch):
    monkeypatch.chdir(flow.root)
    new = flow.folder / "checkpoints" / "model-calibrated.ckpt"
    options = [
        "--ckpt_path",
        str(new),
        "--trainer.default_root_dir",
        "runs/again",
        "--disable",
        "[plots, heatmaps, table]",
    ]
    succeed("test", "--run", "runs/tiny", *options)
    assert {file.name for file in Path("runs/again").rglob("*") if file.is_file()} == {"metrics.json", "splits.csv"}
    first, again = (json.loads((folder / "metrics.json").read_text()) for folder in (flow.folder, Path("runs/again")))
    assert again["calibration"] == thresholds(new)
    assert again["metrics"]["image_AUROC"] == first["metrics"]["image_AUROC"]
    assert again["metrics"]["image_Accuracy"] != first["metrics"]["image_Accuracy"]


def test_a_place_that_cannot_be_written_to_is_known_before_the_pass(tmp_path):
    (tmp_path / "model-calibrated.ckpt").mkdir()
    for words in (["--ckpt_path", f"{tmp_path}/model.ckpt"], [f"--ckpt_path={tmp_path}/model.ckpt"]):
        with pytest.raises(FileWriteError, match=r"model-calibrated\.ckpt', which is a folder"):
            calibrate(words)


def test_calibrate_writes_nothing_where_nothing_was_calibrated(flow, monkeypatch):
    monkeypatch.chdir(flow.root)
    new = flow.folder / "checkpoints" / "model-calibrated.ckpt"
    before = new.read_bytes()
    done = command("calibrate", "--run", "runs/tiny", "--disable", "[calibrate]")
    said = one_sentence(done, ConfigError)
    assert said.startswith("calibrate needs the callback of its name; got it among those to disable.")
    assert new.read_bytes() == before


def test_old_and_new_threshold_are_printed_and_the_run_uses_the_new_one(flow):
    old, new = (
        thresholds(flow.folder / "checkpoints" / name)["image"] for name in ("model.ckpt", "model-calibrated.ckpt")
    )
    change = f"old {old['threshold']:.6g} (by max_f1), new {new['threshold']:.6g} (by quantile)"
    assert f"image threshold: {change}\n" in flow.said["calibrate"].out
    words = of_run(flow.folder, [])
    assert words[words.index("--ckpt_path") + 1] == str(flow.folder / "checkpoints" / "model-calibrated.ckpt")
    assert Predictor.from_run(flow.folder).model.calibration.record["image"] == new


def test_the_way_back(flow, monkeypatch):
    monkeypatch.chdir(flow.root)
    record = (flow.folder / "run.json").read_bytes()
    said = succeed("calibrate", "--run", "runs/tiny", "--undo").out
    old, new = (
        thresholds(flow.folder / "checkpoints" / name)["image"] for name in ("model-calibrated.ckpt", "model.ckpt")
    )
    assert (
        f"image threshold: old {old['threshold']:.6g} (by quantile), new {new['threshold']:.6g} (by max_f1)\n" in said
    )
    assert find_checkpoint(flow.folder).name == "model.ckpt"
    done = command("calibrate", "--run", "runs/tiny", "--undo")
    assert "needs a run that was calibrated" in one_sentence(done, ConfigError)
    done = command("calibrate", "--undo")
    assert one_sentence(done, ConfigError).startswith("--undo goes with --run RUN alone; got no run.")
    (flow.folder / "run.json").write_bytes(record)
