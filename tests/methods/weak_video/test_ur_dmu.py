"""UR-DMU: memories and losses against loops in float64, the whole step against the formula, padding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_suite.methods import URDMU
from anomaly_suite.methods.weak_video.ur_dmu import (
    Memory,
    cross_entropy,
    distance_loss,
    divergence,
    draw,
    memory_loss,
    selected,
    top_snippets,
    triplet_loss,
)


def tiny(**options: Any) -> URDMU:
    small: dict[str, Any] = {"feature_dim": 6, "width": 8, "depth": 1, "heads": 2, "head_width": 4, "dropout": 0.0}
    return URDMU(**{**small, "normal_items": 17, "anomalous_items": 5, "segments": 20, **options})


def double(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


# Parts -------------------------------------------------------------------------------------------------------------------


def test_memory_equals_a_loop() -> None:
    memory, x = Memory(items=17, width=4).double(), torch.randn(1, 3, 4, dtype=torch.float64)
    strength, read = memory(x)
    items = memory.items.tolist()
    for t, row in enumerate(x[0].tolist()):
        weight = [1 / (1 + math.exp(-sum(a * b for a, b in zip(row, item, strict=True)) / 2)) for item in items]
        best = sorted(weight, reverse=True)[:2]  # of 17
        assert float(strength[0, t]) == pytest.approx(sum(best) / 2, rel=1e-6)  # float32
        expected = [sum(w * item[d] for w, item in zip(weight, items, strict=True)) for d in range(4)]
        assert read[0, t].tolist() == pytest.approx(expected, abs=1e-8)
    assert memory.items.abs().max() <= 0.5


def test_memory_loss_equals_a_loop() -> None:
    own, like, calm, other = double(2, 20), double(2, 20), double(3, 20), double(3, 20)
    slow = 0.0
    for row in range(2):
        slow -= math.log(sum(sorted(own[row].tolist())[-2:]) / 2) / 2
        slow -= math.log(1 - sum(sorted(like[row].tolist())[:2]) / 2) / 2
    slow -= sum(math.log(value) for value in calm.flatten().tolist()) / 60
    slow -= sum(math.log(1 - value) for value in other.flatten().tolist()) / 60
    assert float(memory_loss(own, like, calm, other)) == pytest.approx(slow, abs=1e-8)


def test_cross_entropy_is_bounded() -> None:
    wrong = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = cross_entropy(wrong, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.isfinite()
    assert wrong.grad is not None
    assert wrong.grad.isfinite().all()


def test_triplet_loss_equals_a_loop() -> None:
    parts = [double(3, 4) for _ in range(3)]
    slow = 0.0
    for row in range(3):
        unit = [
            [value / math.sqrt(sum(v * v for v in part[row].tolist())) for value in part[row].tolist()]
            for part in parts
        ]
        near, far = (
            math.sqrt(sum((a - b + 1e-6) ** 2 for a, b in zip(unit[0], other, strict=True))) for other in unit[1:]
        )  # torch adds 1e-6 to differences
        slow += max(0.0, near - far + 1) / 3
    assert float(triplet_loss(*parts)) == pytest.approx(slow, abs=1e-8)


def test_divergence_equals_a_loop() -> None:
    mean, log_variance = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    slow = 0.0
    for m, v in zip(mean.flatten().tolist(), log_variance.flatten().tolist(), strict=True):
        slow -= 0.5 * (1 + v - m**2 - math.exp(v)) / (2 * 4)
    assert float(divergence(mean, log_variance)) == pytest.approx(slow, abs=1e-8)
    assert float(divergence(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))) == 0


def test_draws_have_the_mean_and_the_variance() -> None:
    found = draw(torch.full((1, 20_000), 2.0), torch.full((1, 20_000), math.log(9.0)), torch.Generator().manual_seed(0))
    assert float(found.mean()) == pytest.approx(2, abs=0.1)  # five standard errors
    assert float(found.std()) == pytest.approx(3, abs=0.1)


def test_distance_loss_equals_a_loop() -> None:
    normal, anomalous = 60 * double(2, 4), 60 * double(2, 4)
    slow = 0.0
    for row in range(2):
        lengths = [math.sqrt(sum(v * v for v in part[row].tolist())) for part in (normal, anomalous)]
        slow += max(0.0, 100 - lengths[1] + lengths[0]) / 2
    assert float(distance_loss(normal, anomalous, margin=100.0)) == pytest.approx(slow, abs=1e-8)


def test_selected_snippets() -> None:
    assert [selected(count) for count in (1, 4, 5, 15, 16, 200, 300)] == [1, 1, 1, 1, 2, 13, 19]
    weight = torch.rand(2, 20)
    features = torch.rand(2, 20, 3)
    for row in range(2):
        best = sorted(range(20), key=lambda t: -float(weight[row, t]))[:2]
        assert torch.allclose(top_snippets(features, weight)[row], features[row, best].mean(0))


# The step ----------------------------------------------------------------------------------------------------------------


def test_terms_equal_those_of_each_video_by_itself() -> None:
    """Two crops, unequal classes; what is random is switched off."""
    model = tiny()
    torch.nn.init.constant_(model.log_variance.weight, 0)
    torch.nn.init.constant_(model.log_variance.bias, -60)
    batch = {"snippet_features": torch.rand(5, 2, 20, 6), "label": torch.tensor([0, 0, 0, 1, 1])}
    bags = model.bags({**batch, "length": torch.full((5,), 20)})  # type: ignore[typeddict-item]
    found = model.losses(bags, torch.Generator())
    weights, features, drawn, score = [], [], [], []
    for row in range(5):
        own, other = ("normal", "anomalous") if row < 3 else ("anomalous", "normal")
        x = model.encode(bags.snippet_features[row : row + 1], torch.tensor([20]))
        (own_weight, own_read), (other_weight, other_read) = model.memories[own](x), model.memories[other](x)
        weights.append((own_weight.mean(0), other_weight.mean(0)))
        features.append([top_snippets(x, weight).mean(0) for weight in (own_weight, other_weight)])
        drawn.append(top_snippets(model.mean(own_read), own_weight).mean(0))
        enlarged = model.mean(own_read) + model.mean(other_read)
        score.append(model.classifier(torch.cat([x, enlarged], 2)).mean(0))
    bag = [float(each.topk(2).values.mean()) for each in score]
    entropy = -sum(math.log(1 - value) for value in bag[:3]) / 5 - sum(math.log(value) for value in bag[3:]) / 5
    assert float(found.classification) == pytest.approx(entropy, rel=1e-4)
    own, other = (torch.stack([each[i] for each in weights]) for i in (0, 1))
    assert float(found.memory) == pytest.approx(float(memory_loss(own[3:], other[3:], own[:3], other[:3])), rel=1e-5)
    anchor, positive, negative = (
        torch.stack([features[row][part] for row in rows]) for rows, part in (((0, 1), 0), ((3, 4), 1), ((3, 4), 0))
    )
    assert float(found.triplet) == pytest.approx(float(triplet_loss(anchor, positive, negative)), rel=1e-5)
    far = distance_loss(torch.stack(drawn[:2]), torch.stack(drawn[3:]), margin=100.0)
    assert float(found.distance) == pytest.approx(float(far), rel=1e-5)
    total = model.training_step(batch, 0)  # type: ignore[arg-type]
    weighted = 0.1 * found.memory + 0.1 * found.triplet + 1e-3 * found.divergence + 1e-4 * found.distance
    assert float(total) == pytest.approx(float(found.classification + weighted), rel=1e-4)


def test_normal_features_are_drawn_from_the_generator_of_the_step() -> None:
    model = tiny()
    bags = model.bags(
        {"snippet_features": torch.rand(2, 1, 20, 6), "length": torch.tensor([20, 20]), "label": torch.tensor([0, 1])}
    )
    first, again, other = (
        float(model.losses(bags, torch.Generator().manual_seed(seed)).classification.detach()) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_padding_changes_no_score() -> None:
    model, x = tiny().eval(), torch.rand(1, 2, 5, 6)
    padded = torch.cat([x, torch.full((1, 2, 4, 6), torch.nan)], 2)
    assert torch.allclose(model(padded, torch.tensor([5]))[1][0, :5], model(x)[1][0], atol=1e-5)
    for snippets in (1, 4, 300):
        assert model(torch.rand(1, 1, snippets, 6))[1].shape == (1, snippets)
