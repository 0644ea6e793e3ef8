from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from metric_references import slow_counts, tensors
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from anomaly_suite.errors import ConfigError, MetricUndefinedError, NotFiniteError, ShapeError
from anomaly_suite.metrics import (
    AP,
    AUPRO,
    AUROC,
    EER,
    FPR95,
    PRAUC,
    DiceMax,
    F1Max,
    IoUMax,
    auroc,
    average_precision,
    equal_error_rate,
    f1_max,
    fpr_at_tpr,
    precision_recall_area,
)
from anomaly_suite.metrics.state import RankMetric

RANK = [AUROC, AP, F1Max, FPR95, EER, IoUMax, DiceMax]


def data(*, seed: int = 0, n: int = 400, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.random(n) < 0.3
    score = rng.normal(size=n) + target
    return (np.round(score * 2) / 2 if ties else score), target


def test_six_scores_by_hand() -> None:
    score, target = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), torch.tensor([1, 0, 1, 0, 0, 1])
    assert float(auroc(score, target)) == pytest.approx(5 / 9)
    assert float(average_precision(score, target)) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert float(fpr_at_tpr(score, target)) == 1.0


def test_a_recall_of_15_in_16_does_not_reach_95_percent() -> None:
    score = torch.arange(20.0).flip(0)
    target = torch.tensor([1] * 15 + [0, 0, 1, 0, 0])  # the last anomaly is below two of the four normals
    assert float(fpr_at_tpr(score, target)) == 0.5  # not 0, at 15 of 16


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_auroc_and_ap_equal_scikit_learn(dtype: torch.dtype, ties: bool) -> None:
    for seed in range(5):
        score, target = tensors(*data(seed=seed, ties=ties))
        score = score.to(dtype)
        known = (target.numpy(), score.double().numpy())
        assert float(auroc(score, target)) == pytest.approx(roc_auc_score(*known), abs=1e-12)
        assert float(average_precision(score, target)) == pytest.approx(average_precision_score(*known), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_precision_recall_area_is_what_released_codes_call_ap(dtype: torch.dtype, ties: bool) -> None:
    for seed in range(5):
        score, target = tensors(*data(seed=seed, ties=ties))
        score = score.to(dtype)
        precision, recall, _ = precision_recall_curve(target.numpy(), score.double().numpy())
        assert float(precision_recall_area(score, target)) == pytest.approx(auc(recall, precision), abs=1e-12)
        metric = PRAUC()
        for part, truth in zip(score.split(7), target.split(7), strict=True):
            metric.update(part, truth)
        assert float(metric.compute()) == float(precision_recall_area(score, target))


def test_the_precision_recall_area_by_hand() -> None:
    target = torch.tensor([1, 0, 1, 0])
    # Points (recall, precision): (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3), (1, 1/2)
    value = float(precision_recall_area(torch.tensor([4.0, 3.0, 2.0, 1.0]), target))
    assert value == pytest.approx(1 / 2 + (1 / 2 + 2 / 3) / 4, abs=1e-12)
    assert float(precision_recall_area(torch.ones(4), target)) == 0.75  # the mean of 1 and 1/2, where AP is 1/2
    assert float(average_precision(torch.ones(4), target)) == 0.5
    metric = PRAUC()
    metric.update(torch.rand(3), torch.ones(3))
    with pytest.raises(MetricUndefinedError, match="PRAUC needs normal and anomalous samples; got 0 normal and 3"):
        metric.compute()
    assert float(metric.error_bound()) == 0


def test_the_precision_recall_area_refuses_a_sketch() -> None:
    with pytest.raises(ConfigError, match=r"PRAUC needs every score; got exact=False\. Use exact=True, or AP"):
        PRAUC(exact=False)


@pytest.mark.parametrize("ties", [False, True])
def test_threshold_metrics_equal_a_loop_over_thresholds(ties: bool) -> None:
    for seed in range(5):
        score, target = data(seed=seed, ties=ties)
        p, n = int(target.sum()), int((~target).sum())
        counts = slow_counts(score, target)
        by_f1 = max(counts, key=lambda c: (2 * c[1] / (c[1] + c[2] + p), c[0]))
        value, threshold = f1_max(*tensors(score, target))
        assert float(value) == pytest.approx(2 * by_f1[1] / (by_f1[1] + by_f1[2] + p), abs=1e-12)
        assert float(threshold) == by_f1[0]
        for tpr in (0.5, 0.95, 1.0):
            expected = min(fp / n for _, tp, fp in counts if tp / p >= tpr)
            assert float(fpr_at_tpr(*tensors(score, target), tpr=tpr)) == pytest.approx(expected, abs=1e-12)
        for metric, expected in (
            (IoUMax(), max(tp / (p + fp) for _, tp, fp in counts)),
            (DiceMax(), max(2 * tp / (tp + fp + p) for _, tp, fp in counts)),
        ):
            metric.update(*tensors(score, target))
            assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)
            decided = score >= float(metric.threshold())
            tp = (decided & target).sum()
            reached = tp / (decided | target).sum() if isinstance(metric, IoUMax) else 2 * tp / (decided.sum() + p)
            assert reached == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_eer_is_where_the_joined_roc_curve_crosses_the_diagonal(ties: bool) -> None:
    for seed in range(5):
        score, target = data(seed=seed, n=100, ties=ties)
        points = [(0.0, 1.0)] + [
            (fp / (~target).sum(), 1 - tp / target.sum()) for _, tp, fp in slow_counts(score, target)
        ]
        dense = [  # each segment in 500 steps; the step where FNR - FPR is nearest to 0
            (abs(f - m), (f + m) / 2)
            for (f0, m0), (f1, m1) in pairwise(points)
            for f, m in zip(np.linspace(f0, f1, 500), np.linspace(m0, m1, 500), strict=True)
        ]
        assert float(equal_error_rate(*tensors(score, target))) == pytest.approx(min(dense)[1], abs=2e-4)
    assert float(equal_error_rate(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0, 0, 1, 1]))) == 0.0
    assert float(equal_error_rate(torch.tensor([4.0, 3, 2, 1]), torch.tensor([0, 0, 1, 1]))) == 1.0
    assert float(equal_error_rate(torch.ones(4), torch.tensor([0, 0, 1, 1]))) == 0.5


