from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from metric_references import planted_maps, tensors
from torch import Tensor

from anomaly_suite.metrics import AP, AUPRO, AUROC, EER, FPR95, DiceMax, F1Max, IoUMax, state
from anomaly_suite.metrics.sketch import PREFIXES, Grid, Rows, file_rows, refine_depth, scores_of, sort_keys
from anomaly_suite.metrics.state import RankMetric

PIXEL = [AUROC, AP, F1Max, FPR95, EER, IoUMax, DiceMax]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are filed at once, as those of large sets are, and not kept as long as they are few."""
    monkeypatch.setattr(state, "CHUNK", 30_000)


def share_state(source: RankMetric, metric: type[RankMetric]) -> RankMetric:
    """Another metric on the state of ``source``, as a compute group makes it."""
    other = metric(exact=source.exact)
    for name in source._defaults:
        setattr(other, name, getattr(source, name))
    other._update_count = 1
    return other


def feed(metric: RankMetric, score: Tensor, target: Tensor, batches: int) -> RankMetric:
    for part, truth in zip(score.tensor_split(batches), target.tensor_split(batches), strict=True):
        metric.update(part, truth)
    return metric


def assert_bound_holds(sketch: RankMetric, exact: RankMetric, metrics: list[type[RankMetric]], largest: float) -> None:
    for metric in metrics:
        bounded = share_state(sketch, metric)
        error = abs(float(bounded.compute()) - float(share_state(exact, metric).compute()))
        bound = float(bounded.error_bound())
        assert error <= bound + 1e-12, (metric.__name__, error, bound)
        assert bound <= largest, (metric.__name__, bound)


N = 150_000


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray, int, float]]:
    """Name, scores, targets, number of batches, largest bound that is acceptable."""
    rng = np.random.default_rng(0)
    target = rng.random(N) < 0.05
    normal = rng.normal(size=N) + 2 * target
    cauchy = np.clip(rng.standard_cauchy(N) + 3 * target, -3e38, 3e38)
    rare, normal0 = rng.random(N) < 1e-4, rng.normal(size=N)
    rare_last = np.argsort(rare, kind="stable")
    half_constant = np.where(np.arange(N) // (N // 10) % 2 == 0, -12, normal - 12)
    anomalous_last = np.argsort(target, kind="stable")
    rising = np.argsort(normal)
    yield "normal", normal, target, 5, 1e-4
    yield "log-normal", np.exp(4 * normal), target, 5, 1e-4
    yield "Cauchy", cauchy, target, 5, 1e-4
    yield "signed fifth power of Cauchy", np.clip(np.sign(cauchy) * np.abs(cauchy) ** 5, -3e38, 3e38), target, 5, 1e-4
    yield "saturated sigmoid", 1 / (1 + np.exp(-(4 * normal + 10))), target, 5, 1e-4
    yield "1000 plus noise", 1000 + 0.01 * normal, target, 5, 1e-4
    yield "0.01 % anomalous", rng.normal(size=N) + 2 * rare, rare, 5, 1e-4
    yield "0.01 % anomalous, far", rng.normal(size=N) + 5 * rare, rare, 5, 1e-4
    yield "anomalous last", normal[anomalous_last], target[anomalous_last], 5, 3e-4
    yield "0.01 % anomalous, last", (normal0 + 4 * rare)[rare_last], rare[rare_last], 50, 1e-4
    yield "0.01 % anomalous, sigmoid near 0", 1 / (1 + np.exp(10 - 2.5 * normal0 - 9 * rare)), rare, 5, 1e-4
    yield "0.01 % anomalous, energies", np.where(rare, -8 + 2 * normal0, -12 - normal0 * (normal0 < 0)), rare, 5, 1e-4
    yield "half of the batches constant", half_constant, target, 10, 1e-4
    yield "anomalous last and far", (normal + 50 * target)[anomalous_last], target[anomalous_last], 5, 1e-4
    yield "sorted", normal[rising], target[rising], 5, 1e-4
    yield "sorted backwards", normal[rising[::-1]], target[rising[::-1]], 5, 1e-4
    yield "drift over scales", np.exp(normal + np.linspace(-20, 20, N)), target, 20, 3e-4
    yield "many tiny batches", normal[:20_000], target[:20_000], 400, 3e-4


@pytest.mark.parametrize("case", cases(), ids=lambda case: case[0])
def test_the_error_is_within_a_small_certified_bound(case: tuple[str, np.ndarray, np.ndarray, int, float]) -> None:
    _, scores, targets, batches, largest = case
    score, target = tensors(scores, targets)
    sketch = feed(AUROC(exact=False), score.float(), target, batches)
    assert_bound_holds(sketch, feed(AUROC(), score.float(), target, 1), PIXEL, largest)


def test_precision_is_sharp_where_one_pixel_in_a_million_is_anomalous(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 of 3 million pixels are squeezed near 1; three of them are anomalous, all in the last batch."""
    monkeypatch.setattr(state, "CHUNK", 2**20)
    rng = np.random.default_rng(0)
    sketch, exact = AP(exact=False), AP()
    for step in range(3):
        scores, target = 1 / (1 + np.exp(8 - 2 * rng.standard_normal(2**20, dtype=np.float32))), np.zeros(2**20, bool)
        scores[:100] = 1 - 10 ** rng.uniform(-6.5, -2, 100)
        target[:3] = step == 2
        for metric in (sketch, exact):
            metric.update(*tensors(scores, target))
    assert float(sketch.compute()) == pytest.approx(float(exact.compute()), abs=float(sketch.error_bound()) + 1e-12)
    assert float(sketch.error_bound()) < 1e-4
    assert 0.01 < float(exact.compute()) < 0.5


