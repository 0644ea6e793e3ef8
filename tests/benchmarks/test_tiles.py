"""The benchmark of large pictures on a tiny one: its case runs and ends in one JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_a_case_says_time_and_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    bench = importlib.import_module("tiles")
    monkeypatch.setattr(bench, "TILE", 64)
    monkeypatch.setattr(bench, "FITTED_ON", 2)

    def here(command: list[str], *, threads: int) -> dict[str, Any]:
        assert command[:2] == [sys.executable, str(BENCHMARKS / "tiles.py")]
        return bench.score(**json.loads(command[-1]))

    monkeypatch.setattr(bench.core, "fresh", here)
    assert bench.main(["--sides", "100"]) == 0
    (case,) = json.loads(capsys.readouterr().out[-2000:].partition('"cases": ')[2].rstrip()[:-1]).values()
    assert case["megapixels_per_s"] == pytest.approx(0.01 / case["predict_s"])
    assert case["bytes_per_pixel"] == pytest.approx(case["above_import_mb"] * 2**20 / 1e4)
