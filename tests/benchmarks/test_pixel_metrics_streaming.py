"""The benchmark of streaming pixel metrics, on tiny maps."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from anomaly_suite import metrics

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = {"height": 40, "width": 64}


@pytest.fixture(scope="module")
def streaming() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("pixel_metrics_streaming")


def test_maps_are_repeatable_and_each_case_is_what_it_says(streaming: ModuleType) -> None:
    found = {name: list(streaming.make_maps(name, 12, **SIZE)) for name in streaming.CASES}
    for name, maps in found.items():
        again = list(streaming.make_maps(name, 12, **SIZE))
        for (score, label), (same_score, same_label) in zip(maps, again, strict=True):
            np.testing.assert_array_equal(score, same_score)
            np.testing.assert_array_equal(label, same_label)
            assert score.shape == (1, 1, 40, 64)
            assert score.dtype == np.float32
            assert np.isfinite(score).all()
            assert (label[0, 32:] == 255).all()
            assert set(np.unique(label[0, :32])) <= {0, 1}
        assert all((label == 1).any() for _, label in maps) == (not name.endswith("_late"))
    assert [int((label == 1).sum()) for _, label in found["separated_late"]] == [0] * 11 + [1]
    assert [len(np.unique(score)) > 1 for score, _ in found["half_constant"]] == [True, False] * 6
    assert np.mean(found["energy_rising"][11][0]) - np.mean(found["energy_rising"][0][0]) == pytest.approx(
        11 / 3, abs=0.2
    )
    near_one = np.stack([score for score, _ in found["softmax_near_1"]])
    assert np.quantile(near_one, 0.01) > 0.999
    assert len(np.unique(near_one)) < 0.1 * near_one.size
    assert np.quantile(np.stack([score for score, _ in found["softmax_near_0"]]), 0.9) < 0.01


@pytest.mark.parametrize("name", ["energy", "energy_rounded", "half_constant"])
def test_two_passes_equal_the_exact_functions(streaming: ModuleType, name: str) -> None:
    maps = list(streaming.make_maps(name, 12, **SIZE))
    rng = np.random.default_rng(0)
    for _, label in maps:  # more anomalies, and on the same scores as normal pixels
        label[(label == 0) & (rng.random(label.shape) < 0.05)] = 1
    two_passes = streaming.TwoPasses([score[:, 0][label == 1] for score, label in maps])
    for score, label in maps:
        two_passes.add(score[:, 0][label == 0])
    score, label = (torch.from_numpy(np.concatenate(part)) for part in zip(*maps, strict=True))
    pair = metrics.scored_pixels(score, label)
    exact = {
        "AUROC": float(metrics.auroc(*pair)),
        "AP": float(metrics.average_precision(*pair)),
        "FPR95": float(metrics.fpr_at_tpr(*pair)),
    }
    assert two_passes.values() == pytest.approx(exact, abs=1e-12)


def test_the_command_compares_streams_and_judges(
    streaming: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def here(command: list[str], *, threads: int) -> dict[str, float]:
        kind, arguments = command[command.index("--work") + 1 :]
        outcome: dict[str, float] = streaming.KINDS[kind](**json.loads(arguments))
        return outcome

    monkeypatch.setattr(streaming, "fresh", here)
    words = ["--cases", "energy", "--subset", "3", "--maps", "4", "--exact", "--height", "80", "--width", "128"]
    words += ["--repeats", "1", "--cost-maps", "2"]
    monkeypatch.setattr(streaming, "LARGEST_COSTS", dict.fromkeys(streaming.LARGEST_COSTS, float("inf")))
    assert streaming.main([*words, "--json", str(tmp_path / "out.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out.json").read_text())
    results = printed["results"]
    assert list(results) == ["energy_sklearn", "energy_subset", "energy_stream", "costs"]
    costs = results.pop("costs")
    assert set(streaming.LARGEST_COSTS) == set(costs) - {"random_cpu_s"}
    assert all(value > 0 for name, value in costs.items() if name != "three_metrics_mb")
    assert costs["three_metrics_mb"] >= 0  # 0 where earlier tests left memory that is free
    assert results["energy_sklearn"]["pixels"] == 3 * 16 * 32
    assert results["energy_subset"]["pixels"] == 3 * 64 * 128
    assert results["energy_stream"]["pixels"] == 4 * 64 * 128
    for outcome in results.values():
        for metric in streaming.METRICS:
            difference = abs(outcome[metric] - outcome[f"{metric}_exact"])
            assert outcome[f"{metric}_difference"] == difference <= outcome[f"{metric}_error_bound"] + 1e-12
    assert 0 <= results["energy_stream"]["above_map_mb"] < 1024
    assert 0 < results["energy_stream"]["update_cpu_s"] <= results["energy_stream"]["slowest_update_cpu_s"]

    monkeypatch.setattr(streaming, "LARGEST_ERROR", -1.0)
    monkeypatch.setattr(streaming, "LARGEST_MEMORY_MB", 0)
    monkeypatch.setattr(streaming, "LARGEST_COSTS", {"sorted_ratio": 0.0})
    assert streaming.main(words) == 1
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert "energy_sklearn: AP_difference" in broken
    assert "energy_stream: above_map_mb" in broken
    assert "costs: sorted_ratio" in broken
    with pytest.raises(SystemExit):
        streaming.main(["--cases", "energie"])
    assert "no case 'energie'; known are energy, " in capsys.readouterr().err


def test_a_failed_job_is_no_success(streaming: ModuleType) -> None:
    assert streaming.broken({"error": "boom"}) == ["error"]
    assert streaming.broken({"AP_difference": float("nan"), "above_map_mb": 3.0}) == ["AP_difference"]