@pytest.mark.parametrize("batches", [1, 4])
def test_aupro_is_within_its_bound(batches: int) -> None:
    maps, masks = tensors(*planted_maps(8, 128, seed=3))
    sketch = feed(AUPRO(exact=False), maps, masks, batches)
    assert_bound_holds(sketch, feed(AUPRO(), maps, masks, 1), [AUPRO], 1e-4)


def test_quantised_scores_are_exact() -> None:
    rng = np.random.default_rng(0)
    target = rng.random(N) < 0.05
    score, truth = tensors(rng.normal(size=N) + target, target)
    for quantised in (score.bfloat16(), (score * 20).round() / 255, score.sign()):
        sketch = feed(AUROC(exact=False), quantised, truth, 3)
        assert_bound_holds(sketch, feed(AUROC(), quantised.float(), truth, 1), PIXEL, 1e-14)


def test_a_million_scores_with_ties_have_the_values_of_a_sort() -> None:
    rng = np.random.default_rng(4)
    target = rng.random(10**6) < 1e-3
    score, truth = tensors((rng.normal(size=10**6) + 2 * target).round(3), target)
    sketch = feed(AUROC(exact=False), score, truth, 3)
    assert_bound_holds(sketch, feed(AUROC(), score, truth, 1), PIXEL, 1e-9)


INCREASING: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "cube": lambda s: s**3,
    "1000 + s": lambda s: 1000 + s,
    "1e-6 s": lambda s: 1e-6 * s,
    "tanh": torch.tanh,
    "s - 1e4": lambda s: s - 1e4,
}


@pytest.mark.parametrize("transform", INCREASING.values(), ids=list(INCREASING))
def test_increasing_transforms_change_nothing_beyond_the_bounds(transform: Callable[[Tensor], Tensor]) -> None:
    rng = np.random.default_rng(2)
    target = rng.random(20_000) < 0.1
    grid = torch.from_numpy(np.round((rng.normal(size=20_000) + target) * 256) / 256).clamp(-4, 4)
    moved = transform(grid).float()
    assert len(moved.unique()) == len(grid.unique())  # still strictly increasing after rounding to float32
    exact = feed(AUROC(), grid, torch.from_numpy(target), 1)
    assert_bound_holds(feed(AUROC(exact=False), moved, torch.from_numpy(target), 4), exact, PIXEL, 1e-4)


def test_the_bracket_holds_however_coarse_the_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CHUNK", 37)
    widths = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        masks = rng.random((6, 7, 7)) < rng.choice([0.05, 0.3, 0.6])
        # within one prefix, so that few bins really are few
        maps = 1 + 10.0 ** rng.uniform(-6, -3) * np.abs(rng.normal(size=masks.shape) + rng.uniform(-1, 3) * masks)
        maps = np.round(maps, 5) if seed % 3 == 0 else maps
        order = np.argsort(maps.mean(axis=(1, 2))) if seed % 2 else np.arange(6)
        score, target = tensors(maps[order].astype(np.float32), masks[order])
        parts = [AUPRO(exact=False, bins=int(rng.choice([1, 4, 16, 64, 256]))) for _ in range(2)]
        for index in range(6):
            parts[seed % 4 == 0 and index % 2].update(score[index : index + 1], target[index : index + 1])
        parts[0].merge_state(parts[1])
        exact = feed(AUPRO(), score, target, 1)
        for metric in [AUPRO, *PIXEL]:
            bounded = share_state(parts[0], metric)
            truth = float(share_state(exact, metric).compute())
            assert abs(float(bounded.compute()) - truth) <= float(bounded.error_bound()) + 1e-12
            low, high = sorted(float(end) for end in bounded._bracket(bounded._rows()))
            assert low - 1e-12 <= truth <= high + 1e-12, (seed, metric.__name__)
            widths.append(high - low)
    assert np.mean(widths) > 0.1  # coarse indeed: the bracket was needed


