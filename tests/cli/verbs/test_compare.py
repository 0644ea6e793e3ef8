"""Runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_parts import command, one_sentence, succeed

from anomaly_suite.cli import figures
from anomaly_suite.cli.verbs import compare as verb
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

CONFIG = {
    "seed_everything": 0,
    "model": {"class_path": "anomaly_suite.methods.DeepSVDD", "init_args": {"lr": 0.1}},
    "data": {"class_path": "anomaly_suite.data.MNIST", "init_args": {"root": None, "normal_class": 0}},
    "trainer": {"max_epochs": 2, "default_root_dir": "here"},
}


def write_run(name: str, auroc: float, *, origin: str = "", **model: object) -> str:
    folder = Path(name)
    folder.mkdir(parents=True)
    config = {**CONFIG, "model": {"class_path": "anomaly_suite.methods.DeepSVDD", "init_args": {"lr": 0.1, **model}}}
    head = f"# from: {origin}\n" if origin else ""
    (folder / "config.yaml").write_text(head + yaml.safe_dump(config), encoding="utf-8")
    result = {"metrics": {"image_AUROC": auroc, "image_AP": 0.5}, "method": "DeepSVDD", "seed": 3}
    (folder / "metrics.json").write_text(
        json.dumps({**result, "frames": {"metrics": {"frame_AUROC": 0.25}}}), encoding="utf-8"
    )
    return name


@pytest.fixture
def runs(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    theirs = {**CONFIG, "trainer": {"max_epochs": 300}}
    monkeypatch.setattr(figures, "complete", lambda name: theirs)  # which would load Lightning
    return [
        write_run("runs/a", 0.9, origin="one_class/deep_svdd_mnist.yaml"),
        write_run("runs/b/version_0", 0.8, lr=0.2),
    ]


def test_metrics_published_figures_and_options(runs: list[str]) -> None:
    lines = [line.split() for line in succeed("compare", *runs).out.splitlines()]
    assert lines[0] == ["image_AUROC", "published", "difference", "frame_AUROC"]
    assert lines[1] == ["a", "0.9000", "0.9480", "-0.0480", "0.2500"]
    assert lines[2] == ["b/version_0", "0.8000", "0.9480", "-0.1480", "0.2500"]
    said = [" ".join(line) for line in lines]
    assert any(
        line.startswith("a: trainer.max_epochs 2 instead of 300; one class, the figure is a mean over 10.")
        for line in said
    )
    assert lines[-2:] == [["option", "a", "b/version_0"], ["model.lr", "0.1", "0.2"]]


def test_tables_in_files(runs: list[str]) -> None:
    assert "written: t.md" in succeed("compare", *runs, "--metrics", "image_AP", "--output", "t.md").out
    lines = Path("t.md").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == ["|  | image_AP |", "| --- | --- |", "| a | 0.5000 |", "| b/version_0 | 0.5000 |"]
    assert lines[-1] == "| model.lr | 0.1 | 0.2 |"
    succeed("compare", *runs, "--output", "t.tex")
    assert Path("t.tex").read_text(encoding="utf-8").count(r"\toprule") == 2
    succeed("compare", *runs, "--output", "t.csv")
    assert Path("t.csv").read_text(encoding="utf-8").startswith("method,label,metric,mean,")


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ([], ConfigError, "the following arguments are required: RUN"),
        (["runs/a", "runs/a"], ConfigError, "got 'runs/a' twice"),
        (["runs/none"], DatasetNotFoundError, "no run (a folder with config.yaml)"),
        (["runs/a", "--metrics", "image_AUROK"], ConfigError, "Did you mean 'image_AUROC'?"),
        (["runs/a", "--output", "a.pdf"], ConfigError, "ends in .md, .tex, .csv, .parquet; got 'a.pdf'"),
        (["runs/a", "--metric", "x"], ConfigError, "has no option '--metric'; see --help. Did you mean '--metrics'?"),
    ],
)
def test_what_cannot_be_compared(runs: list[str], words: list[str], kind: type[Exception], said: str) -> None:
    assert said in one_sentence(command("compare", *words), kind)


def test_runs_without_results(runs: list[str]) -> None:
    Path("runs/a/metrics.json").write_text("{", encoding="utf-8")
    assert "is cut or damaged" in one_sentence(command("compare", *runs), DatasetError)
    Path("runs/a/metrics.json").unlink()
    assert "Run: anomaly-suite test --run runs/a" in one_sentence(command("compare", *runs), DatasetNotFoundError)


def test_names_are_as_short_as_they_can_be() -> None:
    assert verb.names_of(["runs/a"]) == ["runs/a"]
    assert verb.names_of(["r/x/a", "r/x/b"]) == ["a", "b"]
    assert verb.names_of(["r/a", "r/a/version_1"]) == ["a", "a/version_1"]
