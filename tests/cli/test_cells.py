"""Words of a cell's command line, and where its output goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import GridFolder, Record
from anomaly_suite.benchmark.settings import Keep
from anomaly_suite.cli import cells
from anomaly_suite.cli.cells import RunCell, fit_words, logged, taker
from anomaly_suite.errors import ConfigError


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
