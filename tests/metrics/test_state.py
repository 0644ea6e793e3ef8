from __future__ import annotations

import pickle
import socket
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_references import planted_maps, tensors
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from anomaly_suite.errors import ConfigError
from anomaly_suite.metrics import AP, AUPRO, AUROC, EER, FPR95, MCE, DiceMax, F1Max, IoUMax, MeanF1
from anomaly_suite.metrics.state import RankMetric

BINS = 2**13  # fewer than the samples of the maps, so that metrics that are not exact use their sketch
ALL = [AUPRO, AUROC, AP, F1Max, FPR95, EER, IoUMax, DiceMax]


def maps(seed: int = 0) -> tuple[Tensor, Tensor]:
    score, mask = tensors(*planted_maps(6, 48, seed=seed))
    return score[:, None], mask[:, None]


def together(*, exact: bool, order: list[type[RankMetric]] = ALL) -> MetricCollection:
    members: dict[str, RankMetric | MetricCollection] = {
        metric.__name__: metric(exact=exact, bins=BINS) for metric in order
    }
    return MetricCollection(members, compute_groups=[list(members)])


def alone(score: Tensor, mask: Tensor, *, exact: bool, size: int = 2) -> dict[str, float]:
    values = {}
    for metric in ALL:
        single = metric(exact=exact, bins=BINS)
        for part, truth in zip(score.split(size), mask.split(size), strict=True):
            single.update(part, truth)
        values[metric.__name__] = float(single.compute())
    return values


@pytest.mark.parametrize("exact", [True, False])
def test_one_update_serves_a_whole_collection(exact: bool) -> None:
    score, mask = maps()
    collection = together(exact=exact)
    for part, truth in zip(score.split(2), mask.split(2), strict=True):
        collection.update(part, truth)
    values = {name: float(value) for name, value in collection.compute().items()}
    assert values == alone(score, mask, exact=exact)
    members = list(collection.values(copy_state=False))
    for name in members[0]._defaults:
        assert all(getattr(member, name) is getattr(members[0], name) for member in members)
    bounds = [float(member.error_bound()) for member in members]
    assert (max(bounds) == 0) if exact else (0 < max(bounds) < 1e-3)
    collection.reset()
    other = maps(seed=1)
    collection.update(*other)
    assert {n: float(v) for n, v in collection.compute().items()} == alone(*other, exact=exact, size=6)


@pytest.mark.parametrize("exact", [True, False])
def test_aupro_must_lead_its_group_or_the_leader_keep_regions(exact: bool) -> None:
    score, mask = maps()
    late = together(exact=exact, order=[AUROC, AUPRO])
    late.update(score, mask)
    with pytest.raises(ConfigError, match=r"AUPRO needs region weights.*Put AUPRO first"):
        late.compute()
    members: dict[str, RankMetric | MetricCollection] = {
        "AUROC": AUROC(exact=exact, bins=BINS, regions=True),
        "AUPRO": AUPRO(exact=exact, bins=BINS),
    }
    kept = MetricCollection(members, compute_groups=[list(members)])
    kept.update(score, mask)
    expected = alone(score, mask, exact=exact, size=6)
    assert {n: float(v) for n, v in kept.compute().items()} == {n: expected[n] for n in members}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("metric", ALL)