INCREASING: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "cube": lambda s: s**3,
    "1000 + s": lambda s: 1000 + s,
    "1e-6 s": lambda s: 1e-6 * s,
    "tanh": torch.tanh,
    "20 + s": lambda s: 20 + s,
    "-1e6 + 50 s": lambda s: -1e6 + 50 * s,
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", [*RANK, PRAUC])
def test_no_increasing_transform_and_no_split_changes_a_rank_metric(metric: type[RankMetric], ties: bool) -> None:
    score, target = tensors(*data(ties=ties))
    whole = metric()
    whole.update(score, target)
    for name, transform in INCREASING.items():
        moved = transform(score)
        assert len(moved.unique()) == len(score.unique()), name  # else the case proves nothing
        for size in (1, 5, len(score)):
            split = metric()
            for part, truth in zip(moved.split(size), target.split(size), strict=True):
                split.update(part, truth)
            assert float(split.compute()) == pytest.approx(float(whole.compute()), abs=1e-12), (name, size)
    assert float(whole.error_bound()) == 0.0


def test_scores_far_from_zero_keep_their_ranking() -> None:
    rng = np.random.default_rng(1)
    target = np.arange(250) < 50
    score = rng.normal(size=250) * 0.5 + 2.5 * target
    for shift in (0.0, 10.0, 17.0, 20.0, 50.0):
        moved = torch.from_numpy(score + shift).float()
        truth = (target, moved.numpy())
        assert roc_auc_score(*truth) > 0.99
        for size in (1, 32, 250):
            for metric, expected in ((AUROC(), roc_auc_score(*truth)), (AP(), average_precision_score(*truth))):
                for part, label in zip(moved.split(size), torch.from_numpy(target).split(size), strict=True):
                    metric.update(part, label)
                assert float(metric.compute()) == pytest.approx(expected, abs=1e-12)


def test_perfect_ranking_is_perfect_one_by_one() -> None:
    score = torch.linspace(-2, 1.8, 20)
    metrics = [(AUROC(), 1), (AP(), 1), (F1Max(), 1), (FPR95(), 0), (EER(), 0), (IoUMax(), 1)]
    for metric, best in metrics:
        for index in range(20):
            metric.update(score[index : index + 1], torch.tensor([int(index >= 12)]))
        assert float(metric.compute()) == best


def test_exact_mode_keeps_double_precision() -> None:
    score = 1.0 + torch.arange(6, dtype=torch.float64) * 1e-15
    metric = AUROC()
    metric.update(score, torch.tensor([0, 0, 1, 0, 1, 1]))
    assert float(metric.compute()) == pytest.approx(8 / 9, abs=1e-12)
    assert metric.score[0].dtype == torch.float64


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("metric", [*RANK, AUPRO])
def test_one_label_or_nothing_has_no_value(metric: type[RankMetric], exact: bool) -> None:
    score = torch.rand(1, 3, 4)
    for truth, counts in (
        (torch.zeros(1, 3, 4, dtype=torch.long), "12 normal and 0"),
        (torch.ones(1, 3, 4), "0 normal and 12"),
    ):
        filled = metric(exact=exact)
        filled.update(score, truth)
        with pytest.raises(MetricUndefinedError, match=f"{metric.__name__} needs normal and anomalous.*{counts} anom"):
            filled.compute()
    empty = metric(exact=exact)
    empty.update(score[:0], score[:0].bool())
    with pytest.raises(MetricUndefinedError, match="got 0 normal and 0 anomalous"):
        empty.compute()


@pytest.mark.parametrize("exact", [True, False])
def test_wrong_input_is_refused(exact: bool) -> None:
    metric = AUROC(exact=exact)
    with pytest.raises(ShapeError, match=r"got \(8,\) and \(7,\). Pass one label per score"):
        metric.update(torch.rand(8), torch.zeros(7))
    with pytest.raises(ShapeError, match=r"height and width; got \(8, 1, 64, 64\) and \(8, 1, 256, 256\). Resize"):
        metric.update(torch.rand(8, 1, 64, 64), torch.zeros(8, 1, 256, 256))
    with pytest.raises(ShapeError, match=r"\(2, 1, 4, 4\) and \(2, 4, 4\). Add or drop the channel"):
        metric.update(torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4))
    for bad in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(NotFiniteError, match="2 of 4 are NaN or infinite"):
            metric.update(torch.tensor([0.0, bad, 1.0, bad]), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match=r"only 0 \(normal\) and 1 \(anomalous\); 1 values do not. Leave void"):
        metric.update(torch.rand(3), torch.tensor([0, 1, 255]))
    metric.update(torch.tensor([0, 3]), torch.tensor([0.0, 1.0]))  # refused input left no trace; integers are fine
    assert float(metric.compute()) == 1.0


def test_shares_and_bins_outside_their_range_are_refused() -> None:
    for value in (0.0, 1.0001):
        with pytest.raises(ConfigError, match=f"tpr must be above 0 and at most 1; got {value}"):
            FPR95(tpr=value)
    with pytest.raises(ConfigError, match="bins must be positive; got 0"):
        AUROC(exact=False, bins=0)
