"""The benchmark scripts on tiny inputs: their cases run, measure what they say and add up."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite import metrics

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def core() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("core")


@pytest.fixture(scope="module")
def comparison(core: ModuleType) -> ModuleType:
    return importlib.import_module("compare_anomalib")


@pytest.fixture(scope="module")
def category(core: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tree") / "bottle"
    core.make_category(folder, train=6, test=4, size=32)
    return folder


def test_maps_are_repeatable_and_every_other_one_is_anomalous(core: ModuleType) -> None:
    batches = list(core.make_maps(35, 16))
    scores, masks = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert [len(batch[0]) for batch in batches] == [32, 3]
    assert scores.shape == masks.shape == (35, 16, 16)
    assert masks.any((1, 2))[1::2].mean() > 0.9  # a region of less than a pixel may be empty at 16 px
    assert not masks.any((1, 2))[::2].any()
    assert scores[masks].mean() - scores[~masks].mean() > 0.5
    np.testing.assert_array_equal(scores[:32], next(core.make_maps(40, 16))[0])


METER = """
import json, core
meter = core.Meter()
block = bytearray(b"x") * 50_000_000
print(json.dumps({"length": len(block), **meter.lap("block"), **meter.memory()}))
"""


def test_meter_sees_time_and_memory() -> None:
    # In a process of its own: of a large one the system may take back idle pages meanwhile, which hides what is added.
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run([sys.executable, "-c", METER], capture_output=True, text=True, check=True, env=environment)
    seen = json.loads(done.stdout)
    assert seen["length"] == 50_000_000
    assert 0 < seen["block_cpu_s"] < 10
    assert seen["block_s"] > 0
    assert 40 < seen["above_import_mb"] < 200
    assert seen["peak_mb"] > seen["above_import_mb"]


@pytest.mark.parametrize("validation", [True, False])
def test_padim_reports_the_metrics_that_were_asked_for(core: ModuleType, category: Path, validation: bool) -> None:
    pixel = ("AUROC", "AUPRO")
    outcome = core.padim(folder=str(category), image_size=32, validation=validation, pixel=pixel)
    values = {key: value for key, value in outcome.items() if key.startswith("test/")}
    assert set(values) == {"test/image_AUROC", "test/image_F1Max", "test/pixel_AUROC", "test/pixel_AUPRO"}
    assert values["test/pixel_AUROC"] > 0.6  # flat spots on a noisy texture
    assert outcome["total_cpu_s"] == pytest.approx(outcome["fit_cpu_s"] + outcome["test_cpu_s"])
    assert outcome["train_images_per_second"] == pytest.approx(6 / outcome["fit_s"])
    assert outcome["checkpoint_mb"] > 10.6  # the weights of the backbone up to stride 16 alone


def test_pixel_metrics_have_the_exact_values_of_all_maps(core: ModuleType) -> None:
    outcome = core.pixel_metrics(names=["AUPRO", "AUROC", "AP"], count=34, size=32)
    scores, masks = (np.concatenate(part) for part in zip(*core.make_maps(34, 32), strict=True))
    exact = {"AUROC": metrics.auroc, "AP": metrics.average_precision, "AUPRO": metrics.aupro}
    for name, function in exact.items():
        expected = float(function(torch.from_numpy(scores), torch.from_numpy(masks)))
        assert outcome[name] == pytest.approx(expected, abs=outcome[f"{name}_error_bound"] + 1e-12)
    assert 0 < outcome["total_s"] < 10


def test_loading_counts_every_image_of_every_pass(core: ModuleType, category: Path) -> None:
    outcome = core.loading(folder=str(category), image_size=32, passes=2)
    assert outcome["train_images_per_second"] * outcome["train_s"] == pytest.approx(12)
    assert outcome["test_images_per_cpu_second"] * outcome["test_cpu_s"] == pytest.approx(8)


def test_adacl_times_an_epoch_of_whole_batches(
    core: ModuleType, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (real_data / "mnist").is_dir():
        pytest.skip(f"no folder mnist in {real_data}")
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(real_data))
    outcome = core.adacl(images=130)
    assert outcome["images"] == 128
    assert outcome["images_per_second"] * outcome["epoch_s"] == pytest.approx(128)


def test_adacl_is_skipped_without_mnist(core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(tmp_path))
    note = core.adacl(images=64)["skipped"]
    assert "ANOMALY_SUITE_DATA" in note
    assert core.summarise([{"skipped": note}] * 2) == {"skipped": note}


def test_core_prints_and_saves_one_json(core: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "core.json"
    words = ["--only", "metrics_AUPRO", "--maps", "4", "--image-size", "32", "--json", str(file)]
    assert core.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(file.read_text())
    assert list(report["cases"]) == ["metrics_AUPRO_4"]
    case = report["cases"]["metrics_AUPRO_4"]
    assert 0 < case["median"]["AUPRO"] < 1
    assert len(case["load"]) == 1
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert report["machine"]["cores"] >= 1


def test_default_cases_and_their_choice(core: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        core.main(["--only", "padm"])
    known = capsys.readouterr().err
    assert "no case begins with 'padm'" in known
    for name in ("padim_100", "padim_1000_without_validation", "metrics_AUPRO_6000", "loading_1000", "startup"):
        assert f"{name}," in known or known.rstrip().endswith(f"{name}.")


def test_an_existing_folder_replaces_the_written_images(
    core: ModuleType, category: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def record(command: list[str], *, threads: int) -> dict[str, float]:
        asked.append(json.loads(command[-1]))
        return {"total_s": 1.0}

    monkeypatch.setattr(core, "fresh", record)
    assert core.main(["--data", str(category), "--only", "padim,loading"]) == 0
    assert list(json.loads(capsys.readouterr().out)["cases"]) == ["padim_6", "padim_6_without_validation", "loading_6"]
    assert {arguments["folder"] for arguments in asked} == {str(category)}


def test_summary_has_medians_and_the_runs_that_vary(core: ModuleType) -> None:
    outcomes = [{"a_s": 1.0, "AUROC": 0.5}, {"a_s": 9.0, "AUROC": 0.5}, {"a_s": 2.0, "AUROC": 0.5}]
    assert core.summarise(outcomes) == {"median": {"a_s": 2.0, "AUROC": 0.5}, "runs": {"a_s": [1.0, 9.0, 2.0]}}


def test_a_failing_worker_is_an_error_of_its_case(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [sys.executable, "-c", "raise RuntimeError('out of paper')"]
    outcome = core.fresh(broken, threads=1)
    assert "out of paper" in outcome["error"]
    monkeypatch.setattr(core, "fresh", lambda command, *, threads: outcome)
    assert core.main(["--only", "startup", "--runs", "2"]) == 1
    assert "out of paper" in json.loads(capsys.readouterr().out)["cases"]["startup"]["error"]


def test_workers_get_the_asked_number_of_threads(core: ModuleType) -> None:
    code = "import json, os; print('RESULT ' + json.dumps({'threads': int(os.environ['OMP_NUM_THREADS'])}))"
    assert core.fresh([sys.executable, "-c", code], threads=3) == {"threads": 3}


def test_comparison_alternates_and_prints_ratios(
    core: ModuleType,
    comparison: ModuleType,
    category: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    order: list[str] = []
    seconds = {"ours": iter([1.0, 2.0, 9.0]), "theirs": iter([4.0, 4.0, 10.0])}

    def answer(command: list[str], *, threads: int) -> dict[str, Any]:
        if "environment" in command:
            return {"anomalib": "2.7.0"}
        side = "theirs" if command[0] == "peer" else "ours"
        assert Path(command[1]).name == ("compare_anomalib.py" if side == "theirs" else "core.py")
        order.append(side)
        return {"total_cpu_s": next(seconds[side]), "peak_mb": 100.0, "AUROC": 0.9}

    monkeypatch.setattr(core, "fresh", answer)
    words = ["--peer-python", "peer", "--runs", "3", "--only", "loading", "--data", str(category)]
    assert comparison.main(words) == 0
    out = capsys.readouterr().out
    case = json.loads(out)["cases"]["loading"]
    assert order == ["ours", "theirs"] * 3
    assert case["ratio"] == {"total_cpu_s": 0.5, "peak_mb": 1.0}  # median of 1/4, 2/4, 9/10
    assert (case["ours"]["median"]["total_cpu_s"], case["theirs"]["median"]["total_cpu_s"]) == (2.0, 4.0)
    assert '"peer"' not in out  # no path of the machine in a report


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--peer-python is needed"),
        (["--peer-python", "/no/such/python"], "cannot be started"),
        (["--peer-python", sys.executable], "has none"),
    ],
)
def test_comparison_needs_an_interpreter_with_anomalib(
    comparison: ModuleType, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if complaint == "has none" and importlib.util.find_spec("anomalib"):
        pytest.skip("this environment has anomalib")
    with pytest.raises(SystemExit) as stop:
        comparison.main(words)
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
