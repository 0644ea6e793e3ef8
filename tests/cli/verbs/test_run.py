"""fit, test and predict: what they leave in the run folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from cli_parts import DIGITS, FAST, MODEL, OWN, QUIET, command, load, one_sentence, succeed, table, thresholds, weights
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from test_readme import block
from unreadable import UNREADABLE, write_unreadable

import anomaly_suite
from anomaly_suite import data
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetNotFoundError, ImageReadError
from anomaly_suite.io.runs import find_run

pytestmark = pytest.mark.xdist_group("flow")


def test_the_run_folder_holds_everything(flow):
    files = {str(file.relative_to(flow.folder)) for file in flow.folder.rglob("*") if file.is_file()}
    stages = ("test", "predict")
    plots = {f"plots/{stage}_{plot}.png" for stage in stages for plot in ("histogram", "roc", "pr")}
    expected = {
        "config.yaml",
        "run.json",
        "metrics.json",
        "splits.csv",
        "test_scores.csv",
        "predict_scores.csv",
        *plots,
    }
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
    run = Path("runs/MeanImage/Digits/3/1")
    assert done.out.endswith(f"results: {run}\n")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (config["trainer"]["max_epochs"], config["trainer"]["default_root_dir"]) == (1, None)
    assert load(run / "checkpoints/model.ckpt")["epoch"] == 0
    mean = weights(run / "checkpoints/model.ckpt")["mean"]
    train = data.Digits(normal_class=3, image_size=16).train_dataloader()
    assert torch.allclose(mean, torch.cat([batch["image"] for batch in train]).mean(0), atol=1e-6)
    succeed("test", "--run", "runs", "--disable", "[plots]")
    assert len(list((run / "heatmaps").rglob("*.png"))) == 3
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert (result["method"], result["validation"]) == ("MeanImage", "holdout")
    assert result["metrics"]["image_AUROC"] > 0.9
    assert {level: record["rule"] for level, record in result["calibration"].items()} == {
        "image": "gumbel",
        "pixel": "quantile",
    }
    assert not (run / "plots").exists()


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
    once = succeed("test", *tuned, "--trainer.logger", "false", "--trainer.default_root_dir", "runs/once")
    assert "untrained" not in once.err
    plain_metrics = json.loads(Path("runs/once/metrics.json").read_text(encoding="utf-8"))["segmentation"]["metrics"]
    succeed("test", "--run", "runs/segmenter")
    wanted = json.loads((find_run("runs/segmenter") / "metrics.json").read_text(encoding="utf-8"))["segmentation"][
        "metrics"
    ]
    assert plain_metrics["mIoU"] == pytest.approx(wanted["mIoU"], abs=1e-6)  # of the same network
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
    succeed(
        "test",
        *MODEL,
        "--data",
        "my_data.Sevens",
        "--data.side",
        "8",
        "--trainer.logger",
        "false",
        "--untrained",
        "true",
        *QUIET,
    )
    result = json.loads(Path("runs/ADACL/Sevens/all/1/metrics.json").read_text(encoding="utf-8"))
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


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_an_untrained_network_is_scored_only_where_that_is_asked_for(verb, cwd):
    done = command(verb, *FAST)
    assert done.code == 2
    said = one_sentence(done, ConfigError)
    assert said.startswith(f"{verb} needs a trained model; got neither a run nor a checkpoint.")
    assert "--untrained true" in said
    assert not Path("runs").exists()
    assert (
        f"{verb} --untrained: the scores are those of an untrained network."
        in succeed(verb, *FAST, "--untrained", "true").err
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model.lr_max", ".nan"),
        ("--model.half_period", "-1"),
        ("--data.num_workers", "-1"),
        ("--data.seed", "-1"),
        ("--seed_everything", "-1"),
    ],
)
def test_impossible_values_end_in_one_sentence(option, value, cwd):
    done = command("fit", *FAST, option, value)
    assert done.code == 2
    said = one_sentence(done, ConfigError)
    assert said.startswith(f"{option.split('.')[-1].removeprefix('--')} must be ")
    assert f"; got {value.removeprefix('.')}" in said


def test_weights_that_a_checkpoint_was_not_made_with_are_refused(flow, cwd):
    network = [
        "--model",
        "KnowledgeDistillation",
        "--model.teacher",
        "resnet10t",
        "--model.teacher_size",
        "32",
        "--model.width",
        "4",
    ]
    plain = [
        "--model.teacher_weights",
        "null",
        *DIGITS,
        *QUIET,
        "--trainer.fast_dev_run",
        "true",
        "--trainer.logger",
        "false",
    ]
    checkpoint = load(flow.folder / "checkpoints" / "model.ckpt")
    checkpoint["hyper_parameters"] = {
        "_class_path": "anomaly_suite.methods.KnowledgeDistillation",
        "teacher_weights": None,
    }
    torch.save(checkpoint, "model.ckpt")
    words = [*network, *plain, "--ckpt_path", "model.ckpt"]
    done = command("test", *words, "--model.teacher_weights", "other.pth")
    assert done.code == 2
    said = one_sentence(done, ConfigError)
    assert said.startswith(
        "the checkpoint 'model.ckpt' holds its own weights, so --model.teacher_weights other.pth would not be read"
    )


@pytest.mark.parametrize("kind", [kind for kind in UNREADABLE if kind not in ("pipe", "absent")])
def test_an_unreadable_checkpoint_ends_in_one_sentence(kind, flow, cwd):
    file = write_unreadable(kind, cwd, whole=(flow.folder / "checkpoints" / "model.ckpt").read_bytes())
    verb = {"cut": "fit", "empty": "predict", "html": "calibrate", "noise": "validate"}.get(kind, "test")
    done = command(verb, *FAST, "--ckpt_path", "model.ckpt")
    assert done.code == 1
    assert one_sentence(done, CheckpointError).startswith(
        f"{file.name} must hold plain tensors, but it {UNREADABLE[kind]}"
    )
    assert not (cwd / "ran").exists()


def test_an_unreadable_checkpoint_of_a_run(flow, cwd):
    folder = cwd / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_bytes((flow.folder / "config.yaml").read_bytes())
    torch.save({"layer.weight": torch.ones(2)}, folder / "checkpoints" / "model.ckpt")
    for verb in ("validate", "test", "predict", "calibrate"):
        said = one_sentence(command(verb, "--run", "run"), CheckpointError)
        assert said.startswith(
            "run/checkpoints/model.ckpt must be a checkpoint of Lightning; it holds a bare state_dict"
        )


def test_an_error_in_a_loader_worker_is_the_same_sentence(cwd):
    Path("images/normal").mkdir(parents=True)
    Path("images/abnormal").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)
        cv2.imwrite(f"images/{'abnormal' if number < 3 else 'normal'}/{number}.png", pixels)
    words = [
        "--data",
        "Folder",
        "--data.root",
        "images",
        "--data.image_size",
        "16",
        *QUIET,
        "--trainer.logger",
        "false",
    ]
    words = [*MODEL, "--model.in_channels", "3", *words, "--trainer.max_epochs", "1"]
    for number in range(3, 12):  # whole at both ends, so that only decoding finds out
        file = Path(f"images/normal/{number}.png")
        content = file.read_bytes()
        file.write_bytes(content[:60] + bytes(len(content) - 130) + content[-70:])
    said = {
        one_sentence(command("fit", *words, "--data.num_workers", workers), ImageReadError) for workers in ("0", "1")
    }
    assert len({re.sub(r"[0-9]+\.png", "N.png", sentence) for sentence in said}) == 1


def test_the_checkpoint_of_another_class_is_refused(flow, cwd):
    (cwd / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    checkpoint = load(flow.folder / "checkpoints" / "model.ckpt")
    checkpoint["hyper_parameters"] = {}  # otherwise they say which class to build
    torch.save(checkpoint, "model.ckpt")
    done = command("test", *OWN, "--trainer.logger", "false", "--ckpt_path", "model.ckpt", *QUIET)
    assert done.code == 1
    assert "MeanImage cannot load a checkpoint of ADACL" in one_sentence(done, CheckpointError)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.hidden", "9"], r"holds a ADACL with hidden=8, so --model.hidden 9 would not be read. Leave it out"),
        (["--model", "DAE"], "holds a ADACL, so --model DAE would not be read. Leave it out"),
    ],
)
def test_options_that_the_checkpoint_replaces_are_refused(words, sentence, flow, cwd):
    done = command("test", "--run", str(flow.folder), *words)
    assert done.code == 2
    assert sentence in one_sentence(done, ConfigError)


def test_a_validation_of_nothing_is_told(flow, cwd):
    for verb in ("validate", "calibrate"):
        done = command(verb, "--run", str(flow.folder), "--data.validation", "none")
        assert done.code == 2
        assert "need validation data; Digits with validation: none gave none" in one_sentence(done, ConfigError)


def test_only_files_are_checkpoints_of_another_process(cwd):
    for words in (["test", *FAST, "--ckpt_path", "last"], ["fit", *FAST, "--ckpt_path", "best"]):
        assert "ckpt_path must be the file of a checkpoint" in one_sentence(command(*words), ConfigError)
