from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from anomaly_suite.errors import ConfigError, MetricUndefinedError, ShapeError
from anomaly_suite.metrics import ECE, MCE, expected_calibration_error, maximum_calibration_error
from anomaly_suite.metrics.calibration_error import reliability


def binary(count: int = 4000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overconfident probabilities, none on an edge of a bin."""
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.4, 0.6, count)
    return torch.from_numpy(probability), torch.from_numpy(rng.random(count) < 0.2 + 0.6 * probability)


def classes(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Softmax maps of 5 classes and their target, with void and pasted outliers. Shapes (3, 5, 8, 9) and (3, 8, 9)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, 5, 8, 9, generator=generator, dtype=torch.float64)
    target = (logits + torch.randn(logits.shape, generator=generator) * 3).argmax(dim=1)
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    target[0, 0, :3] = 254
    return logits.softmax(dim=1), target


def slow(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[float, float]:
    """Guo et al., equations 3 and 5, bin by bin."""
    gaps = []
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if m == 1:
            inside |= confidence == 0
        if inside.any():
            gaps.append((inside.mean(), abs(confidence[inside].mean() - right[inside].mean())))
    return sum(share * gap for share, gap in gaps), max(gap for _, gap in gaps)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_anomaly_probabilities_equal_a_loop_and_torchmetrics(bins: int) -> None:
    probability, target = binary()
    expected = slow(probability.numpy(), target.numpy(), bins)
    found = [
        float(expected_calibration_error(probability, target, bins=bins)),
        float(maximum_calibration_error(probability, target, bins=bins)),
    ]
    assert found == pytest.approx(expected, abs=1e-12)
    theirs = [
        float(binary_calibration_error(probability, target.long(), n_bins=bins, norm=norm)) for norm in ("l1", "max")
    ]
    assert found == pytest.approx(theirs, abs=1e-6)
    assert found[0] > 0.02


@pytest.mark.parametrize("bins", [4, 15])
def test_class_probabilities_equal_torchmetrics_and_leave_void_out(bins: int) -> None:
    probability, target = classes()
    known = target < 254
    flat, truth = probability.movedim(1, -1)[known], target[known]
    confidence, answer = flat.max(dim=1)
    expected = slow(confidence.numpy(), (answer == truth).numpy(), bins)
    for metric, norm, value in ((ECE, "l1", expected[0]), (MCE, "max", expected[1])):
        state = metric(bins=bins)
        for part, labels in zip(probability, target, strict=True):
            state.update(part[None], labels[None])
        assert float(state.compute()) == pytest.approx(value, abs=1e-12)
        theirs = float(multiclass_calibration_error(flat, truth, num_classes=5, n_bins=bins, norm=norm))
        assert float(state.compute()) == pytest.approx(theirs, abs=1e-6)


def test_edges_belong_to_the_bin_below() -> None:
    edges = torch.tensor([0.0, 0.25, 0.5, 0.5000001, 0.75, 1.0])
    bins = reliability(edges, torch.tensor([0, 1, 0, 1, 1, 1]), bins=4)
    assert bins.answers.tolist() == [2, 1, 2, 1]
    assert bins.correct.tolist() == [1, 0, 2, 1]
    assert bins.confidence.tolist() == pytest.approx([0.25, 0.5, 1.2500001, 1.0])
    assert bins.gap.tolist() == pytest.approx([0.375, 0.5, 0.375, 0], abs=1e-6)


def test_perfect_confidence_has_no_error_and_empty_bins_do_not_count() -> None:
    certain = torch.tensor([0.0, 1.0, 1.0])
    assert (
        float(expected_calibration_error(certain, certain)) == float(maximum_calibration_error(certain, certain)) == 0
    )
    assert float(maximum_calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([1, 1]))) == pytest.approx(0.1)


def test_counting_goes_on_where_float32_stops() -> None:
    metric = ECE(bins=2)
    metric.answers[1] = metric.correct[1] = 2**25
    metric.confidence[1] = 2.0**25
    metric.update(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1, 0, 1]))
    assert metric.answers.tolist() == [1, 2**25 + 2]
    assert float(metric.compute()) == pytest.approx(2 / (2**25 + 3), rel=1e-9)


def test_merged_states_equal_one() -> None:
    probability, target = binary()
    first, second = ECE(), ECE()
    first.update(probability[:1000], target[:1000])
    second.update(probability[1000:], target[1000:])
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(float(expected_calibration_error(probability, target)), abs=1e-12)


def test_half_precision_softmax_is_accepted() -> None:
    probability, target = classes()
    exact = float(expected_calibration_error(probability, target))
    for dtype in (torch.bfloat16, torch.float16):
        rounded = probability.log().to(dtype).float().softmax(dim=1).to(dtype)
        assert float(expected_calibration_error(rounded, target)) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("score", [[-3.0, 0.5], [0.5, 1.0001], [0.5, float("nan")]])
def test_raw_scores_are_never_squashed(score: list[float]) -> None:
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\].*not squashed"):
        expected_calibration_error(torch.tensor(score), torch.tensor([0, 1]))


def test_what_does_not_fit_is_refused() -> None:
    probability, target = classes()
    with pytest.raises(ValueError, match=r"must add up to 1; got 0\.5 to 0\.5"):
        ECE().update(0.5 * probability, target)
    with pytest.raises(ValueError, match="target must be 0 to 4, or 254 or above for void; got 0 to 5"):
        ECE().update(probability, target.where(target != 3, 5))
    with pytest.raises(ValueError, match="target must be 0 to 1"):
        ECE().update(torch.tensor([0.5]), torch.tensor([-1]))
    with pytest.raises(ShapeError, match=r"got \(3, 5, 8, 9\) and \(3, 8, 8\)"):
        MCE().update(probability, target[..., 1:])
    for call in (lambda: ECE(bins=0), lambda: expected_calibration_error(probability, target, bins=0)):
        with pytest.raises(ConfigError, match="bins must be positive; got 0"):
            call()


def test_without_samples_there_is_no_value() -> None:
    metric = MCE()
    metric.update(torch.tensor([0.5, 0.7]), torch.tensor([255, 255]))
    with pytest.raises(MetricUndefinedError, match="MCE needs scored samples; got none"):
        metric.compute()


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 10, 15, 100])
def test_values_beside_edges_in_pieces_and_between_others(bins: int) -> None:
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    beside = [edges.nextafter(torch.full_like(edges, end)) for end in (0.0, 1.0)]
    values = torch.cat([edges, *beside, edges.float().double(), torch.rand(1000, dtype=torch.float64)])
    # In pieces as all at once, with samples that are not scored between them.
    values = values.repeat(70_000 // len(values) + 1)
    target = torch.randint(2, values.shape)
    target[::5] = 255
    found = reliability(values, target, bins=bins)
    index = torch.bucketize(values, edges[1:-1])[target < 254]
    assert torch.equal(found.answers, index.bincount(minlength=bins))
    assert torch.equal(found.correct, index[target[target < 254] == 1].bincount(minlength=bins))
    torch.testing.assert_close(found.confidence, index.bincount(weights=values[target < 254], minlength=bins))
