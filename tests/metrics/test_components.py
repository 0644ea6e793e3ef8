from __future__ import annotations

import numpy as np
import pytest
import torch
from metric_references import slow_regions
from torch import Tensor

from anomaly_suite.errors import ConfigError, MetricUndefinedError, ShapeError
from anomaly_suite.metrics import PPV, F1Max, MeanF1, SIoU, component_values, scored_pixels

Pixels = set[tuple[int, int]]


def slow_components(
    said: np.ndarray, ood: np.ndarray, min_object: int, min_predicted: int
) -> tuple[list[float], list[float]]:
    """The definitions of the paper on sets of pixels, for one image."""
    objects: list[Pixels] = [set(region) for region in slow_regions(ood == 1)]
    predicted: list[Pixels] = [set(region) for region in slow_regions(said & (ood != 255))]
    void = set().union(*(k for k in objects if len(k) < min_object))
    objects = [k for k in objects if len(k) >= min_object]
    predicted = [left for p in predicted if len(p) >= min_predicted and (left := p - void)]
    siou, ppv = [], []
    for k in objects:
        union = set().union(*(p for p in predicted if p & k))
        others = set().union(*(other for other in objects if other is not k))
        siou.append(len(k & union) / len((k | union) - others))
    for p in predicted:
        ppv.append(sum(len(p & k) for k in objects) / len(p))
    return siou, ppv


def slow_f1(siou: list[float], ppv: list[float]) -> float:
    values = []
    for tau in np.linspace(0.25, 0.75, 11):
        tp, fn = sum(s > tau for s in siou), sum(s <= tau for s in siou)
        values.append(2 * tp / (2 * tp + fn + sum(p <= tau for p in ppv)))
    return float(np.mean(values))


