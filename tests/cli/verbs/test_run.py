"""fit, test and predict: what they leave in the run folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli_parts import FAST, MODEL, OWN, QUIET, command, load, one_sentence, succeed, table, thresholds, weights
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from test_readme import block

import anomaly_suite
from anomaly_suite import data
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetNotFoundError
from anomaly_suite.io.runs import find_run

pytestmark = pytest.mark.xdist_group("flow")


def test_the_run_folder_holds_everything(flow):
    files = {str(file.relative_to(flow.folder)) for file in flow.folder.rglob("*") if file.is_file()}
    stages = ("test", "predict")
    plots = {f"plots/{stage}_{plot}.png" for stage in stages for plot in ("histogram", "roc", "pr")}
    expected = {"config.yaml", "metrics.json", "test_scores.csv", "predict_scores.csv", *plots}
    expected |= {"checkpoints/model.ckpt", "checkpoints/model-calibrated.ckpt"}
    assert expected <= files
    others = {name for name in files - expected if not name.startswith("events.out")}
    assert others == {"hparams.yaml"}
    assert [path.name for path in flow.root.iterdir()] == ["runs"]


def test_metrics_are_those_of_the_score_table(flow):
    result = json.loads((flow.folder / "metrics.json").read_text(encoding="utf-8"))
    rows = table(flow.folder / "test_scores.csv")
    label = np.array([int(row["label"]) for row in rows])
    score = np.array([float(row["anomaly_score"]) for row in rows])
    decided = np.array([row["decision"] == "anomalous" for row in rows])
    precision, recall, _ = precision_recall_curve(label, score)
    values = result["metrics"]
    assert values["image_AUROC"] == pytest.approx(roc_auc_score(label, score), abs=1e-9)
    assert values["image_AP"] == pytest.approx(average_precision_score(label, score), abs=1e-9)
    assert values["image_F1Max"] == pytest.approx((2 * precision * recall / (precision + recall)).max(), abs=1e-9)
    assert values["image_Accuracy"] == pytest.approx((decided == label).mean(), abs=1e-9)
    assert values["image_Sensitivity"] == pytest.approx(decided[label == 1].mean(), abs=1e-9)
    assert values["image_Specificity"] == pytest.approx(1 - decided[label == 0].mean(), abs=1e-9)
    assert len(values) == 6
    assert result["undefined"] == {}
    assert result["data"] == {"normal": int((label == 0).sum()), "anomalous": int((label == 1).sum())}
    assert result["data"] == {"normal": 61, "anomalous": 1614}
    assert np.array_equal(decided, score >= result["calibration"]["image"]["threshold"])


def test_metrics_say_where_they_come_from(flow):
    result = json.loads((flow.folder / "metrics.json").read_text(encoding="utf-8"))
    assert result["command"] == "anomaly-suite test --run runs/tiny"
    assert (result["method"], result["dataset"], result["seed"]) == ("ADACL", "Digits", 0)
    assert result["validation"] == result["calibration"]["image"]["split"] == "augmented"
    assert result["calibration"] == thresholds(flow.folder / "checkpoints" / "model.ckpt")
    assert result["calibration"]["image"]["rule"] == "max_f1"
    assert Path(result["checkpoint"]).parts[-2:] == ("checkpoints", "model.ckpt")
    assert result["versions"]["anomaly-suite"] == anomaly_suite.__version__
    assert {name.removeprefix("image_") for name in result["metrics"]} == set(result["definitions"])
    assert result["definitions"]["Sensitivity"] == "Share of the anomalous samples that are found: TP / (TP + FN)."


def test_predict_gives_the_scores_of_test(flow):
    tested, predicted = (table(flow.folder / f"{stage}_scores.csv") for stage in ("test", "predict"))
    assert [row["anomaly_score"] for row in tested] == [row["anomaly_score"] for row in predicted]
    assert len(tested) == 1675


def test_validate_changes_no_file(flow, monkeypatch):
    monkeypatch.chdir(flow.root)
    before = {file: file.stat().st_mtime_ns for file in flow.folder.rglob("*")}
    said = succeed("validate", "--run", "runs/tiny").out
    assert {"val/image_AUROC", "val/normal_score"} <= set(re.findall(r"val/\w+", said))
    assert {file: file.stat().st_mtime_ns for file in flow.folder.rglob("*")} == before


def test_the_method_of_the_readme_from_a_file_in_the_current_folder(cwd):
    (cwd / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    options = ["--data.eval_batch_size", "512", "--trainer.logger", "false", "--heatmaps.max_images", "3", *QUIET]
    done = succeed("fit", *OWN, "--trainer.max_epochs", "3", *options)
    assert "my_method.MeanImage is fitted in one pass: max_epochs is 1, not 3.\n" in done.out
    config = yaml.safe_load(Path("runs/config.yaml").read_text(encoding="utf-8"))
    assert config["trainer"]["max_epochs"] == 1
    assert load("runs/checkpoints/model.ckpt")["epoch"] == 0
    mean = weights("runs/checkpoints/model.ckpt")["mean"]
    train = data.Digits(normal_class=3, image_size=16).train_dataloader()
    assert torch.allclose(mean, torch.cat([batch["image"] for batch in train]).mean(0), atol=1e-6)
    succeed("test", "--run", "runs", "--disable", "[plots]")
    assert len(list(Path("runs/heatmaps").rglob("*.png"))) == 3
    result = json.loads(Path("runs/metrics.json").read_text(encoding="utf-8"))
    assert (result["method"], result["validation"]) == ("MeanImage", "holdout")
    assert result["metrics"]["image_AUROC"] > 0.9
    assert {level: record["rule"] for level, record in result["calibration"].items()} == {
        "image": "quantile",
        "pixel": "quantile",
    }
    assert not Path("runs/plots").exists()


def test_a_segmenter_is_trained_tuned_and_tested(cwd):
    network = ["--model.backbone", "resnet10t", "--model.num_classes", "7", "--model.width", "8", *QUIET]
    sizes = {"image_size": "[32, 64]", "train_size": "12", "val_size": "2", "test_size": "4", "train_batch_size": "4"}
    data = [
        "--data",
        "SyntheticStreets",
        *(word for name, value in sizes.items() for word in (f"--data.{name}", value)),
    ]
    plain = ["--model", "DeepLabV3Plus", "--model.backbone_weights", "null", *network, *data]
    steps = ["--trainer.max_epochs", "-1", "--trainer.max_steps", "7", "--trainer.check_val_every_n_epoch", "2"]
    succeed("fit", *plain, *steps, "--trainer.default_root_dir", "runs/segmenter")
    (file,) = Path("runs/segmenter").rglob("model.ckpt")
    assert load(file)["global_step"] == 7  # validated after 6
    tuned = ["--model", "PEBAL", "--model.segmenter_weights", "runs/segmenter", "--model.margin_in", "null"]
    tuned += [
        "--model.margin_out",
        "null",
        *network,
        *data,
        "--data.outlier_fraction",
        "0.5",
        "--trainer.max_epochs",
        "1",
    ]
    succeed("fit", *tuned, "--trainer.default_root_dir", "runs/pebal")
    folder = find_run("runs/pebal")
    succeed("test", "--run", "runs/pebal", "--components.threshold", "best", "--components.min_object", "1")
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert {"pixel_AUROC", "pixel_AP", "pixel_FPR95"} <= found["metrics"].keys()
    assert {"mIoU", "ECE", "MCE"} <= found["segmentation"]["metrics"].keys()
    assert {"SIoU", "MeanF1"} <= found["components"]["metrics"].keys()
    said = succeed("report", "runs/pebal").out
    assert re.search(r"^mIoU +0.", said, re.MULTILINE)
    assert re.search(r"^SIoU +0.", said, re.MULTILINE)


def test_an_installed_command_finds_classes_in_the_current_folder(cwd):
    (cwd / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    code = "from anomaly_suite.cli import main; main()"
    words = [sys.executable, "-I", "-c", code, "fit", *OWN, "--print_config"]  # -I: the folder is not on the path yet
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout)["model"]["class_path"] == "my_method.MeanImage"


def test_a_data_module_from_a_file_in_the_current_folder(cwd):
    (cwd / "my_data.py").write_text(
        "from anomaly_suite.data import Digits\n\n\n"
        "class Sevens(Digits):\n"
        "    def __init__(self, *, side: int = 16) -> None:\n"
        "        super().__init__(image_size=side, normal_class=7, eval_batch_size=512)\n"
    )
    succeed("fit", *MODEL, "--data", "my_data.Sevens", "--trainer.fast_dev_run", "true", *QUIET)
    succeed("test", *MODEL, "--data", "my_data.Sevens", "--data.side", "8", "--trainer.logger", "false", *QUIET)
    result = json.loads(Path("runs/metrics.json").read_text(encoding="utf-8"))
    assert (result["dataset"], result["data"]["normal"]) == ("Sevens", 60)


def test_the_newest_version_is_the_run(tmp_path):
    for version in ("version_2", "version_10", "version_9"):
        (tmp_path / "lightning_logs" / version).mkdir(parents=True)
        (tmp_path / "lightning_logs" / version / "config.yaml").write_text("")
    for age, version in enumerate(("version_10", "version_9", "version_2")):
        os.utime(tmp_path / "lightning_logs" / version / "config.yaml", (1e9 - age, 1e9 - age))
    assert find_run(str(tmp_path)).name == "version_10"
    assert find_run(str(tmp_path / "lightning_logs" / "version_9")).name == "version_9"


def test_gpus_that_are_not_there_end_in_one_sentence(cwd):
    missing = torch.cuda.device_count() + 1
    done = command("fit", *FAST, "--trainer.accelerator", "gpu", "--trainer.devices", str(max(2, missing)))
    assert done.code == 2
    assert "trainer.devices" in one_sentence(done, ConfigError)


def test_runs_that_are_not_there_end_in_one_sentence(cwd):
    Path("empty").mkdir()
    for words in (["test", "--run", "empty"], ["predict", "--run=nowhere"], ["report", "empty"]):
        done = command(*words)
        assert done.code == 1
        assert "Give the folder that fit wrote." in one_sentence(done, DatasetNotFoundError)
    Path("empty/config.yaml").write_text("trainer: {}\n")
    done = command("test", "--run", "empty")
    assert done.code == 1
    assert one_sentence(done, CheckpointError).startswith("no checkpoint in empty.")
    done = command("report", "empty")
    assert done.code == 1
    assert "Run: anomaly-suite test --run empty" in one_sentence(done, DatasetNotFoundError)


def test_checkpoints_that_are_not_there_end_in_one_sentence(cwd):
    done = command("test", *FAST, "--ckpt_path", "nowhere.ckpt")
    assert done.code == 1
    assert (
        one_sentence(done, CheckpointError)
        == "Checkpoint file not found: nowhere.ckpt. Give a file that exists with --ckpt_path."
    )
    done = command("calibrate", *FAST)
    assert done.code == 2
    assert "Give --run RUN or --ckpt_path FILE" in one_sentence(done, ConfigError)


def test_the_checkpoint_of_another_class_is_refused(flow, cwd):
    (cwd / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    checkpoint = load(flow.folder / "checkpoints" / "model.ckpt")
    checkpoint["hyper_parameters"] = {}  # otherwise they say which class to build
    torch.save(checkpoint, "model.ckpt")
    done = command("test", *OWN, "--trainer.logger", "false", "--ckpt_path", "model.ckpt", *QUIET)
    assert done.code == 1
    assert "MeanImage cannot load a checkpoint of ADACL" in one_sentence(done, CheckpointError)
