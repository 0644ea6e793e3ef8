"""The comparison of rules for thresholds: what it scores, that it goes on where it stopped, and its figures by hand."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        module = importlib.import_module("decisions")
        patch.setitem(module.METHODS, "VAE", (1, {"widths": [4, 4], "latent_dim": 4}))
        patch.setattr(module, "DRAWS", 4)
        yield module
    log.setLevel(level)  # the script makes it quiet


def test_a_fit_is_scored_once_and_every_rule_has_its_row(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(tmp_path / "none"))
    words = ["--scores", str(tmp_path), "--methods", "VAE", "--sets", "digits_3", "mnist_3"]
    assert benchmark.main(words) == 0
    said = capsys.readouterr()
    assert "mnist_3 is left out: there is no" in said.err
    dump = benchmark.load_or_dump(tmp_path, "digits_3", "VAE")
    assert dump.normal.shape == dump.pseudo.shape == (60,)
    assert np.bincount(dump.label).tolist() == [61, 200]
    assert dump.normal_map.shape == (60, 64)
    assert dump.mask.size == 0
    lines = said.out.splitlines()
    assert lines[2].startswith("| digits_3 | VAE | 60 | 61 + 200 | 0.")
    rules = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert [rule.name for rule in [*benchmark.image_rules(), *benchmark.pixel_rules()] if rule.name not in rules] == []

    monkeypatch.setattr(benchmark, "dump_scores", None)  # would fail
    assert benchmark.main(words) == 0
    assert capsys.readouterr().out == said.out
    with pytest.raises(SystemExit):
        benchmark.main([*words[:-2], "mnist_3"])
    assert "name sets that need no files: digits_3, textures" in capsys.readouterr().err


def test_outcomes_by_hand(benchmark: ModuleType) -> None:
    maps = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], dtype=np.float32)
    dump = benchmark.Dump(
        normal=np.arange(4.0),
        pseudo=np.arange(4.0) + 10,
        test=np.array([1.0, 3.0, 2.0, 5.0, 6.0]),
        label=np.array([0, 0, 1, 1, 1]),
        normal_map=maps,
        test_map=np.vstack([maps, [[0.0, 9.0]]]).astype(np.float32),
        mask=np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1]], dtype=bool),
    )
    half = benchmark.Rule("at 3", lambda normal, pseudo: 3.0, 0.25)
    # one of two normals and two of three anomalies are at 3 or above; half of the normals is twice a quarter
    assert benchmark.on_images(dump, half, 4) == pytest.approx(
        {"BA": (1 + 2 / 3 - 1 / 2) / 2, "actual": 0.5, "miss": 1}
    )
    # of normal images two pixels of four; flagged are 7 of 10 pixels, 4 of the 5 anomalous ones among them
    expected = {"actual": 0.5, "miss": 1, "BA": (4 / 5 + 1 - 3 / 5) / 2, "Dice": 8 / 12}
    assert benchmark.on_pixels(dump, half, 4) == pytest.approx(expected)
    never = benchmark.Rule("never", lambda normal, pseudo: 99.0, 0.01)
    assert benchmark.on_images(dump, never, 4)["miss"] == pytest.approx(1)  # 0 counts as 0.5 %
    both = next(rule for rule in benchmark.image_rules() if rule.name == "pseudo-anomalies, best F1")
    assert both.choose(dump.normal, dump.pseudo) == 10
    assert np.isnan(benchmark.on_images(dump, both, 4)["miss"])


@pytest.mark.parametrize("has_shape", [False, True])
def test_tails_of_an_exponential_distribution_are_exponential(benchmark: ModuleType, has_shape: bool) -> None:
    score = stats.expon.ppf((np.arange(4000) + 0.5) / 4000)
    for quantile in (0.9, 0.99):
        found = benchmark._tail(score, score, quantile=quantile, has_shape=has_shape)
        assert found == pytest.approx(stats.expon.ppf(quantile), rel=0.02)


def test_quantiles_of_a_normal_distribution(benchmark: ModuleType) -> None:
    score = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    for rule in (benchmark._gaussian, benchmark._student, benchmark._quantile):
        assert rule(score, score, quantile=0.95) == pytest.approx(stats.norm.ppf(0.95), rel=0.01)
    assert benchmark._gumbel(score, score, quantile=0.95) == pytest.approx(
        benchmark._ours("gumbel", score, score, quantile=0.95), rel=1e-3
    )
