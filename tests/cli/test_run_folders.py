"""Which folder a command gets, and what its loggers are told of it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_parts import DIGITS, QUIET, command, one_sentence, succeed
from jsonargparse import Namespace

from anomaly_suite.cli.run_folders import Place, choose_place
from anomaly_suite.errors import CheckpointError, FileWriteError
from anomaly_suite.io.runs import find_run, read_record, update_record

pytestmark = pytest.mark.xdist_group("flow")

TB, CSV, WANDB, MLFLOW = "TensorBoardLogger", "CSVLogger", "WandbLogger", "MLFlowLogger"


def logger(kind: str, **options: Any) -> Namespace:
    return Namespace(class_path=f"lightning.pytorch.loggers.{kind}", init_args=Namespace(**options))


def config(
    *, root: str | None = None, logger: Any = None, fast: bool = False, data: str = "Digits", **options: Any
) -> Namespace:
    return Namespace(
        model=Namespace(class_path="anomaly_suite.methods.DAE", init_args=Namespace()),
        data=Namespace(class_path=f"anomaly_suite.data.{data}", init_args=Namespace(**options)),
        trainer=Namespace(default_root_dir=root, logger=logger, fast_dev_run=fast),
    )


def place(verb: str, asked: Namespace) -> Place:
    found = choose_place(verb, asked)
    assert found is not None
    return found


def test_default_names_tell_runs_apart(cwd: Path) -> None:
    found = [
        place("fit", config(**options))
        for options in ({"normal_class": 3}, {"normal_class": 3}, {"normal_class": 4}, {})
    ]
    assert [str(each.run) for each in found] == [
        "runs/DAE/Digits/3/1",
        "runs/DAE/Digits/3/2",
        "runs/DAE/Digits/4/1",
        "runs/DAE/Digits/all/1",
    ]
    assert all(each.run.is_dir() and each.results == each.run and each.is_linked for each in found)
    found[2].release()
    assert not Path("runs/DAE/Digits/4").exists()
    for each in found:
        each.release()
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        True,
        logger(WANDB, save_dir=".", dir=None, version=None, id=None),
        logger(MLFLOW, run_id=None, tracking_uri=None),
    ],
    ids=str,
)
def test_a_folder_that_is_named_has_a_version_whatever_the_logger(
    wanted: Any, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    for number in range(2):
        asked = config(root="x", logger=wanted.clone() if isinstance(wanted, Namespace) else wanted)
        assert str(place("fit", asked).run) == f"x/lightning_logs/version_{number}"
    if isinstance(asked.trainer.logger, Namespace) and "save_dir" in asked.trainer.logger.init_args:
        assert asked.trainer.logger.init_args.save_dir == "x/lightning_logs/version_1"


def test_without_a_logger_a_run_is_straight_in_the_folder_that_is_named(cwd: Path) -> None:
    assert place("fit", config(root="x", logger=False)) == Place(Path("x"), Path("x"), "Digits", False, False)
    assert not Path("x").exists()  # the first file makes it


def test_a_logger_with_a_folder_of_its_own_says_where_the_run_is(cwd: Path) -> None:
    both = [
        logger(WANDB, save_dir="elsewhere", dir=None, version=None, id=None),
        logger(CSV, save_dir="logs", name="mine", version=None),
        logger(TB, save_dir="logs", name="mine", version=None),
    ]
    asked = config(logger=both)
    assert str(place("fit", asked).run) == "logs/mine/version_0"
    assert [each.init_args.version for each in asked.trainer.logger] == [None, "version_0", "version_0"]
    assert asked.trainer.logger[0].init_args.save_dir == "elsewhere"
    named = config(logger=logger(TB, save_dir="logs", name="mine", version=7))
    assert str(place("fit", named).run) == "logs/mine/version_7"


def test_a_few_batches_and_remote_folders_get_none(cwd: Path) -> None:
    assert choose_place("fit", config(fast=True)) is None
    assert choose_place("fit", config(root="s3://bucket/x")) is None
    assert choose_place("validate", config(logger=False)) is None
    assert not Path("runs").exists()


def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_made(cwd: Path) -> None:
    Path("runs").touch()
    with pytest.raises(FileWriteError, match="results are to be written to 'runs/DAE/Digits/all'"):
        choose_place("fit", config())


def run_in(folder: str, **record: Any) -> Path:
    path = Path(folder)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "Folder", "init_args": {"root": "a/good"}}})
    )
    update_record(path, id="0f3c", **record)
    return path


def test_each_data_set_of_a_run_has_a_folder(cwd: Path) -> None:
    run = run_in("run", data="Digits/3")
    for verb in ("test", "predict"):
        own = place(verb, config(root="run", logger=False, normal_class=3))
        assert (own.run, own.results) == (run, run)
        other = place(verb, config(root="run", logger=False, normal_class=7))
        assert (other.run, other.results) == (run, run / "data_sets" / "Digits" / "7")
    elsewhere = place("test", config(root="elsewhere", logger=False, normal_class=7))
    assert (elsewhere.run, elsewhere.results) == (Path("elsewhere"), Path("elsewhere"))


def test_folders_of_ones_own_with_one_name_are_two_data_sets(cwd: Path) -> None:
    run_in("run", data="Folder/good")
    for root, folder in (("a/good", "run"), ("b/good", "run/data_sets/Folder/good_in_b")):
        asked = config(root="run", logger=False, data="Folder")
        asked.data.init_args.root = root
        assert str(place("test", asked).results) == folder


def test_loggers_of_a_run_go_on_in_its_test(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    known = {WANDB: {"version": "q5sci1nb"}, MLFLOW: {"version": "b102", "store": "file:/store"}}
    run = run_in("logs/mine/version_0", data="Digits", loggers=known)
    asked = config(
        root=str(run),
        logger=[
            logger(WANDB, save_dir=".", dir=None, version=None, id=None),
            logger(MLFLOW, run_id=None, tracking_uri=None),
            logger(TB, save_dir="logs", name="mine", version=None),
            logger(CSV, save_dir="logs", name="mine", version=None),
            logger(CSV, save_dir="another", name="mine", version=None),
        ],
    )
    place("test", asked)
    wandb, mlflow, board, table = (each.init_args for each in asked.trainer.logger)
    assert (wandb.version, wandb.save_dir) == ("q5sci1nb", str(run))
    assert (mlflow.run_id, mlflow.tracking_uri) == ("b102", "file:/store")
    assert (board.save_dir, board.name, board.version) == ("logs/mine", "", "version_0")
    assert table.save_dir == "another"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    asked = config(root=str(run), logger=[logger(WANDB, save_dir=".", dir=None, version=None, id=None)])
    place("test", asked)
    assert asked.trainer.logger is False


def test_the_mlflow_store_is_a_folder_where_none_is_named(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    place("fit", config(logger=logger(MLFLOW, run_id=None, tracking_uri="http://host")))
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    place("fit", config(logger=logger(MLFLOW, run_id=None, tracking_uri=None)))
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")


DAE = [
    *("--model", "DAE", "--model.image_size", "16", "--model.in_channels", "1", "--model.widths", "[4, 8]"),
    *("--model.latent_dim", "4", *DIGITS, *QUIET, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"),
    *("--heatmaps.max_images", "2", "--data.validation", "augmented"),
]


def test_several_data_sets_of_one_run_through_the_command_line(cwd: Path) -> None:
    said = succeed("fit", *DAE, "--trainer.logger", "false").out
    run = Path("runs/DAE/Digits/3/1")
    assert said.endswith(f"results: {run}\n")
    for words in ([], ["--data.normal_class", "7"]):
        said = succeed("test", "--run", "runs", *words, "--disable", "plots").out
    assert said.endswith(f"results: {run}/data_sets/Digits/7\n")
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert {name: test["data"]["normal"] for name, test in result["data_sets"].items()} == {
        "Digits/3": 61,
        "Digits/7": 60,
    }
    assert result["metrics"] == result["data_sets"]["Digits/7"]["metrics"]
    assert (
        len(list((run / "heatmaps" / "test").glob("*")))
        == len(list((run / "data_sets/Digits/7/heatmaps/test").glob("*")))
        == 2
    )
    said = succeed("report", str(run)).out
    assert re.search(r"^image_AUROC +0\.\d{4} +0\.\d{4}", said, re.MULTILINE)
    assert "DAE on Digits: 61 normal, 1614 anomalous, seed 0\n" in said
    lines = succeed("list", "runs").out.splitlines()
    assert re.match(
        rf"{run} +DAE +Digits/3 +0 +finished +\d{{4}}-\d\d-\d\d \d\d:\d\d +Digits/3: image_AUROC 0\.\d+, ", lines[1]
    )
    assert lines[-1] == "1 runs in runs: 1 finished"
    # A fit that fails in the same place is not what --run means.
    done = command(
        "fit", *DAE, "--trainer.logger", "false", "--data.validation", "holdout", "--calibrate.rule", "max_f1"
    )
    assert done.code != 0
    assert read_record(Path("runs/DAE/Digits/3/2"))["state"] == "failed"
    assert find_run("runs") == run
    assert os.readlink("runs/DAE/Digits/3/latest") == "1"
    # The weights of one run under the configuration of another are refused.
    record = Path("runs/DAE/Digits/3/2/config.yaml")
    Path("other").mkdir()
    Path("other/config.yaml").write_text(record.read_text(encoding="utf-8"), encoding="utf-8")
    done = command("test", "--run", "other", "--ckpt_path", str(run / "checkpoints" / "model.ckpt"))
    assert "must be of one run" in one_sentence(done, CheckpointError)


LOGGERS: dict[str, Any] = {
    "none": False,
    "csv": {"class_path": CSV, "init_args": {"save_dir": "logs"}},
    "tensorboard": {"class_path": TB, "init_args": {"save_dir": "logs"}},
    "wandb": {"class_path": WANDB, "init_args": {"offline": True}},
    "mlflow": {"class_path": MLFLOW},
}


@pytest.mark.matrix
@pytest.mark.parametrize(
    "names",
    [["none"], ["csv"], ["tensorboard"], ["wandb"], ["mlflow"], ["wandb", "csv", "mlflow", "tensorboard"]],
    ids="+".join,
)
def test_one_folder_a_run_whatever_the_loggers(names: list[str], cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"wandb", "mlflow", "tensorboard"} & set(names):
        pytest.importorskip(name)
    monkeypatch.setenv("WANDB_SILENT", "true")
    # One process keeps MLflow's relative stores by their name, whatever folder it is in.
    LOGGERS["mlflow"] = {"class_path": MLFLOW, "init_args": {"tracking_uri": f"file:{cwd / 'mlruns'}"}}
    wanted = [LOGGERS[name] for name in names]
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": wanted if len(wanted) > 1 else wanted[0]}}))
    places = []
    for number in ("3", "7"):
        said = succeed("fit", *DAE, "--config", "logger.yaml", "--data.normal_class", number).out
        places.append(Path(said.splitlines()[-1].removeprefix("results: ")))
        assert {file.name for file in places[-1].iterdir()} >= {"config.yaml", "run.json", "splits.csv", "checkpoints"}
    assert places[0] != places[1]
    for folder, normal in zip(places, (61, 60), strict=True):
        assert succeed("test", "--run", str(folder)).out.endswith(f"results: {folder}\n")
        result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert result["data"]["normal"] == normal
        assert result["run"] == read_record(folder)["id"]
    assert len(list(Path().rglob("model.ckpt"))) == 2
    panels = len(list(Path().rglob("*heatmap_0*")))
    assert panels == 4 * len({"wandb", "mlflow"} & set(names))  # of two validations and two tests
    if "csv" in names:
        assert len(list(places[0].glob("metrics.csv"))) == 1