def blobs(count: int = 12, size: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy maps that half follow their labels, with objects of all sizes, some touching, and void."""
    rng = np.random.default_rng(seed)
    ood = np.zeros((count, size, size), dtype=np.uint8)
    for image in ood:
        for _ in range(rng.integers(0, 6)):
            y, x = rng.integers(0, size, 2)
            image[y : y + rng.integers(1, 14), x : x + rng.integers(1, 14)] = rng.choice([1, 1, 1, 255])
    field = torch.nn.functional.avg_pool2d(torch.from_numpy(rng.normal(size=(count, 1, size, size))), 3, 1, 1)
    return field[:, 0] + 0.5 * torch.from_numpy(ood == 1), torch.from_numpy(ood)


@pytest.mark.parametrize("sizes", [(1, 1), (10, 1), (1, 12), (30, 20)])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_values_equal_loops_over_sets_of_pixels(sizes: tuple[int, int], threshold: float) -> None:
    score, ood = blobs()
    decided = score >= threshold
    found = component_values(decided, ood, min_object=sizes[0], min_predicted=sizes[1])
    slow = [slow_components(d, o, *sizes) for d, o in zip(decided.numpy(), ood.numpy(), strict=True)]
    siou, ppv = ([value for image in slow for value in image[part]] for part in (0, 1))
    assert len(siou) >= 3
    assert len(ppv) >= 3
    assert sorted(found.siou.tolist()) == pytest.approx(sorted(siou), abs=1e-12)
    assert sorted(found.ppv.tolist()) == pytest.approx(sorted(ppv), abs=1e-12)
    for metric, expected in ((SIoU, np.mean(siou)), (PPV, np.mean(ppv)), (MeanF1, slow_f1(siou, ppv))):
        state = metric(min_object=sizes[0], min_predicted=sizes[1])
        for part, truth in zip(decided.split(5), ood.split(5), strict=True):
            state.update(part, truth)
        assert float(state.compute()) == pytest.approx(expected, abs=1e-12)


def row(*values: int) -> Tensor:
    return torch.tensor([[values]], dtype=torch.uint8)


def one(
    decided: Tensor, ood_mask: Tensor, min_object: int = 1, min_predicted: int = 1
) -> tuple[list[float], list[float]]:
    found = component_values(decided, ood_mask, min_object=min_object, min_predicted=min_predicted)
    return found.siou.tolist(), found.ppv.tolist()


def test_one_prediction_over_two_objects_is_held_against_neither() -> None:
    # Plain IoU of each would be 2/5; the adjusted one leaves out the other object and is 2 / 3, the gap being wrong.
    assert one(row(1, 1, 1, 1, 1), row(1, 1, 0, 1, 1)) == (pytest.approx([2 / 3, 2 / 3]), pytest.approx([4 / 5]))


def test_two_predictions_of_one_object_are_united() -> None:
    assert one(row(1, 1, 0, 1, 1), row(0, 1, 1, 1, 0)) == (pytest.approx([2 / 5]), pytest.approx([1 / 2, 1 / 2]))


def test_touching_corners_connect() -> None:
    corners = torch.eye(3, dtype=torch.uint8)[None]
    assert one(corners, corners) == ([1.0], [1.0])


def test_missed_objects_and_false_alarms() -> None:
    assert one(row(0, 0, 0), row(1, 1, 0)) == ([0.0], [])
    assert one(row(1, 1, 0), row(0, 0, 0)) == ([], [0.0])
    assert one(row(0, 0), row(0, 0)) == ([], [])
    assert one(torch.zeros(0, 2, 2), torch.zeros(0, 2, 2, dtype=torch.uint8)) == ([], [])


def test_void_cuts_predictions_apart() -> None:
    assert one(row(1, 1, 1, 1), row(1, 255, 0, 0)) == ([1.0], [1.0, 0.0])


def test_small_objects_become_void_and_small_predictions_vanish() -> None:
    # The single anomalous pixel is no object, but the prediction over it is not wrong there either.
    assert one(row(1, 1, 1, 0, 1), row(1, 0, 1, 1, 1), min_object=2) == (
        pytest.approx([2 / 4]),
        pytest.approx([1 / 2, 1.0]),
    )
    assert one(row(1, 1, 1, 0, 1), row(1, 0, 1, 1, 1), min_predicted=2) == (
        pytest.approx([1 / 2, 1 / 4]),
        pytest.approx([2 / 3]),
    )
    assert one(row(1, 0), row(1, 0), min_object=2) == ([], [])  # nothing is left of the prediction


def test_limits_are_strict() -> None:
    metric = MeanF1(min_object=1, min_predicted=1)
    metric.update(
        row(1, 1, 0, 0), row(1, 0, 0, 0)
    )  # sIoU and PPV are 1/2: found below it, a miss and a false alarm from it on
    assert float(metric.compute()) == pytest.approx(5 / 11)


def test_the_defaults_are_those_of_the_anomaly_track() -> None:
    ood = torch.zeros(1, 40, 60, dtype=torch.uint8)
    ood[0, 0:10, 0:10] = 1  # 100 pixels
    ood[0, 20:29, 0:11] = 1  # 99
    decided = torch.zeros_like(ood)
    decided[0, 0:20, 30:55] = 1  # 500
    decided[0, 21:32, 40:60] = 1  # 220
    assert (
        one(decided, ood, 100, 500) == tuple(part.tolist() for part in component_values(decided, ood)) == ([0.0], [0.0])
    )


def test_the_threshold_of_the_pixel_curve_feeds_the_components() -> None:
    score, ood = blobs(seed=3)
    best = F1Max(exact=False)
    best.update(*scored_pixels(score[:, None].float(), ood))
    decided = score.float() >= best.threshold()
    scored = ood != 255
    tp = float((decided & (ood == 1)).sum())
    reached = 2 * tp / float((decided & scored).sum() + (ood == 1).sum())
    assert reached == pytest.approx(float(best.compute()), abs=1e-6)
    metric = SIoU(min_object=10, min_predicted=1)
    metric.update(decided[:, None], ood)
    assert 0.1 < float(metric.compute()) < 0.9


@pytest.mark.parametrize(
    ("metric", "said", "truth"), [(SIoU, 1, 0), (PPV, 0, 1), (MeanF1, 0, 0)], ids=["SIoU", "PPV", "MeanF1"]
)
def test_without_components_there_is_no_value(metric: type[SIoU | PPV | MeanF1], said: int, truth: int) -> None:
    state = metric(min_object=1, min_predicted=1)
    state.update(row(said, said), row(truth, truth))
    with pytest.raises(MetricUndefinedError, match=f"{metric.__name__} needs components; got {truth} objects"):
        state.compute()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"maps of shape \(B, H, W\); got \(1, 1, 2\) and \(1, 1, 3\)"):
        component_values(row(1, 0), row(1, 0, 0))
    with pytest.raises(ShapeError, match="got \\(2,\\)"):
        component_values(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="a decision must hold only 0"):
        component_values(torch.tensor([[[0.3, 1.0]]]), row(1, 0))
    with pytest.raises(ValueError, match=r"ood_mask must hold only 0.*255"):
        component_values(row(1, 0), row(1, 254))
    with pytest.raises(ConfigError, match="min_predicted must be at least 1 pixel; got 0"):
        SIoU(min_predicted=0)


def test_merged_states_equal_one() -> None:
    score, ood = blobs()
    for metric in (SIoU, PPV, MeanF1):
        whole, first, second = (metric(min_object=5, min_predicted=5) for _ in range(3))
        whole.update(score >= 0.4, ood)
        first.update(score[:4] >= 0.4, ood[:4])
        second.update(score[4:] >= 0.4, ood[4:])
        first.merge_state(second)
        assert float(first.compute()) == pytest.approx(float(whole.compute()), abs=1e-12)
