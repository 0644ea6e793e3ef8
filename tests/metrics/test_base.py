"""Metrics used alone, in collections and beside each other: no state is lost, mixed up, shared by accident or rounded."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection, MetricTracker
from torchmetrics.wrappers import BootStrapper

from anomaly_suite import metrics
from anomaly_suite.errors import ConfigError, MetricUndefinedError, NotFiniteError
from anomaly_suite.metrics import AP, AUPRO, AUROC, ECE, FPR95, PPV, F1Max, MeanIoU, SIoU, state
from anomaly_suite.metrics.base import SuiteMetric

RANK: list[dict[str, Any]] = [{}, {"exact": False}, {"exact": False, "bins": 2**6}, {"exact": False, "bins": 2**6 + 1}]
RANK += [{**options, "regions": True} for options in RANK]
SIZES: list[dict[str, Any]] = [
    {"min_object": 1, "min_predicted": 1},
    {"min_object": 12, "min_predicted": 1},
    {"min_object": 10**6},
]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    **dict.fromkeys(("AUROC", "AP", "EER", "F1Max", "IoUMax", "DiceMax"), RANK[::3]),
    "FPR95": [{"tpr": 0.5}, {"tpr": 0.9, "exact": False}],
    "PRAUC": [{}, {"regions": True}],
    "AUPRO": [{}, {"max_fpr": 0.1}, {"exact": False}, {"exact": False, "bins": 2**6}],
    **{name: [{}] for name in ("Accuracy", "Sensitivity", "Specificity", "FAR", "IoU", "Dice")},
    **dict.fromkeys(("SIoU", "PPV", "MeanF1"), SIZES),
    **{name: [{}, {"bins": 7}] for name in ("ECE", "MCE")},
    "MeanIoU": [{"num_classes": 2}, {"num_classes": 3}],
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CHUNK", 300)


def every_metric() -> dict[str, SuiteMetric]:
    return {
        f"{name} {index}": getattr(metrics, name)(**options)
        for name, choices in OPTIONS.items()
        for index, options in enumerate(choices)
    }


def one_of_each_state() -> list[SuiteMetric]:
    few = ("AUROC 0", "AUROC 2", "AUPRO 3", "Accuracy 0", "SIoU 1", "ECE 1", "MeanIoU 0")
    found = every_metric()
    return [found[name] for name in few]


def kind_of(metric: Metric) -> int:
    """Which of the inputs of :func:`batches` a metric takes."""
    return 1 if hasattr(metric, "counts") or isinstance(metric, (SIoU, PPV, metrics.MeanF1)) else 0


def batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Probabilities, decisions and masks of maps; the first has no anomaly, so that all states look alike after it."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(5, 2, 12, 12, dtype=torch.uint8)
    mask[1:, 0, 2:5, 2:6], mask[2:, 1, 8:11, 1:11], mask[3, 0, 8, 8] = 1, 1, 1
    score = (0.6 * torch.rand(mask.shape, generator=generator) + 0.3 * mask).clamp(0, 1)
    return list(zip(score, (score > 0.5).byte(), mask, strict=True))


def values_of(found: dict[str, Metric]) -> dict[str, float]:
    values = {}
    for name, metric in found.items():
        try:
            values[name] = float(metric.compute())
        except MetricUndefinedError:
            values[name] = -1.0
    return values


def test_every_metric_is_listed() -> None:
    classes = {name for name in metrics.__all__ if isinstance(getattr(metrics, name), type)}
    assert set(OPTIONS) == classes - {"ImageMean"}  # takes scenes: test_image_mean.py


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("called", [False, True])
def test_in_one_collection_every_metric_of_any_options_is_as_it_is_alone(called: bool) -> None:
    alone = every_metric()
    for kind in (0, 1):
        mine = {name: metric for name, metric in alone.items() if kind_of(metric) == kind}
        groups: Any = MetricCollection({name: copy.deepcopy(metric) for name, metric in mine.items()})
        for step, (score, decided, mask) in enumerate(batches()):
            for metric in mine.values():
                metric.update(decided if kind else score, mask)
            # Called after updates have formed the groups: each then has a state of its own.
            (groups if called and step > 2 else groups.update)(decided if kind else score, mask)
        expected = values_of(dict(mine))
        assert values_of(dict(groups.items(copy_state=False))) == pytest.approx(expected, abs=2e-2 if called else 1e-12)
        exact = {name for name, metric in mine.items() if getattr(metric, "exact", True)}
        assert {
            name: value for name, value in values_of(dict(groups.items())).items() if name in exact
        } == pytest.approx({name: expected[name] for name in exact}, abs=1e-12)
        assert len(groups.compute_groups) < len(mine)  # those that may share a state do
        groups.reset()
        assert set(values_of(dict(groups.items(copy_state=False))).values()) == {-1.0}


def test_metrics_of_unequal_options_never_share_a_state() -> None:
    score, decided, mask = batches()[0]
    family = {name: metric for name, metric in every_metric().items() if hasattr(metric, "kept")}
    for metric in family.values():
        metric.update(decided if kind_of(metric) else score, mask)
    for (_, one), (_, other) in combinations(family.items(), 2):
        same = one._defaults.keys() == other._defaults.keys() and one._held() == other._held()
        assert MetricCollection._equal_metric_states(one, other) == same


def test_a_wrong_compute_group_is_refused() -> None:
    _, decided, mask = batches()[1]
    group = MetricCollection(
        {"all": SIoU(min_object=1, min_predicted=1), "large": SIoU()}, compute_groups=[["all", "large"]]
    )
    group.update(decided, mask)
    with pytest.raises(
        ConfigError, match=r"SIoU needs a state kept with min_object=100, min_predicted=500; got .*=1, .*=1\."
    ):
        group.compute()
    with pytest.raises(
        ConfigError, match=r"AUROC needs a state kept with exact=False, regions=False, bins=262144; got one"
    ):
        _shared(AUROC(), AUROC(exact=False)).compute()


def _shared(leader: SuiteMetric, other: SuiteMetric) -> MetricCollection:
    group = MetricCollection({"leader": leader, "other": other}, compute_groups=[["leader", "other"]])
    group.update(torch.rand(4), torch.tensor([0, 1, 0, 1]))
    return group


def test_a_batch_without_a_value_is_nan_and_nothing_is_lost() -> None:
    for metric in every_metric().values():
        given = [(decided if kind_of(metric) else score, mask) for score, decided, mask in batches()]
        for step, (score, mask) in enumerate(given):
            single = copy.deepcopy(metric)
            single.reset()
            single.update(score, mask)
            expected = values_of({"": single})[""]
            value = metric(score, mask)
            assert value.dtype == torch.float64
            assert bool(value.isnan()) if expected == -1 else float(value) == expected
            assert step or not isinstance(metric, (AUROC, SIoU)) or bool(value.isnan())  # the first has one label
        with pytest.raises((ValueError, RuntimeError)):
            metric(given[0][0][:, :5], given[0][1])  # refused, and without a trace
        single.reset()
        for score, mask in given:
            single.update(score, mask)
        sketched = not getattr(metric, "exact", True)
        assert values_of({"": metric}) == pytest.approx(values_of({"": single}), abs=2e-2 if sketched else 1e-12)
        assert metric.update_count == len(given)


def test_called_again_and_again_the_state_does_not_grow() -> None:
    metric, generator = AP(exact=False, bins=2**8), torch.Generator().manual_seed(0)
    exact = AP()
    for _ in range(40):
        score = torch.randn(500, generator=generator)
        target = score > 1 + torch.randn(500, generator=generator)
        for each in (metric, exact):
            each(score, target)
        assert len(metric.row_total) <= 1
        assert sum(len(part) for part in metric.score) < state.CHUNK
    assert abs(float(metric.compute()) - float(exact.compute())) <= float(metric.error_bound())
    assert 0 < float(metric.error_bound()) < 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_scores_are_copied_and_no_more_than_they(exact: bool) -> None:
    metric, buffer, truth = AUPRO(exact=exact), torch.empty(1, 4, 4), torch.empty(1, 4, 4, dtype=torch.bool)
    whole = torch.rand(3, 1, 4, 4)
    for score in whole:  # one buffer for all
        buffer.copy_(score)
        truth.copy_(score > 0.5)
        metric.update(buffer, truth)
    expected = AUPRO()
    expected.update(whole, whole > 0.5)
    assert float(metric.compute()) == float(expected.compute())
    large = AUROC(exact=exact)
    for _ in range(100):
        large.update(torch.rand(10_000)[:2], torch.tensor([True, False]).expand(2))
    parts = [part for name in large._defaults for part in getattr(large, name)]
    assert sum(part.untyped_storage().nbytes() for part in parts if isinstance(part, Tensor) and part.ndim) < 2000
    assert len(parts) < 100


FINE = 1 + 1e-9 * torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ORDERS: dict[str, Tensor] = {
    "1 + 1e-9 x": FINE,
    "beside an outlier": torch.cat([FINE, torch.tensor([0.0, -5e8], dtype=torch.float64)]),
    "huge": FINE.sub(1).mul(1e9).mul(1e300),
    "negative": -FINE,
    "over all magnitudes": 10 ** torch.linspace(-320, 308, 3000, dtype=torch.float64),
    "denormal": torch.arange(3000).to(torch.float64) * 5e-324,
    "denormal in float32": (torch.arange(3000, dtype=torch.int32) - 1500).abs().view(torch.float32),
    "integers above 2**24": 2**24 + torch.arange(2000),
    "integers below 2**53": 2**53 - torch.arange(2000),
    "int32": torch.arange(2000, dtype=torch.int32) - 2**31,
    "bytes": torch.arange(256, dtype=torch.uint8),
    "bool": torch.tensor([True, False] * 500),
    "half": torch.linspace(-9, 9, 2000).half(),
    "bfloat16": torch.linspace(-9, 9, 2000).bfloat16(),
    "zeros of both signs": torch.tensor([0.0, -0.0] * 500),
    "constant": torch.full((1000,), 1e300, dtype=torch.float64),
}


@pytest.mark.parametrize("name", ORDERS)
def test_no_type_and_no_range_of_scores_is_rounded(name: str) -> None:
    score = ORDERS[name][torch.randperm(len(ORDERS[name]), generator=torch.Generator().manual_seed(2))]
    rank = score.double().unique(return_inverse=True)[1].float()  # the order of the scores in small numbers
    noise = torch.randn(len(rank), generator=torch.Generator().manual_seed(3))
    target = rank + 0.2 * rank.max().clamp(min=1) * noise > rank.max() / 2
    parts = list(zip(score.split(170), target.split(170), strict=True))
    for kind in (AUROC, AP, FPR95, F1Max):
        expected = kind()
        expected.update(rank, target)
        for metric, largest in ((kind(), 0.0), (kind(exact=False), 0.05), (kind(exact=False, bins=2**5), 1.0)):
            for part in parts:
                metric.update(*part)
            bound = float(metric.error_bound())
            assert abs(float(metric.compute()) - float(expected.compute())) <= bound + 1e-12, kind
            assert bound <= largest, (kind, bound)
    few = AUROC(exact=False)
    few.update(*parts[0])
    assert float(few.error_bound()) == 0
    assert isinstance(float(few.compute()), float)


@pytest.mark.parametrize("bins", [None, 2**17, 2**5])
def test_types_may_change_between_updates_and_processes(bins: int | None) -> None:
    options: dict[str, Any] = {} if bins is None else {"exact": False, "bins": bins}
    score = torch.arange(900).to(torch.float64) / 8 - 50
    target = (torch.arange(900) % 7 == 0) | (score > 40)
    expected = AP()
    expected.update(score, target)
    types = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.float16, torch.uint8]
    one, other = AP(**options), AP(**options)
    for index, (part, truth) in enumerate(zip(score.split(60), target.split(60), strict=True)):
        kept = part.to(types[index % 6]) if torch.equal(part.to(types[index % 6]).double(), part) else part
        (one, other)[index % 2].update(kept, truth.to(torch.int32 if index % 2 else torch.bool))
    shift = torch.tensor([7e8 + 1 / 3, 1e-30], dtype=torch.float64)  # not of float32: the keys of one become wide
    for metric in (other, expected):
        metric.update(shift, torch.tensor([1, 0]))
    one.merge_state(other)
    assert abs(float(one.compute()) - float(expected.compute())) <= float(one.error_bound()) + 1e-12
    assert float(one.error_bound()) <= (0 if bins is None else 0.01 if bins > 100 else 0.5)
    assert int(one.curve().true[-1] + one.curve().false[-1]) == 902


def test_scores_without_an_order_are_refused() -> None:
    target = torch.tensor([0, 1])
    for exact in (True, False):
        metric = AUROC(exact=exact)
        with pytest.raises(
            ValueError, match=r"scores must be real numbers; got torch.complex64\. Pass their magnitude"
        ):
            metric.update(torch.zeros(2, dtype=torch.complex64), target)
        with pytest.raises(
            ValueError, match=r"integers must be within 2\*\*53 of 0; got 0 to 9007199254740993\. Subtract"
        ):
            metric.update(torch.tensor([0, 2**53 + 1]), target)
        with pytest.raises(ValueError, match=r"must be tensors; got list\. Convert it"):
            metric.update([0.0, 1.0], target)  # type: ignore[arg-type]
        with pytest.raises(NotFiniteError, match="1 of 2 are NaN or infinite"):
            metric.update(torch.tensor([1e300, torch.inf], dtype=torch.float64), target)


def fill(metric: Metric, steps: slice = slice(None)) -> Metric:
    for score, decided, mask in batches()[steps]:
        metric.update(decided if kind_of(metric) else score, mask)
    return metric


def saved(metric: Metric) -> Metric:
    metric.persistent(True)
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    again = copy.deepcopy(metric)
    again.reset()
    again.persistent(True)
    again.load_state_dict(torch.load(file, weights_only=True))
    again._update_count = 1
    return again


COPIES: dict[str, Callable[[Metric], Metric]] = {
    "clone": lambda metric: metric.clone(),
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
    "to": lambda metric: metric.clone().to("cpu"),
    "half": lambda metric: metric.clone().half(),
    "to bfloat16": lambda metric: metric.clone().to(torch.bfloat16),
    "set_dtype": lambda metric: metric.clone().set_dtype(torch.float16),
    "state_dict": saved,
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_go_on_by_themselves(way: str) -> None:
    for metric in one_of_each_state():
        fill(metric, slice(0, 3))
        before = values_of({"": metric})
        other = COPIES[way](metric)
        assert values_of({"": other}) == before
        fill(other, slice(3, None))
        assert values_of({"": metric}) == before
        metric._computed = None
        assert values_of({"": metric}) == before  # computed anew
        metric.reset()
        whole = values_of({"": fill(metric)})
        sketched = not getattr(metric, "exact", True)
        assert values_of({"": other}) == pytest.approx(whole, abs=2e-2 if sketched else 1e-12)


def test_merged_states_are_not_shared() -> None:
    for metric in one_of_each_state():
        one, other = fill(metric.clone(), slice(0, 2)), fill(metric.clone(), slice(2, 4))
        before, _ = values_of({"": other}), values_of({"": one})
        one.merge_state(other)
        fill(one, slice(4, None))
        whole = values_of({"": fill(metric)})
        sketched = not getattr(metric, "exact", True)
        assert values_of({"": one}) == pytest.approx(whole, abs=2e-2 if sketched else 1e-12)
        other._computed = None
        assert values_of({"": other}) == before
        again = fill(metric.clone(), slice(0, 0))
        again.merge_state(again.clone().metric_state)
    with pytest.raises(
        ConfigError, match=r"SIoU merges states kept with min_object=100, .*; got min_object=1, min_pred"
    ):
        SIoU().merge_state(SIoU(min_object=1))
    with pytest.raises(ConfigError, match=r"AUROC merges the state of another AUROC; got AP\."):
        AUROC().merge_state(AP())
    with pytest.raises(
        ConfigError,
        match=r"AUROC merges states with kept, score, target, weight; got kept, score, target, weight, row_low",
    ):
        AUROC().merge_state(AUROC(exact=False))


def test_a_value_is_computed_anew_after_a_merge_or_a_load() -> None:
    target = torch.tensor([0, 1, 0, 1])
    metric, other = AUROC(), AUROC()
    metric.update(torch.tensor([1.0, 2, 3, 4]), target)
    other.update(torch.tensor([4.0, 3, 2, 1]), target)
    assert float(metric.compute()) == 0.75
    metric.merge_state(other)
    assert float(metric.compute()) == 0.5
    for each in (metric, other):
        each.persistent(True)
    metric.load_state_dict(other.state_dict())
    assert float(metric.compute()) == 0.25


def test_wrappers_of_torchmetrics_take_every_kind() -> None:
    score, decided, mask = batches()[4]
    for metric in (
        AUROC(),
        AUPRO(exact=False, bins=2**6),
        ECE(),
        PPV(min_object=1, min_predicted=1),
        MeanIoU(num_classes=2),
    ):
        given = (decided if kind_of(metric) else score), mask
        value = float(metric(*given))
        double = metric.clone() + metric.clone()
        assert float(double(*given)) == 2 * value
        double.update(*given)
        assert float(double.compute()) == pytest.approx(2 * value, abs=0.05)
        tracker = MetricTracker(metric.clone(), maximize=True)
        for _ in range(2):
            tracker.increment()
            tracker.update(*given)
        assert tracker.compute_all().tolist() == [value, value]
        several = BootStrapper(metric.clone(), num_bootstraps=3)
        several.update(*given)
        assert abs(float(several.compute()["mean"]) - value) < 0.5


def test_a_synchronised_state_takes_no_more() -> None:
    metric = AUROC(distributed_available_fn=lambda: True, dist_sync_fn=lambda x, group: [x, x])
    metric.update(torch.tensor([1.0, 2]), torch.tensor([0, 1]))
    metric.sync(dist_sync_fn=metric.dist_sync_fn)
    for add in (metric.update, metric):
        with pytest.raises(Exception, match=r"got a synchronised one\. Call metric.unsync\(\) first"):
            add(torch.tensor([1.0, 2]), torch.tensor([0, 1]))
    metric.unsync()
    metric.update(torch.tensor([3.0]), torch.tensor([0]))
    assert float(metric.compute()) == 0.5
    step = AUROC(distributed_available_fn=lambda: True, dist_sync_fn=lambda x, group: [x, x], dist_sync_on_step=True)
    assert float(step(torch.tensor([1.0, 2]), torch.tensor([0, 1]))) == 1
    apart = AUROC(distributed_available_fn=lambda: True, dist_sync_fn=lambda x, group: [x, x], sync_on_compute=False)
    apart.update(torch.tensor([1.0, 2]), torch.tensor([0, 1]))
    assert float(apart.curve().true[-1]) == 1
