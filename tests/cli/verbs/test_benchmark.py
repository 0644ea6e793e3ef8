"""A grid through the command line: cells, a chain, tables, and what is refused before anything is trained."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_parts import command, one_sentence, succeed, weights

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import GridFolder, Record
from anomaly_suite.benchmark.grid import Grid, read_grid
from anomaly_suite.cli import cells
from anomaly_suite.cli.cells import RunCell
from anomaly_suite.cli.samples import samples_folder
from anomaly_suite.cli.verbs import benchmark
from anomaly_suite.cli.verbs.benchmark import CellsFailedError, find_grid, share
from anomaly_suite.errors import ConfigError

DATA = {"class_path": "Digits", "init_args": {"image_size": 16, "train_batch_size": 128, "validation": "none"}}
ENCODER = {"encoder": "residual", "image_size": 16, "width": 2}
FIRST = {"teacher": "test_resnet", "teacher_weights": None, "teacher_size": 32, **ENCODER}
SVDD = {"in_channels": 1, "image_size": 16, "widths": [4, 4], "latent_dim": 4, "ae_epochs": 0}


def write(name: str, method: str, model: dict[str, Any]) -> str:
    trainer = {"max_epochs": 1, "limit_train_batches": 1, "accelerator": "cpu"}
    content = {"model": {"class_path": method, "init_args": model}, "data": DATA, "trainer": trainer}
    Path(name).write_text(yaml.safe_dump(content), encoding="utf-8")
    return name


def write_grid(**content: Any) -> str:
    write("svdd.yaml", "DeepSVDD", SVDD)
    write("first.yaml", "KnowledgeDistillation", FIRST)
    write("second.yaml", "MSSSIMAutoencoder", {**ENCODER, "latent_dim": 4})
    Path("grid.yaml").write_text(
        yaml.safe_dump({"folder": "out", "methods": ["svdd.yaml"], **content}), encoding="utf-8"
    )
    return "grid.yaml"


@pytest.mark.matrix
def test_cells_are_the_runs_of_the_command_line(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = {"name": "Deep SVDD", "config": "svdd.yaml", "published": "one_class/deep_svdd_mnist.yaml"}
    file = write_grid(methods=[method], classes={"data.normal_class": [3]}, seeds=[5])
    done = succeed("benchmark", "--config", file)
    assert done.out.splitlines()[-1].startswith("tables and plots: out (results.md")
    with Path("out/cells.csv").open(encoding="utf-8", newline="") as opened:
        (row,) = csv.DictReader(opened)
    run = Path("out/cells") / row["name"] / "run"
    record = json.loads((run.parent / "record.json").read_text(encoding="utf-8"))
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (config["seed_everything"], config["data"]["init_args"]["seed"]) == (5, 5)
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert record["metrics"]["image_AUROC"] == result["metrics"]["image_AUROC"] == float(row["image_AUROC"])
    assert (record["method_class"], record["data_class"], record["kept"]) == ("DeepSVDD", "Digits", False)
    assert not (run / "checkpoints").exists()
    assert (run / "test_scores.csv").is_file()
    assert not (run / "plots").exists()
    assert min(record["seconds"].values()) > 0
    lines = Path("out/results.md").read_text(encoding="utf-8")
    assert "| 0.9480 |" in lines
    assert "data Digits instead of MNIST; " in lines
    assert "trainer.max_epochs 1 instead of 300; " in lines

    monkeypatch.setattr(cells, "_fit", pytest.fail)
    assert "1 of 1 cells finished; seeds 5." in succeed("benchmark", "--config", file).out
    listed = succeed("benchmark", "--config", file, "--list").out.splitlines()
    assert [line.split()[0] for line in listed] == ["finished", "1"]


@pytest.mark.matrix
def test_a_chain_hands_its_encoder_over(cwd: Path) -> None:
    file = write_grid(methods=[{"name": "KD, MS-SSIM", "stages": ["first.yaml", "second.yaml"]}])
    succeed("benchmark", "--config", file)
    with Path("out/cells.csv").open(encoding="utf-8", newline="") as opened:
        rows = {row["method"]: row for row in csv.DictReader(opened)}
    assert [(name, row["status"], row["tested"]) for name, row in rows.items()] == [
        ("first", "finished", "False"),
        ("KD, MS-SSIM", "finished", "True"),
    ]
    first, second = (Path("out/cells") / row["name"] / "run" for row in rows.values())
    given = weights(first / "checkpoints" / "model.ckpt")  # which stays, for others
    assert any(key.startswith("encoder.") for key in given)
    config = yaml.safe_load((second / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["encoder_weights"] == str(first.absolute())


@pytest.mark.matrix
def test_the_command_of_a_record_gives_the_same_numbers(cwd: Path) -> None:
    file = write_grid(methods=["svdd.yaml"], seeds=[5])
    succeed("benchmark", "--config", file, "--keep", "all")
    (folder,) = Path("out/cells").iterdir()
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert (folder / "run" / "checkpoints" / "model.ckpt").is_file()
    words = [word.replace(str((folder / "run").absolute()), "alone") for word in record["command"].split()]
    succeed(*words[1:])
    succeed("test", "--run", "alone")
    again = json.loads(Path("alone/metrics.json").read_text(encoding="utf-8"))
    assert again["metrics"]["image_AUROC"] == record["metrics"]["image_AUROC"]


def test_a_failing_cell_ends_in_one_sentence_and_is_retried(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_grid(methods=["svdd.yaml"], seeds=[0, 1], run={"threads": 1})
    monkeypatch.setattr(benchmark, "check", lambda cells, folder: None)
    tried: list[int] = []

    def broken(self: RunCell, cell: Cell, folder: GridFolder) -> Record:
        tried.append(cell.seed)
        raise ConfigError("the sky must be blue; got grey. Wait.")

    monkeypatch.setattr(RunCell, "__call__", broken)
    done = command("benchmark", "--config", file)
    said = one_sentence(done, CellsFailedError)
    assert said.startswith("2 of 2 cells failed, such as svdd_seed_0-")
    assert "ConfigError: the sky must be blue; got grey. Wait." in said
    assert done.code == 1
    assert "## Failed" in Path("out/results.md").read_text(encoding="utf-8")
    command("benchmark", "--config", file)
    assert tried == [0, 1]
    monkeypatch.setattr(RunCell, "__call__", lambda self, cell, folder: {"metrics": {"image_AUROC": 0.5}})
    done = succeed("benchmark", "--config", file, "--retry-failed", "--shard", "2/2")
    assert "1 of 2 cells finished, 1 failed; seeds 0, 1." in done.out
    assert "1 of 2 cells finished" in succeed("benchmark", "--config", file, "--tables").out
    write_grid(methods=["svdd.yaml"], seeds=[0, 1], metrics=["image_AUROK"])
    said = one_sentence(command("benchmark", "--config", file, "--tables"), ConfigError)
    assert said.startswith("no cell has the metric 'image_AUROK'; they have image_AUROC. Did you mean 'image_AUROC'?")


@pytest.mark.parametrize(
    ("words", "content", "said"),
    [
        (["--config", "none.yaml"], {}, "no grid 'none.yaml': there is neither such a file nor such a sample grid"),
        (["--config", "grid.yaml", "--retry"], {}, "anomaly-suite benchmark has no option '--retry'"),
        (["--config", "grid.yaml", "--shard", "3/2"], {}, "--shard needs a part and the number of parts"),
        (["--config", "grid.yaml", "--executor", "rai"], {}, "Did you mean 'ray'?"),
        (["--config", "grid.yaml", "--workers", "x"], {}, "invalid int value: 'x'"),
        (["--config", "grid.yaml"], {"methods": ["nine.yaml"]}, "no configuration 'nine.yaml'"),
        (
            ["--config", "grid.yaml"],
            {"methods": ["svdd.yaml"], "vary": {"model.lr": [0.1, "x"]}},
            "svdd, lr x, seed 0: ",
        ),
        pytest.param(
            ["--config", "grid.yaml"],
            {"methods": ["svdd.yaml"], "options": {"trainer.devices": 2}},
            "a cell runs on one device",
            marks=pytest.mark.matrix,
        ),
        (
            ["--config", "grid.yaml"],
            {"methods": ["svdd.yaml"], "options": {"data.root": "$NONE_SUCH"}},
            "no such variable",
        ),
        pytest.param(
            ["--config", "grid.yaml"],
            {"methods": [{"name": "a", "stages": ["first.yaml", "svdd.yaml"], "options": {"model": "DAE"}}]},
            "DAE has none of local_encoder_weights, encoder_weights, segmenter_weights",
            marks=pytest.mark.matrix,
        ),
    ],
)
def test_what_is_refused_before_anything_is_trained(
    cwd: Path, words: list[str], content: dict[str, Any], said: str
) -> None:
    write_grid(**content)
    done = command("benchmark", *words)
    sentence = one_sentence(done, ConfigError)
    assert said in sentence
    assert done.code == 2
    assert not Path("out/cells").exists()


GRIDS = sorted((samples_folder() / "grids").glob("*.yaml"))


def read_sample(file: Path) -> Grid:
    return read_grid(file, lambda name: benchmark._read_config(name, beside=file.parent))


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_sample_grids_can_be_read(file: Path) -> None:
    assert find_grid(f"grids/{file.name}") == find_grid(file.name) == file
    grid = read_sample(file)
    assert len(share(grid.cells, 1, 2)) < len(grid.cells)
    assert grid.folder == Path("runs/grids") / file.stem


@pytest.mark.matrix
@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_cells_of_sample_grids_parse(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANOMALY_SUITE_DATA", "FEATURES", "MVTEC", "W"):
        monkeypatch.setenv(name, str(tmp_path))
    benchmark.check(read_sample(file).cells, GridFolder(tmp_path))
