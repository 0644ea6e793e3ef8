"""Words of a cell's command line, and where its output goes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import GridFolder, Record
from anomaly_suite.benchmark.settings import Keep
from anomaly_suite.cli import cells
from anomaly_suite.cli.cells import CUT, RunCell, fit_words, logged, taker
from anomaly_suite.errors import CheckpointError, ConfigError
from anomaly_suite.methods import DAE

CONFIG = """
model: {class_path: DAE, init_args: {in_channels: 1, image_size: 16, widths: [4, 4], latent_dim: 4}}
data: {class_path: Digits, init_args: {normal_class: 3, image_size: 16, train_batch_size: 32}}
trainer: {max_epochs: 4}
"""
KILLED_IN = 2
"""The epoch of whose beginning a fit does not see the end."""


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the parser would say; nothing is parsed."""
    config: dict[str, object] = {
        "data": {"init_args": {"seed": 0}},
        "model": {"class_path": "anomaly_suite.methods.PEBAL"},
    }
    monkeypatch.setattr(cells, "planned", lambda words: config)
    return config


def test_words_of_a_cell(tmp_path: Path, planned: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W", "/w")
    options = {"model.segmenter_weights": ["{before}", "{before2}"], "data.root": "$W/x", "model.lr": None}
    cell = Cell({"method": "a"}, {}, {}, 3, ("one_class/padim_mvtec.yaml",), options, "", before=("b", "c"))
    words = fit_words(cell, GridFolder(tmp_path))
    assert words[0] == "--config"
    assert words[1].endswith("one_class/padim_mvtec.yaml")
    pairs = dict(zip(words[2::2], words[3::2], strict=True))
    assert pairs["--model.segmenter_weights"] == f'["{tmp_path}/cells/b/run", "{tmp_path}/cells/c/run"]'
    assert (pairs["--data.root"], pairs["--model.lr"], pairs["--seed_everything"]) == ("/w/x", "null", "3")
    assert (pairs["--data.seed"], pairs["--trainer.devices"]) == ("3", "1")
    assert pairs["--trainer.default_root_dir"] == f"{tmp_path}/cells/{cell.name}/run"
    planned["data"] = {"init_args": {}}  # a data module of one's own, without a seed
    assert "--data.seed" not in fit_words(cell, GridFolder(tmp_path))


def test_which_option_takes_the_run_before(tmp_path: Path, planned: dict[str, object]) -> None:
    cell = Cell({"method": "a"}, {}, {}, 3, ("one_class/padim_mvtec.yaml",), {}, "", before=("b",), takes=("",))
    assert fit_words(cell, GridFolder(tmp_path))[-4:-2] == ["--model.segmenter_weights", f"{tmp_path}/cells/b/run"]
    named = Cell({"method": "a"}, {}, {}, 3, ("one_class/padim_mvtec.yaml",), {}, "", before=("b",), takes=("mine",))
    assert "--model.mine" in fit_words(named, GridFolder(tmp_path))
    earlier = tmp_path / "run"
    earlier.mkdir()
    igd = {"model": {"class_path": "anomaly_suite.methods.IGD"}}
    for patch, option in (("null", "encoder_weights"), ("16", "local_encoder_weights")):
        text = f"model:\n  class_path: a.B\n  init_args: {{patch_size: {patch}}}\n"
        (earlier / "config.yaml").write_text(text, encoding="utf-8")
        assert taker(igd, earlier) == option
    with pytest.raises(ConfigError, match="DAE has none of"):
        taker({"model": {"class_path": "anomaly_suite.methods.DAE"}}, earlier)


@pytest.mark.parametrize(
    ("keep", "hands_over", "kept"), [("results", False, False), ("results", True, True), ("checkpoints", False, True)]
)
def test_what_is_kept_and_what_is_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Keep, hands_over: bool, kept: bool
) -> None:
    cell = Cell({"method": "a"}, {}, {}, 0, ("one_class/padim_mvtec.yaml",), {}, "", hands_over=hands_over)
    folder, fits = GridFolder(tmp_path), []
    run = folder.run_of(cell)

    def fit(words: list[str]) -> Record:
        fits.append(words)
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text(
            "model: {class_path: a.PaDiM}\ndata: {class_path: b.MVTecAD}\n", encoding="utf-8"
        )
        return {"seconds": {"fit": 2.0, "fit_cpu": 1.0}}

    def broken(run: Path, keep: Keep) -> tuple[Record, dict[str, float]]:
        raise ConfigError("the test failed.")

    monkeypatch.setattr(cells, "fit_words", lambda cell, folder: ["--config", "a b.yaml"])
    monkeypatch.setattr(cells, "_fit", fit)
    monkeypatch.setattr(cells, "_test", broken)
    monkeypatch.setattr(cells, "compared", lambda run, **options: {"published": {}})
    run.mkdir(parents=True)
    (run / "what a cut attempt left").touch()
    with pytest.raises(ConfigError):
        RunCell(keep)(cell, folder)
    assert not (run / "what a cut attempt left").exists()
    monkeypatch.setattr(cells, "_test", lambda run, keep: ({"metrics": {"AP": 0.5}}, {"test": 1.0, "test_cpu": 0.5}))
    record = RunCell(keep)(cell, folder)
    assert len(fits) == 1  # what was fitted is only tested
    assert record["seconds"] == {"fit": 2.0, "fit_cpu": 1.0, "test": 1.0, "test_cpu": 0.5}
    assert (record["method_class"], record["metrics"], record["kept"]) == ("PaDiM", {"AP": 0.5}, kept)
    assert record["command"] == "anomaly-suite fit --config 'a b.yaml'"
    assert (run / "checkpoints").exists() == kept


