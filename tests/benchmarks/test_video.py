"""The benchmark of RTFM on tiny inputs: every case runs in its process and reports what it says."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import anomaly_suite.methods.weak_video

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("video")


SMALL = {
    "width": 32,
    "crops": 2,
    "batch": 2,
    "snippets": 20,
    "loop_videos": 1,
    "rounds": 1,
    "step_videos": 2,
    "train_crops": None,
}


@pytest.mark.parametrize("case", ["train", "loops", "infer", "released"])
def test_every_case_reports_time_and_memory(bench: ModuleType, case: str) -> None:
    outcome = bench.CASES[case](**SMALL, accelerator="cpu")
    assert outcome["call_s"] > 0
    assert outcome["call_cpu_s"] > 0
    assert outcome["peak_mb"] > 100


def test_steps_of_all_methods_are_told(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"DeepMIL": bench.STEPS["DeepMIL"], "MIST": bench.STEPS["MIST"]}
    assert small.keys() < bench.STEPS.keys() <= set(anomaly_suite.methods.weak_video.__all__)
    monkeypatch.setattr(bench, "STEPS", small)
    outcome = bench.steps(**SMALL, accelerator="cpu")
    assert {name.removesuffix("_s").removesuffix("_cpu") for name in outcome} == {
        "DeepMIL",
        "MIST_generator",
        "MIST_detector",
    }
    assert all(value > 0 for name, value in outcome.items() if not name.endswith("_cpu_s"))


def test_a_case_runs_by_its_own_command_and_is_saved(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        """Run a worker in this process: another one only spends seconds on its imports (``test_core.py`` starts one)."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            status = bench.main(command[2:])
        return subprocess.CompletedProcess(command, status, printed.getvalue(), "")

    monkeypatch.setattr(bench.core.subprocess, "run", here)
    monkeypatch.setattr(bench.core.logging, "disable", lambda level: None)
    small = ["--batch", "2", "--crops", "2", "--width", "32", "--snippets", "20", "--loop-videos", "1", "--rounds", "1"]
    assert bench.main([*small, "--only", "infer", "--json", str(tmp_path / "video.json")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["cases"]) == ["infer"]
    assert report["cases"]["infer"]["call_s"] > 0
    assert report["cases"]["infer"]["peak_mb"] > 100
    assert json.loads((tmp_path / "video.json").read_text()) == report


def test_all_cases_run_unless_some_are_chosen(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.core, "fresh", lambda command, *, threads: {"call_s": 1.0})
    assert bench.main([]) == 0
    assert list(json.loads(capsys.readouterr().out)["cases"]) == ["train", "loops", "infer", "steps", "released"]
    monkeypatch.setattr(bench.core, "fresh", lambda command, *, threads: {"error": "no memory"})
    assert bench.main(["--only", "train"]) == 1


def test_the_plain_way_is_scaled_to_the_whole_batch(bench: ModuleType) -> None:
    options = {"width": 16, "crops": 1, "batch": 50, "loop_videos": 1, "rounds": 1, "accelerator": "cpu"}
    small, large = (bench.loops(**{**options, "batch": batch})["call_cpu_s"] for batch in (1, 1000))
    assert large > 100 * small


def test_the_released_step_is_that_of_its_description(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = importlib.import_module("torch")
    released = importlib.import_module("released_rtfm")
    network = released.Released(2048)
    assert sum(weight.numel() for weight in network.parameters()) == 24_718_849  # rtfm.md, 7.1
    # With the same weights and nothing dropped, both have the same scores.
    ours, _ = bench.build({"width": 32, "accelerator": "cpu"})
    theirs = released.Released(32)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours_in_their_order(ours), strict=True)))
    videos = torch.rand(4, 2, 32, 32)
    with torch.no_grad():
        expected = ours.eval()(videos)[1][2:]
        torch.testing.assert_close(theirs.eval()(videos)[-1].squeeze(2), expected, rtol=1e-4, atol=1e-6)


def ours_in_their_order(model: Any) -> list[Any]:
    """Tensors of RTFM in the order in which the rebuilt release holds them."""
    temporal = model.temporal
    attention = temporal.attention
    parts = [
        *temporal.branches, attention.reduce, attention.value, attention.query, attention.key, attention.expand, attention.norm,
        temporal.fuse, model.classifier,
    ]  # fmt: skip
    return [tensor for part in parts for tensor in part.state_dict().values()]
