"""Thresholds from counts of scores, the false-positive rate to expect of them, and the sentence about both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from anomaly_suite.callbacks.thresholds import choose_threshold, expected_fpr, sentence
from anomaly_suite.metrics import F1Max
from anomaly_suite.metrics.state import Curve, make_curve


def curve_of(score, label):
    score, label = torch.as_tensor(score), torch.as_tensor(label).long()
    return make_curve(score, label, 1 - label, torch.zeros_like(score))


def test_max_f1_by_hand():
    # F1 at 4: 2 * 1 / (1 + 2), at 3: 2 * 1 / (2 + 2), at 2: 2 * 2 / (3 + 2), at 1: 2 * 2 / (4 + 2)
    assert choose_threshold(curve_of([4.0, 3.0, 2.0, 1.0], [1, 0, 1, 0]), "max_f1", 0.99) == 2


def test_max_f1_takes_the_highest_of_equal_thresholds():
    # F1 is 2 / (1 + 3) = 1/2 at 9 and 4 / (5 + 3) = 1/2 at 8
    curve = Curve(*map(torch.tensor, ([9.0, 8.0, 7.0], [1.0, 2.0, 3.0], [0.0, 3.0, 9.0], [0.0, 0.0, 0.0])))
    assert choose_threshold(curve, "max_f1", 0.99) == 9


def test_youden_by_hand():
    # TPR - FPR is 1/2, 1/2, 1 - 1/3 and 0
    curve = Curve(*map(torch.tensor, ([9.0, 8.0, 7.0, 6.0], [1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 3.0], [0.0] * 4)))
    assert choose_threshold(curve, "youden", 0.99) == 7
    assert choose_threshold(curve_of([3.0, 2.0, 1.0, 0.0], [1, 0, 1, 0]), "youden", 0.99) == 3  # 3 and 1 both give 1/2


@pytest.mark.parametrize(
    ("quantile", "threshold"),
    [(0.1, 2), (0.5, 6), (0.8, 9), (0.89, 10), (0.9, 10), (0.901, None), (0.99, None)],
)
def test_quantile_of_ten_normals_by_hand(quantile, threshold):
    chosen = choose_threshold(curve_of(torch.arange(1.0, 11.0), [0] * 10), "quantile", quantile)
    nothing_flagged = float(np.nextafter(np.float32(10), np.float32(np.inf)))
    assert chosen == (nothing_flagged if threshold is None else threshold)


def test_quantile_counts_normals_only():
    curve = curve_of([5.0, 4.0, 3.0, 2.0, 1.0], [1, 1, 0, 1, 0])
    assert choose_threshold(curve, "quantile", 0.5) == 2  # lowest score that flags at most one of two normals
    assert choose_threshold(curve, "quantile", 0.9) == 4  # and none of them


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["one_process", "gathered"])
def test_quantile_of_tied_normals_flags_none(dtype):
    score = torch.full((7,), 0.3, dtype=torch.float32)
    chosen = choose_threshold(curve_of(score.to(dtype), [0] * 7), "quantile", 0.5)
    assert not (score >= chosen).any()
    assert chosen == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(20))
def test_every_rule_against_a_slow_search(seed):
    rng = np.random.default_rng(seed)
    label = np.r_[0, 1, rng.integers(0, 2, 20)]
    score = rng.integers(0, 12, 22) + 2 * label  # many ties
    quantile = float(rng.choice([0.25, 0.5, 0.75, 0.9]))

    def flagged(threshold):
        return ((score >= threshold) & (label == 1)).sum(), ((score >= threshold) & (label == 0)).sum()

    def f1(threshold):
        true, false = flagged(threshold)
        return 2 * true / (true + false + label.sum())

    def youden(threshold):
        true, false = flagged(threshold)
        return true / label.sum() - false / (label == 0).sum()

    candidates = sorted(set(score.tolist()), reverse=True)
    curve = curve_of(score.astype(np.float32), label)
    assert choose_threshold(curve, "max_f1", quantile) == max(candidates, key=f1)
    assert choose_threshold(curve, "youden", quantile) == max(candidates, key=lambda t: round(youden(t), 12))
    few_enough = [t for t in candidates if flagged(t)[1] <= (1 - quantile) * (label == 0).sum()]
    expected = min(few_enough) if few_enough else float(np.nextafter(np.float32(score.max()), np.float32(np.inf)))
    assert choose_threshold(curve, "quantile", quantile) == expected


# A fitted distribution ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_gumbel_has_the_moments_of_the_normals(quantile):
    score = np.random.default_rng(0).gamma(2.0, size=50).round(1)  # with ties
    anomalous = np.full(20, 100.0)
    curve = curve_of(np.concatenate([score, anomalous]), [0] * 50 + [1] * 20)
    scale = math.sqrt(6) / math.pi * score.std(ddof=1)
    expected = stats.gumbel_r.ppf(quantile, loc=score.mean() - np.euler_gamma * scale, scale=scale)
    assert choose_threshold(curve, "gumbel", quantile) == pytest.approx(expected)


def test_gumbel_of_a_few_normals_can_lie_above_them_all():
    score = stats.gumbel_r.ppf((np.arange(10) + 0.5) / 10)
    assert choose_threshold(curve_of(score, [0] * 10), "gumbel", 0.99) > score.max()


def test_gumbel_promises_what_further_normals_keep():
    score = torch.from_numpy(np.random.default_rng(1).gumbel(5.0, 2.0, size=20_000))
    threshold = choose_threshold(curve_of(score[:2000], [0] * 2000), "gumbel", 0.95)
    assert float((score[2000:] >= threshold).double().mean()) == pytest.approx(0.05, abs=0.01)  # 0.4 of it is drawing


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 7])
def test_gumbel_without_spread_flags_no_normal(count, dtype):
    score = torch.full((count,), 0.3, dtype=torch.float32)
    chosen = choose_threshold(curve_of(score.to(dtype), [0] * count), "gumbel", 0.9)
    assert not (score >= chosen).any()
    assert chosen == pytest.approx(0.3)


def test_gumbel_of_a_sketch_is_that_of_all_scores():
    score = torch.randn(40_000, generator=torch.Generator().manual_seed(0)) + 5
    sketch = F1Max(exact=False, bins=2**12)
    for part in score.split(3_000):
        sketch.update(part, torch.zeros_like(part, dtype=torch.bool))
    exact = choose_threshold(curve_of(score, [0] * len(score)), "gumbel", 0.99)
    assert choose_threshold(sketch.curve(), "gumbel", 0.99) == pytest.approx(
        exact, rel=1e-3
    )  # a row has its lowest score


@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_gumbel_survives_a_large_mean(offset):
    score = torch.linspace(0, 1, 20, dtype=torch.float64)
    near = choose_threshold(curve_of(score, [0] * 20), "gumbel", 0.9)
    far = choose_threshold(curve_of(score + offset, [0] * 20), "gumbel", 0.9)
    assert far - offset == pytest.approx(near, abs=1e-6)


# What to expect -------------------------------------------------------------------------------------------------------


def test_expected_rate_is_the_chance_of_one_more_normal_to_be_flagged():
    curve = curve_of([9.0, 8.0, 7.0, 6.0, 5.0], [1, 0, 0, 0, 0])
    assert expected_fpr(curve, "max_f1", 9.0, 0.9) == 1 / 5  # it may be the highest of five
    assert expected_fpr(curve, "quantile", 8.0, 0.9) == 1 / 5
    assert expected_fpr(curve, "fixed", 6.5, 0.9) == 2 / 5
    assert expected_fpr(curve, "youden", -1.0, 0.9) == 4 / 5
    assert expected_fpr(curve, "gumbel", 7.5, 0.95) == pytest.approx(0.05)
    assert expected_fpr(curve_of([1.0], [1]), "fixed", 0.5, 0.9) is None


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("quantile", [0.9, 0.99])
def test_expected_rate_of_a_quantile_is_kept_on_average(count, quantile):
    rng = np.random.default_rng(0)
    actual = []
    for _ in range(400):
        curve = curve_of(torch.from_numpy(rng.random(count, dtype=np.float32)), [0] * count)
        threshold = choose_threshold(curve, "quantile", quantile)
        promised = expected_fpr(curve, "quantile", threshold, quantile)
        actual.append(1 - threshold)  # scores are uniform
    assert promised is not None
    assert np.mean(actual) == pytest.approx(promised, rel=0.2)


def test_the_sentence_has_what_is_known():
    assert sentence("pixel", {"threshold": 0.25}) == "pixel threshold 0.25 by an unknown rule"
    entry = {"threshold": 1, "rule": "fixed", "split": "holdout", "loaders": 2}
    assert sentence("image", entry) == "image threshold 1 by fixed (validation: holdout, 2 loaders together)"
    entry = {
        "threshold": 2,
        "rule": "max_f1",
        "split": "test",
        "normal": 3,
        "anomalous": 4,
        "unit": "videos",
        "expected_fpr": 0.25,
    }
    assert sentence("image", entry) == (
        "image threshold 2 by max_f1 from 3 normal and 4 anomalous videos (validation: test); "
        "expect 25 % of normal videos to be called anomalous"
    )