class Fits(NamedTuple):
    """A cell of four epochs, and epochs in which fits of it began."""

    cell: Cell
    begun: list[int]


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fits:
    config = tmp_path / "dae.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    begun: list[int] = []

    def began(self: DAE) -> None:
        begun.append(self.current_epoch)
        if os.getpid() != parent and self.current_epoch == KILLED_IN:
            os.kill(os.getpid(), signal.SIGKILL)

    parent = os.getpid()
    monkeypatch.setattr(DAE, "on_train_epoch_start", began)
    return Fits(Cell({"method": "DAE"}, {}, {}, 0, (str(config),), {}, ""), begun)


def test_a_fit_that_was_killed_goes_on(tmp_path: Path, fits: Fits) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    whole, folder = GridFolder(tmp_path / "whole"), GridFolder(tmp_path / "cut")
    for each in (whole, folder):
        each.of(fits.cell).mkdir(parents=True)
    wanted = RunCell("results")(fits.cell, whole)
    assert fits.begun == [0, 1, 2, 3]
    fits.begun.clear()
    child = multiprocessing.get_context("fork").Process(target=RunCell("results"), args=(fits.cell, folder))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    record = RunCell("results")(fits.cell, folder)
    assert fits.begun == [2, 3]
    assert record["continued"]
    assert record["metrics"] == wanted["metrics"]
    assert record["command"].replace("/cut/", "/whole/") == wanted["command"]
    assert not (folder.of(fits.cell) / CUT).exists()


@pytest.mark.parametrize("state", ["failed", "running", "finished"])
def test_what_a_fit_does_not_go_on_behind(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of a fit that failed, one that cannot be read, and one of the last epoch, behind which none is saved."""
    cell = Cell({"method": "a"}, {}, {}, 0, ("one_class/padim_mvtec.yaml",), {}, "")
    folder, tried = GridFolder(tmp_path), []
    run = folder.run_of(cell)

    def fit(words: list[str]) -> Record:
        tried.append(words[1:])
        if words[1:] and state == "running":
            raise CheckpointError("it cannot be read.")
        # An attempt that is cut now must not come back to it.
        assert bool(words[1:]) == (folder.of(cell) / CUT).exists()
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        return {"seconds": {}}

    monkeypatch.setattr(cells, "fit_words", lambda cell, folder: ["--config"])
    monkeypatch.setattr(cells, "_fit", fit)
    monkeypatch.setattr(cells, "_test", lambda run, keep: ({"metrics": {}}, {}))
    monkeypatch.setattr(cells, "compared", lambda run, **options: {})
    monkeypatch.setattr(cells, "read_config", lambda run: {})
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "model.ckpt").touch()
    (run / "config.yaml").touch()
    (run / "run.json").write_text(json.dumps({"state": state}), encoding="utf-8")
    record = RunCell("results")(cell, folder)
    cut = ["--ckpt_path", str(folder.of(cell) / CUT)]
    assert tried == ([[]] if state == "failed" else [cut, []])
    assert "continued" not in record
    assert not (folder.of(cell) / CUT).exists()


def test_all_output_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with logged(tmp_path / "log.txt"):
            print("python")
            os.write(1, b"descriptor\n")
            print("error", file=sys.stderr)
    print("after")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == ["descriptor"] * 2 + ["error"] * 2 + ["python"] * 2
    said = capfd.readouterr()
    assert (said.out, said.err) == ("after\n", "")
