"""What the README shows works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from anomaly_suite.cli import VERBS, main
from anomaly_suite.data import Digits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(heading: str, language: str = "python") -> str:
    """The first code block below a heading of the README."""
    section = README.partition(f"\n## {heading}\n")[2]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"the README has no {language or 'plain'} block below {heading!r}"
    return found[1]


def commands(verb: str) -> list[list[str]]:
    """Words after the program's name of every ``anomaly-suite VERB`` line."""
    lines = re.findall(rf"^anomaly-suite ({verb} .*)$", README, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_pipeline_example_runs_verbatim(tmp_path, monkeypatch):
    def no_network(*args):
        raise AssertionError("weights=None must not open a connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(block("In your own pipeline"), "README.md", "exec"), names)
    (file,) = tmp_path.rglob("metrics.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert (result["method"], result["data"]) == ("PaDiM", {"normal": 12, "anomalous": 12})
    assert 0 <= result["metrics"]["image_AUROC"] <= 1
    assert names["model"].is_fitted


def test_thirty_lines_show_everything(tmp_path, monkeypatch, capsys):
    shell, python = block("Thirty lines", ""), block("Thirty lines")
    assert len(shell.splitlines()) + len(python.splitlines()) <= 30
    for words in (
        "pip install anomaly-suite",
        *(f"anomaly-suite {verb} " for verb in ("fit", "test", "predict", "export")),
    ):
        assert words in shell
    monkeypatch.chdir(tmp_path)
    exec(compile(python, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.count("picture ") == 2
    assert list(tmp_path.rglob("metrics.json"))
    assert list(tmp_path.rglob("heatmaps/test/**/*.png"))


@pytest.mark.parametrize("words", [*commands("fit"), *commands("train")], ids=" ".join)
def test_every_fit_command_parses(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    (tmp_path / "sample_configs").symlink_to(ROOT / "sample_configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # put back after the test, with what main adds
    monkeypatch.delitem(sys.modules, "my_method", raising=False)
    if "--help" in words:
        main(words)
        assert capsys.readouterr().out.startswith("usage: anomaly-suite fit")
        return
    with pytest.raises(SystemExit) as stopped:
        main([*words, *(["--print_config"] if "--print_config" not in words else [])])
    assert stopped.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["class_path"]
    assert shown["data"]["init_args"]


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 0.25}, {"limit_train_batches": 3}], ids=str)
def test_the_own_method_keeps_what_came_before_a_validation(options, tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text(block("Your own method"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_method", raising=False)
    from my_method import MeanImage

    model, data = MeanImage(), Digits(normal_class=3, image_size=8, train_batch_size=16)
    Trainer(accelerator="cpu", max_epochs=5, logger=False, enable_checkpointing=False, **options).fit(model, data)
    batches = [batch["image"] for batch in data.train_dataloader()][: options.get("limit_train_batches")]
    torch.testing.assert_close(model.mean, torch.cat(batches).mean(0))
    monkeypatch.delitem(sys.modules, "my_method")


def test_every_command_has_a_known_verb():
    verbs = re.findall(r"^anomaly-suite (\S+)", README, re.MULTILINE)
    assert {"fit", "test", "predict", "calibrate", "export", "report", "list"} <= set(verbs)
    assert set(verbs) <= set(VERBS)


def test_files_that_the_pages_name_are_there() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
        *(ROOT / "docs").glob("*.md"),
    ]
    pattern = re.compile(
        r"\b(?:anomaly_suite|tests|benchmarks|sample_configs|docs)/[\w/.-]+\.(?:py|yaml|md|ipynb|png)\b"
    )
    named = {(page.name, file) for page in pages for file in pattern.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert sorted((page, file) for page, file in named if not (ROOT / file).exists()) == []