def test_forward_copies_pickles_and_modes(metric: type[RankMetric], exact: bool) -> None:
    score, mask = maps()
    filled = metric(exact=exact, bins=BINS)
    for index in (3, 4):
        batch_value = filled(score[index : index + 1], mask[index : index + 1])
        fresh = metric(exact=exact, bins=BINS)
        fresh.update(score[index : index + 1], mask[index : index + 1])
        assert float(batch_value) == float(fresh.compute())
    copies = [filled, deepcopy(filled), pickle.loads(pickle.dumps(filled))]
    values = []
    for copy in copies:
        with torch.inference_mode():
            copy.update(score[5:], mask[5:])
        copy.update(score[:3], mask[:3])
        values.append(float(copy.compute()))
    assert values[0] == values[1] == values[2]
    whole = metric()
    whole.update(score, mask)
    assert values[0] == pytest.approx(float(whole.compute()), abs=float(filled.error_bound()) + 1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_merged_metrics_equal_one(exact: bool) -> None:
    score, mask = maps()
    truth = alone(score, mask, exact=True)
    for metric in ALL:
        first, second = metric(exact=exact, bins=BINS), metric(exact=exact, bins=BINS)
        first.update(score[:2], mask[:2])  # normal maps only
        second.update(score[2:5], mask[2:5])
        first.merge_state(second)
        first.update(score[5:], mask[5:])
        bound = float(first.error_bound()) if not exact else 1e-12
        assert abs(float(first.compute()) - truth[metric.__name__]) <= bound + 1e-12
        assert bound < 1e-3


def test_the_best_threshold_of_a_sketch_reaches_its_value() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(50_000) < 0.1
    score, target = tensors(rng.normal(size=50_000) + 2 * label, label)
    for metric in (F1Max(exact=False), IoUMax(exact=False)):
        metric.update(score, target)
        decided = score.float() >= metric.threshold()
        tp, either = float((decided & target).sum()), float((decided | target).sum())
        reached = tp / either if isinstance(metric, IoUMax) else 2 * tp / float(decided.sum() + target.sum())
        assert reached == pytest.approx(float(metric.compute()), abs=2 * float(metric.error_bound()) + 1e-4)


def test_deterministic_algorithms_stay_as_they_were() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        metric = AUROC(exact=False)
        metric.update(*maps())
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("exact", [True, False])
def test_scores_stay_on_their_gpu(exact: bool) -> None:
    score, mask = maps()
    collection = together(exact=exact).to("cuda")
    torch.use_deterministic_algorithms(True)
    try:
        for part, truth in zip(score.split(2), mask.split(2), strict=True):
            collection.update(part.cuda(), truth.cuda())
        values = collection.compute()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(value.is_cuda for value in values.values())
    assert {n: float(v) for n, v in values.items()} == pytest.approx(alone(score, mask, exact=exact), abs=1e-9)


def sums(score: Tensor, mask: Tensor) -> dict[str, Metric]:
    """Metrics whose states are summed over processes."""
    metrics: dict[str, Metric] = {"MeanF1": MeanF1(min_object=4, min_predicted=2), "MCE": MCE()}
    if len(score):
        metrics["MeanF1"].update(score > 1, mask[:, 0].byte())
        metrics["MCE"].update(score.sigmoid(), mask)
    return metrics


def _two_processes(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    score, mask = maps()
    found: dict[str, tuple[float, float]] = {}
    for share, owner in (("halves", [0, 0, 0, 1, 1, 1]), ("all on one", [1] * 6)):
        mine = torch.tensor(owner) == rank
        for metric in (AUPRO(), EER(), AUPRO(exact=False, bins=BINS), AP(exact=False, bins=BINS)):
            if mine.any():
                for part, truth in zip(score[mine].double().split(2), mask[mine].split(2), strict=True):
                    metric.update(part, truth)
            found[f"{share}, exact={metric.exact}, {type(metric).__name__}"] = (
                float(metric.compute()),
                float(metric.error_bound()),
            )
            if mine.any():  # still usable: the states are one process's own again
                before = int(metric.curve().false[-1])
                metric.update(score[:1], torch.zeros_like(mask[:1]))
                assert int(metric.curve().false[-1]) > before
            else:
                metric.curve(), metric.curve()
        for name, bins in sums(score[mine], mask[mine]).items():
            found[f"{share}, exact=True, {name}"] = (float(bins.compute()), 0.0)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_two_processes_equal_one(tmp_path: Path, two_processes: dict[str, Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    how = "spawn" if two_processes["strategy"] == "ddp_spawn" else "fork"
    torch.multiprocessing.start_processes(_two_processes, args=(port, str(tmp_path)), nprocs=2, start_method=how)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert found[0] == found[1]
    truth = alone(*maps(), exact=True) | {name: float(metric.compute()) for name, metric in sums(*maps()).items()}
    assert len(found[0]) == 2 * 6
    for name, (value, bound) in found[0].items():
        expected = truth[name.rsplit(" ", 1)[1]]
        assert abs(value - expected) <= bound + 1e-12, name
        assert bound == 0 if "exact=True" in name else bound < 1e-3, name
