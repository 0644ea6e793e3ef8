"""The table of methods and loggers, from results that are there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import loggers


def test_the_last_cell_of_a_name_counts(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    assert loggers.read(file) == []
    cells = [
        loggers.cell("DAE", "csv", "no numbers"),
        loggers.cell("DAE", "mlflow", ""),
        loggers.cell("DAE", "csv", ""),
    ]
    file.write_text("".join(f"{json.dumps(cell)}\n" for cell in cells))
    assert loggers.read(file) == [cells[2], cells[1]]
    assert loggers.table(loggers.read(file)).splitlines()[2] == "| DAE | yes |  |  | yes |"
    assert "| no numbers |" in loggers.table(cells[:2])


def test_a_configuration_is_a_short_fit() -> None:
    made = loggers.configuration("PEBAL", ["csv"])
    assert made["model"]["init_args"]["segmenter_weights"] == "first"
    assert made["data"]["class_path"] == "SyntheticStreets"
    assert made["trainer"]["logger"] == [loggers.LOGGERS["csv"]]
    assert loggers.configuration("FAnoGAN", [])["trainer"] | {"logger": None} == {
        **made["trainer"],
        "max_epochs": 3,
        "logger": None,
    }


@pytest.mark.parametrize("logger", loggers.LOGGERS)
def test_what_is_not_there_is_said(logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert loggers.lacks(logger, tmp_path) == "no metrics.json in the run's folder"
    (tmp_path / "metrics.json").touch()
    (tmp_path / "metrics.csv").write_text("epoch,step\n0,1\n")
    if logger == "tensorboard":
        pytest.importorskip("tensorboard")
    said = {"csv": "metrics.csv has no numbers"}
    assert loggers.lacks(logger, tmp_path) == said.get(logger, "no numbers of the fit, no metrics.json of the test")