def test_the_sketch_does_not_grow_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "CHUNK", 3000)
    rng = np.random.default_rng(0)
    sketch, exact = AUROC(exact=False, bins=2**12), AUROC()
    for step in range(60):
        scores = (rng.normal(size=4000) * 10.0 ** (step % 7) + step).astype(np.float32)
        score, target = tensors(scores, scores > rng.normal(size=4000) * 100)
        for metric in (sketch, exact):
            metric.update(score, target)
        assert len(sketch.row_low) == 1
        assert len(sketch.row_low[0]) <= 2 * 2**12 + PREFIXES
        assert sum(len(part) for part in sketch.score) < state.CHUNK
    assert int(sketch.curve().true[-1] + sketch.curve().false[-1]) == 60 * 4000 == int(sketch.row_total[0].sum())
    assert_bound_holds(sketch, exact, PIXEL, 0.01)


def test_keys_keep_the_order_of_scores() -> None:
    tiny, huge = 1e-45, torch.finfo(torch.float32).max
    score = torch.tensor([-huge, -1.5, -1.0, -1e-30, -tiny, 0.0, tiny, 1e-30, 1.0, 1.0000001, 1.5, huge])
    keys = sort_keys(score)
    assert bool((keys.diff() > 0).all())
    assert torch.equal(scores_of(keys), score)
    assert int(sort_keys(torch.tensor([-0.0]))) == int(sort_keys(torch.tensor([0.0])))
    wild = torch.randint(-(2**31), 2**31 - 1, (10_000,), dtype=torch.int32).view(torch.float32)
    wild = wild[wild.isfinite()].sort().values
    assert bool((sort_keys(wild).long().diff() >= 0).all())


def test_refined_rows_move_whole() -> None:
    depth = torch.zeros(PREFIXES, dtype=torch.int32)
    score = torch.tensor([1.0, 1.001, 1.002, 1.006, 5.0])
    keys = sort_keys(score)
    one = torch.ones(5, dtype=torch.int64)
    coarse = file_rows(Rows(keys, keys, one, torch.tensor([0, 1, 0, 1, 1]), torch.arange(5.0).double()), Grid.of(depth))
    assert coarse.occupied().total.tolist() == [4, 1]
    fine = file_rows(coarse.occupied(), Grid.of(torch.full_like(depth, 2))).occupied()
    assert fine.total.tolist() == [4, 1]
    assert fine.positive.tolist() == [2, 1]
    assert fine.weight.tolist() == [0 + 1 + 2 + 3, 4]
    assert torch.equal(scores_of(fine.low), torch.tensor([1.0, 5.0]))
    assert torch.equal(scores_of(fine.high), torch.tensor([1.006, 5.0]))


def test_depth_follows_the_share_within_the_budget() -> None:
    depth = torch.zeros(PREFIXES, dtype=torch.int32)
    mass = torch.zeros(2, PREFIXES, dtype=torch.int64)
    mass[0, 100], mass[0, 200], mass[1, 300] = 990_000, 10_000, 10
    refined = refine_depth(depth, mass, bins=2**10)
    # means of the shares of the normal, of the anomalous and of log(1 + rank): 0.441, 0.168 and 0.391 of 1024 bins
    assert refined[[100, 200, 300, 400]].tolist() == [9, 8, 9, 0]
    assert refine_depth(refined, mass, bins=2**10) is refined
    for step, prefix in enumerate((400, 500, 600, 700, 800)):  # each makes up nearly two thirds of everything
        mass[0, prefix] = 10 ** (8 + 2 * step)
        refined = refine_depth(refined, mass, bins=2**10)
        assert refined[[prefix, 300]].tolist() == [10, 9]
        assert int((1 << refined.long()).sum()) <= 2 * 2**10 + PREFIXES
    assert int(refined[400]) == 0  # gave its bins back when the finer ones no longer fitted
