"""The sliding-window benchmark on a tiny image: its cases run, count what the network sees, and end in one JSON."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--backbone", "resnet10t", "--width", "8", "--size", "64", "128", "--window", "64", "48"]


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("sliding_window")


def test_cases_count_the_passes_and_pixels_of_the_network(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(command: list[str], *, threads: int) -> dict[str, Any]:
        assert command[:2] == [sys.executable, str(BENCHMARKS / "sliding_window.py")]
        assert threads == 1
        return benchmark.predict(**json.loads(command[-1]))

    monkeypatch.setattr(benchmark.core, "fresh", here)
    assert benchmark.main(SMALL) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    seen = {name: (case["passes"], case["pixels"]) for name, case in cases.items()}
    # Windows of 64 begin at 0, 43 and 64; those of 48 at 0 and 16 down, and at 0, 32, 64 and 80 to the right.
    assert seen == {"whole": (1, 64 * 128), "window_64": (3, 3 * 64 * 64), "window_48": (8, 8 * 48 * 48)}
    assert all(case["predict_cpu_s"] > 0 and case["peak_mb"] >= case["above_import_mb"] for case in cases.values())


def test_a_failing_case_makes_the_exit_status_1(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark.core, "fresh", lambda command, *, threads: {"error": "out of memory"})
    file = tmp_path / "report.json"
    assert benchmark.main([*SMALL, "--json", str(file)]) == 1
    assert json.loads(file.read_text()) == json.loads(capsys.readouterr().out)
