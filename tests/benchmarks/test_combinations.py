"""The table of combinations in the docs is that of the code."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.xdist_group("DeepLabV3Plus")  # whose tiny run is needed
def test_the_page_has_the_table_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table = importlib.import_module("combinations").table()
    assert "| PaDiM | begins the pass anew | no | refused: trains no weights | refused | refused |" in table
    assert table in (ROOT / "docs" / "limitations.md").read_text(encoding="utf-8")
