"""The table of ways out of a training names every method, and says what was run."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from tiny_runs import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("deployment")


def test_the_page_has_every_method(bench: ModuleType) -> None:
    page = (ROOT / "docs" / "limitations.md").read_text(encoding="utf-8")
    written = page.partition(bench.MARKS[0])[2].partition(bench.MARKS[1])[0]
    rows = [line.strip("|\n ").split(" | ") for line in written.splitlines() if line.startswith("| ")]
    assert rows[0][0] == "method"
    assert [row[0] for row in rows[2:]] == sorted(METHODS)
    assert {len(row) for row in rows} == {len(rows[0])}


def test_cells_are_told_with_their_reasons(bench: ModuleType) -> None:
    cells = [
        ("PaDiM", "onnx", True, ""),
        ("PaDiM", "compile", False, "it is slow"),
        ("DAE", "wandb", False, "it is slow"),
    ]
    known = {(name, what): {"ok": ok, "reason": reason} for name, what, ok, reason in cells}
    lines = bench.table(known).splitlines()
    assert lines[0] == "| method | onnx | torch.compile | W&B, offline |"
    assert "| PaDiM | yes | no (1) | not run |" in lines
    assert "| DAE | not run | not run | no (1) |" in lines
    assert lines[-1] == "1. it is slow"


def test_a_cell_is_run_and_kept(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(name: str, what: str) -> None:
        tried.append((name, what))
        if what == "compile":
            raise ValueError("two\nlines")

    tried: list[tuple[str, str]] = []
    monkeypatch.setattr(bench, "run", run)
    file = tmp_path / "cells.jsonl"
    bench.fill(file, ["PaDiM"])
    bench.fill(file, ["PaDiM"])
    assert tried == [("PaDiM", way) for way in bench.WAYS]
    cells = bench.read([file])
    assert [cell["ok"] for cell in cells.values()] == [True] * 4 + [False]
    assert cells["PaDiM", "compile"]["reason"] == "ValueError: two lines"
