"""The command line, run in this process; ``tests/test_architecture.py`` covers what must answer at once."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from test_readme import block

import anomaly_suite
from anomaly_suite import callbacks, data, methods, metrics
from anomaly_suite.cli import main, print_report
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetNotFoundError
from anomaly_suite.run_folders import find_run

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
MODEL = ["--model", "ADACL", "--model.widths", "[4, 8, 8, 8]", "--model.hidden", "8"]
DIGITS = ["--data", "Digits", "--data.normal_class", "3", "--data.image_size", "16", "--data.eval_batch_size", "512"]
AUGMENTED = ["--data.validation", "augmented"]
TINY = [*MODEL, *DIGITS, *AUGMENTED, "--data.train_batch_size", "64", "--trainer.max_epochs", "2", *QUIET]
FAST = [*TINY, "--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.default_root_dir", "runs/fast"]


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


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my_method", "my_data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def load(checkpoint):
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def weights(checkpoint):
    return {name: value for name, value in load(checkpoint)["state_dict"].items() if isinstance(value, torch.Tensor)}


def thresholds(checkpoint):
    return load(checkpoint)["state_dict"]["calibration._extra_state"]


def table(file):
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


# One run through all verbs -------------------------------------------------------------------------------------------


@dataclass
class Flow:
    root: Path
    folder: Path
    said: dict[str, Done]
    model_before_calibrate: bytes


@pytest.fixture(scope="module")
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


def test_report_prints_the_metrics(flow):
    result = json.loads((flow.folder / "metrics.json").read_text(encoding="utf-8"))
    said = flow.said["report"].out
    assert said.startswith("ADACL on Digits: 61 normal, 1614 anomalous, seed 0\n")
    for name, value in result["metrics"].items():
        assert re.search(rf"^{name} +{value:.4f}", said, re.MULTILINE), name
    assert "command: anomaly-suite test --run runs/tiny\n" in said
    assert str(flow.folder.relative_to(flow.root)) in said
    assert "test_scores.csv" in said
    assert "Validation was the test set" not in said


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
    assert [file.name for file in Path("runs/again").rglob("*") if file.is_file()] == ["metrics.json"]
    first, again = (json.loads((folder / "metrics.json").read_text()) for folder in (flow.folder, Path("runs/again")))
    assert again["calibration"] == thresholds(new)
    assert again["metrics"]["image_AUROC"] == first["metrics"]["image_AUROC"]
    assert again["metrics"]["image_Accuracy"] != first["metrics"]["image_Accuracy"]


def test_validate_changes_no_file(flow, monkeypatch):
    monkeypatch.chdir(flow.root)
    before = {file: file.stat().st_mtime_ns for file in flow.folder.rglob("*")}
    said = succeed("validate", "--run", "runs/tiny").out
    assert {"val/image_AUROC", "val/normal_score"} <= set(re.findall(r"val/\w+", said))
    assert {file: file.stat().st_mtime_ns for file in flow.folder.rglob("*")} == before


def test_help_of_a_verb_lists_the_options_of_the_callbacks():
    said = succeed("fit", "--help").out
    for option in (
        "--calibrate.quantile",
        "--metrics.image",
        "--heatmaps.max_images",
        "--curves.save_scores",
        "--trainer.max_epochs",
        "--disable",
    ):
        assert option in said
    assert "Share of normal images that stay unflagged" in " ".join(said.split())


def test_config_states_effective_values_and_repeats_the_run(flow, cwd):
    saved = flow.folder / "config.yaml"
    config = yaml.safe_load(saved.read_text(encoding="utf-8"))
    trainer = config["trainer"]
    assert trainer["accelerator"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (trainer["devices"], trainer["max_epochs"], trainer["precision"]) == (1, 2, "32-true")
    assert config["seed_everything"] == 0
    assert config["model"]["class_path"] == "anomaly_suite.methods.ADACL"
    assert config["data"]["init_args"]["validation"] == "augmented"
    assert config["calibrate"]["rule"] == "auto"
    succeed("fit", "--config", str(saved), "--trainer.default_root_dir", "runs/repeated")
    first = flow.folder / "checkpoints" / "model.ckpt"
    second = find_run("runs/repeated") / "checkpoints" / "model.ckpt"
    before, after = weights(first), weights(second)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert thresholds(first) == thresholds(second)


# Own classes, single pass, disable, validation -----------------------------------------------------------------------


OWN = ["--model", "my_method.MeanImage", "--data", "Digits", "--data.normal_class", "3", "--data.image_size", "16"]


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
    found = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "segmentation", "components")
    }
    assert {"pixel_AUROC", "pixel_AP", "pixel_FPR95"} <= found["metrics"]["metrics"].keys()
    assert {"mIoU", "ECE", "MCE"} <= found["segmentation"]["metrics"].keys()
    assert {"SIoU", "MeanF1"} <= found["components"]["metrics"].keys()


def test_one_pass_is_said_only_where_it_changes_something(cwd):
    (cwd / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    for epochs in ("1", "null"):
        options = ["--trainer.max_epochs", epochs, "--trainer.logger", "false", "--trainer.limit_val_batches", "0"]
        done = succeed("fit", *OWN, *options, *QUIET, "--disable", "[calibrate, metrics, heatmaps, plots, table]")
        assert "one pass" not in done.out
        assert yaml.safe_load(Path("runs/config.yaml").read_text(encoding="utf-8"))["trainer"]["max_epochs"] == 1


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


def test_disabled_callbacks_leave_no_trace(cwd):
    succeed("fit", *FAST, "--disable", "[calibrate, plots]")
    config = yaml.safe_load(Path("runs/fast/config.yaml").read_text(encoding="utf-8"))
    assert config["disable"] == ["calibrate", "plots"]
    assert thresholds("runs/fast/checkpoints/model.ckpt") == {}
    succeed("test", "--run", "runs/fast")
    assert not Path("runs/fast/plots").exists()
    assert {row["decision"] for row in table(Path("runs/fast/test_scores.csv"))} == {""}
    assert "image_Accuracy" not in json.loads(Path("runs/fast/metrics.json").read_text())["metrics"]


def test_validation_on_the_test_set_is_told(cwd):
    succeed("fit", *FAST, "--data.validation", "test")
    succeed("test", "--run", "runs/fast", "--disable", "[plots, heatmaps, table]")
    result = json.loads(Path("runs/fast/metrics.json").read_text(encoding="utf-8"))
    assert result["validation"] == result["calibration"]["image"]["split"] == "test"
    said = succeed("report", "runs/fast").out
    assert "Validation was the test set: thresholds and the chosen epoch have seen it." in said


def test_a_seed_of_ones_own_is_saved_and_changes_the_weights(flow, cwd):
    succeed(
        "fit", *FAST, "--seed_everything", "5", "--trainer.max_epochs", "2", "--disable", "[plots, heatmaps, table]"
    )
    assert yaml.safe_load(Path("runs/fast/config.yaml").read_text(encoding="utf-8"))["seed_everything"] == 5
    other = weights(flow.folder / "checkpoints" / "model.ckpt")
    assert any(
        not torch.equal(value, other[name]) for name, value in weights("runs/fast/checkpoints/model.ckpt").items()
    )


# Reports and lists ---------------------------------------------------------------------------------------------------


def report_of(**changes):
    return {
        "metrics": {"image_AUROC": 0.98765},
        "undefined": {"pixel_AUROC": "AUROC needs normal and anomalous samples; got 4 normal and 0 anomalous."},
        "method": "ADACL",
        "dataset": "Digits",
        "data": {"normal": 4, "anomalous": 0},
        "validation": "holdout",
        "seed": 7,
        "command": "anomaly-suite test --disable [plots] --data.root /d/[x]/[/red]",
        **changes,
    }


def test_report_shows_reasons_and_brackets_as_they_are(tmp_path, capsys):
    print_report(report_of(), tmp_path)
    said = capsys.readouterr().out
    assert "0.9877" in said
    assert "undefined: AUROC needs normal" in said
    assert "command: anomaly-suite test --disable [plots] --data.root /d/[x]/[/red]\n" in said


@pytest.mark.parametrize("width", ["40", "80", "200"])
@pytest.mark.parametrize("package", [methods, data, metrics, callbacks], ids=lambda package: package.__name__)
def test_list_names_every_public_class(package, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    done = succeed("list", package.__name__.rpartition(".")[2])
    first_words = {line.split()[0] for line in done.out.splitlines() if line.strip()}
    public = {name for name in package.__all__ if isinstance(getattr(package, name), type)}
    assert public
    assert public <= first_words


# The folder of a run -------------------------------------------------------------------------------------------------


def test_the_newest_version_is_the_run(tmp_path):
    for version in ("version_2", "version_10", "version_9"):
        (tmp_path / "lightning_logs" / version).mkdir(parents=True)
        (tmp_path / "lightning_logs" / version / "config.yaml").write_text("")
    for age, version in enumerate(("version_10", "version_9", "version_2")):
        os.utime(tmp_path / "lightning_logs" / version / "config.yaml", (1e9 - age, 1e9 - age))
    assert find_run(str(tmp_path)).name == "version_10"
    assert find_run(str(tmp_path / "lightning_logs" / "version_9")).name == "version_9"


# Errors: one sentence, the nearest name, and the exit code -----------------------------------------------------------

WRONG_WORDS = {
    "verb": (["fitt"], "unknown verb 'fitt'; known are fit, .* Did you mean 'fit'?"),
    "list": (["list", "method"], "list needs one of methods, data, metrics, callbacks; got method."),
    "list_nothing": (["list"], "got nothing."),
    "report": (["report"], "report needs one run folder; got nothing."),
    "method": (["fit", "--model", "ADCL", "--data", "Digits"], "no method 'ADCL'.* Did you mean 'ADACL'?"),
    "method_joined": (["fit", "--model=Padim", "--data=Digits"], "no method 'Padim'.* Did you mean 'PaDiM'?"),
    "data": (["fit", "--model", "ADACL", "--data", "Digts"], "no data module 'Digts'.* Did you mean 'Digits'?"),
    "own_class_without_file": (["fit", "--model", "Mine"], r"Your own class needs its dotted name (my_file.Mine)"),
    "own_file": (["fit", "--model", "my_methd.Mine", *DIGITS], "model: .* No module named 'my_methd'"),
    "no_data": (["fit", *MODEL], "arguments are required: fit.data"),
    "model_option": (["fit", *FAST, "--model.hiden", "3"], "no option 'hiden'. Did you mean 'hidden'?"),
    "data_option": (["fit", *FAST, "--data.normal_clas", "3"], "no option 'normal_clas'. Did you mean 'normal_class'?"),
    "trainer_option": (["fit", *FAST, "--trainer.max_epohs", "3"], "no option 'trainer.max_epohs'. Did you mean 'trainer.max_epochs'?"),
    "group": (["fit", *FAST, "--trainr.max_epochs", "3"], "no option 'trainr.max_epochs'. Did you mean 'trainer.max_epochs'?"),
    "callback_option": (["fit", *FAST, "--calibrate.rlue", "auto"], "Did you mean 'calibrate.rule'?"),
    "model_value": (["fit", *FAST, "--model.hidden", "many"], "hidden: Expected a <class 'int'>.* many"),
    "model_choice": (["fit", *FAST, "--model.labels", "continous"], "labels: .*'continuous', 'discrete'.* continous"),
    "data_value": (["fit", *FAST, "--data.val_size", "5.5"], "val_size must be a fraction .* got 5.5"),
    "data_choice": (["fit", *FAST, "--data.validation", "tset"], "validation: .*'holdout', 'augmented', 'test', 'none'.* tset"),
    "trainer_value": (["fit", *FAST, "--trainer.max_epochs", "many"], "trainer.max_epochs: Expected a <class 'int'>; got many"),
    "callback_choice": (["fit", *FAST, "--calibrate.rule", "autoo"], "calibrate.rule: .*'auto', 'max_f1'.* autoo"),
    "metric": (["fit", *FAST, "--metrics.image", "[AUROK]"], "no metric 'AUROK'.* Did you mean 'AUROC'?"),
    "optimizer": (["fit", *FAST, "--optimizer", "Adamm"], "optimizer: .*Adamm"),
    "disable": (["fit", *FAST, "--disable", "[heatmap]"], "got 'heatmap'. Did you mean 'heatmaps'?"),
    "config": (["fit", "--config", "missing.yaml"], "config: File does not exist: .*missing.yaml"),
    "accelerator": (["fit", *FAST, "--trainer.accelerator", "gpux"], "trainer: .*'gpux'.* trainer.accelerator"),
    "run_without_folder": (["test", "--run"], "--run needs the folder of an earlier fit."),
    "run_for_fit": (["fit", "--run", "runs"], "no option 'run'"),
}  # fmt: skip


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


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_wrong_words_end_in_one_sentence(case, cwd):
    words, pattern = WRONG_WORDS[case]
    done = command(*words)
    assert done.code == 2
    sentence = one_sentence(done, ConfigError)
    assert matches(pattern, sentence), sentence
    assert not Path("runs").exists()


WRONG_FILES = {
    "method": ("model: {class_path: ADACLL}", "no method 'ADACLL'.* Did you mean 'ADACL'?"),
    "data": ("data: {class_path: Digitz}", "no data module 'Digitz'.* Did you mean 'Digits'?"),
    "model_option": ("model: {class_path: ADACL, init_args: {hiden: 3}}", "no option 'hiden'. Did you mean 'hidden'?"),
    "data_option": (
        "data: {class_path: Digits, init_args: {normal_clas: 3}}",
        "no option 'normal_clas'. Did you mean 'normal_class'?",
    ),
    "trainer_option": ("trainer: {max_epoch: 3}", "no option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?"),
    "group": ("trainr: {max_epochs: 3}", "no option 'trainr.max_epochs'. Did you mean 'trainer.max_epochs'?"),
    "value": ("model: {class_path: ADACL, init_args: {hidden: many}}", "hidden: Expected a <class 'int'>.* many"),
    "callback": ("trainer: {callbacks: [{class_path: EarlyStoping}]}", "trainer.callbacks: .*EarlyStoping"),
    "yaml": ("model: [}", "Problems parsing config.* line 1"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_end_in_one_sentence(case, cwd):
    text, pattern = WRONG_FILES[case]
    Path("first.yaml").write_text("model: {class_path: ADACL}\ndata: {class_path: Digits}\n", encoding="utf-8")
    Path("second.yaml").write_text(f"{text}\n", encoding="utf-8")
    done = command("fit", "--config", "first.yaml", "--config", "second.yaml")
    assert done.code == 2
    sentence = one_sentence(done, ConfigError)
    assert matches(pattern, sentence), sentence


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


def test_the_traceback_can_be_had(monkeypatch):
    monkeypatch.setenv("ANOMALY_SUITE_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="unknown verb 'fitt'"):
        main(["fitt"])
