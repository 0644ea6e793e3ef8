"""CLAWS: suppression over time, clusters, losses against loops in float64, runs at the end of a video."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import CLAWS
from anomaly_suite.methods.weak_video.claws import Suppression, cluster_losses, run_losses, two_means


def tiny(**options: Any) -> CLAWS:
    return CLAWS(**{"feature_dim": 6, "hidden": (8, 4), "dropout": 0.0, "segments": 4, **options})


# Suppression -------------------------------------------------------------------------------------------------------------


def test_suppression_is_a_share_of_time() -> None:
    part, x = Suppression(feature_dim=6, width=5, run=4, rescale=False), torch.randn(2, 4, 6)
    weight = part.suppression(x)
    assert torch.allclose(weight.sum(1), torch.ones(2, 5))
    assert torch.allclose(part.suppression(torch.ones(1, 4, 6)), torch.full((1, 4, 5), 0.25))
    assert torch.allclose(part(x), (part.layer(x) * part.attention(x).softmax(1)).relu())
    scaled = Suppression(feature_dim=6, width=5, run=4, rescale=True)
    scaled.load_state_dict(part.state_dict())
    assert torch.allclose(scaled.suppression(x), 4 * weight)


@pytest.mark.parametrize("rescale", [False, True])
def test_a_short_run_keeps_the_mean_of_the_suppression(rescale: bool) -> None:
    part, x = Suppression(feature_dim=6, width=5, run=4, rescale=rescale), torch.randn(3, 4, 6)
    held = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    weight = part.suppression(x, held)
    assert torch.allclose(weight[0], part.suppression(x[:1])[0])
    assert torch.allclose(weight[1, :2], part.suppression(x[1:2, :2])[0], atol=1e-6)
    assert torch.allclose(weight[1, :2].mean(0), torch.full((5,), 1.0 if rescale else 0.25))
    assert weight[1, 2:].eq(0).all()
    assert weight[2].eq(0).all()


def test_order_inside_a_run_does_not_matter() -> None:
    model, x = tiny().eval(), torch.rand(1, 2, 4, 6)
    order = torch.tensor([2, 0, 3, 1])
    _, score = model(x)
    _, turned = model(x[:, :, order])
    assert torch.allclose(turned, score[:, order], atol=1e-6)


# Losses ------------------------------------------------------------------------------------------------------------------


def test_run_losses_equal_loops() -> None:
    score, label = torch.rand(3, 5, dtype=torch.float64), torch.tensor([0, 1, 1])
    rows = score.tolist()
    expected = {
        "regression": sum((s - y) ** 2 for row, y in zip(rows, label.tolist(), strict=True) for s in row) / 15,
        "smoothness": sum((row[t] - row[t + 1]) ** 2 for row in rows for t in range(4)) / 12,
        "sparsity": sum(map(sum, rows)) / 15,
    }
    found = run_losses(score, label)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, abs=1e-8)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def slow_cluster_loss(rows: list[list[float]], members: list[bool], label: int) -> float:
    centers = []
    for flag in (False, True):
        held = [row for row, member in zip(rows, members, strict=True) if member == flag]
        centers.append([sum(column) / len(held) for column in zip(*held, strict=True)])
    middle = [(a + b) / 2 for a, b in zip(*centers, strict=True)]
    if not label:
        return sum(1 - cosine(row, middle) for row in rows) / len(rows)
    reach, found = 0.25 * (1 - cosine(*centers)), []
    for row, member in zip(rows, members, strict=True):
        own, other = centers[member], centers[not member]
        if 1 - cosine(row, own) < reach:
            found.append(0.7 * (1 - cosine(row, own)) + 0.3 * (1 + cosine(row, other)))
    return sum(found) / max(1, len(found))


def test_cluster_losses_equal_a_loop() -> None:
    center = torch.tensor([[3.0, 0, 1, 1], [0, 3, 1, 2]], dtype=torch.float64)
    members = torch.tensor([[0, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 0]])
    hidden = center[members] + 0.4 * torch.rand(2, 6, 4, dtype=torch.float64)
    for label in product((0, 1), repeat=2):
        found = cluster_losses(hidden, torch.tensor(label))
        slow = [slow_cluster_loss(hidden[i].tolist(), (members[i] == 1).tolist(), label[i]) for i in range(2)]
        assert found.tolist() == pytest.approx(slow, abs=1e-8)


def test_no_gradient_goes_through_centers() -> None:
    hidden = (torch.tensor([1.0, 0, 2]) + 0.3 * torch.rand(1, 5, 3)).requires_grad_()
    cluster_losses(hidden, torch.tensor([0])).sum().backward()
    rows = hidden.detach()[0]
    members = two_means(((rows - rows.mean(0)) / rows.std(0, correction=0)).unsqueeze(0))[0]
    middle = (rows[members].mean(0) + rows[~members].mean(0)) / 2
    unit = rows / rows.norm(dim=1, keepdim=True)
    toward = middle / middle.norm()
    expected = -(toward - (unit @ toward).unsqueeze(1) * unit) / rows.norm(dim=1, keepdim=True) / 5
    assert torch.allclose(hidden.grad[0], expected, atol=1e-5)  # type: ignore[index]


def test_clusters_are_the_best_of_all_partitions() -> None:
    points = torch.cat([torch.randn(1, 4, 3), 4 + torch.randn(1, 3, 3)], 1)
    found = two_means(points)[0]

    def spread(members: Tensor) -> float:
        parts = [points[0, members == flag] for flag in (False, True)]
        return sum(float((part - part.mean(0)).square().sum()) for part in parts if len(part))

    best = min((spread(torch.tensor(choice)), choice) for choice in product((False, True), repeat=7))
    assert spread(found) == pytest.approx(best[0], rel=1e-5)


def test_equal_rows_are_one_cluster_without_loss() -> None:
    hidden = torch.rand(2, 1, 4).expand(2, 5, 4).clone().requires_grad_()
    assert not two_means(hidden.detach()).any()
    found = cluster_losses(hidden, torch.tensor([0, 1]))
    assert found.abs().max() < 1e-6
    found.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert cluster_losses(torch.zeros(1, 5, 4), torch.tensor([1])).eq(0).all()


def test_the_cluster_loss_reaches_both_layers_and_not_the_head() -> None:
    model, label = tiny(rescale=True), torch.tensor([0, 1])
    first, second, _ = model.encode(torch.rand(2, 4, 6))
    (cluster_losses(first, label) + cluster_losses(second, label)).sum().backward()
    assert model.head.weight.grad is None
    for layer in (model.first.layer, model.first.attention, model.second.layer):
        assert layer.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_training_step_equals_the_formula() -> None:
    model = tiny(smoothness_weight=0.1, sparsity_weight=0.2, cluster_weight=0.3)
    batch = {"snippet_features": torch.rand(3, 2, 4, 6), "label": torch.tensor([0, 1, 1])}
    expected = 0.0
    for video, label in zip(batch["snippet_features"], batch["label"], strict=True):
        first, second, score = model.encode(video)
        kind = label.expand(2)
        cluster = cluster_losses(first, kind) + cluster_losses(second, kind)
        error, change = (score - label).square().mean(), score.diff(dim=1).square().mean()
        expected += float(error + 0.1 * change + 0.2 * score.mean() + 0.3 * cluster.mean()) / 3
    assert float(model.training_step(batch, 0)) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


# Runs --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippets", [1, 3, 4, 5, 8, 9])
def test_a_video_is_scored_run_by_run(snippets: int) -> None:
    model, x = tiny().eval(), torch.rand(1, 2, snippets, 6)
    padded = torch.cat([F.pad(x, (0, 0, 0, 3), value=math.nan), torch.rand(1, 2, snippets + 3, 6)])
    _, score = model(padded, torch.tensor([snippets, snippets + 3]))
    expected = [model(x[:, :, start : start + 4])[1][0] for start in range(0, snippets, 4)]
    assert torch.allclose(score[0, :snippets], torch.cat(expected), atol=1e-6)
    assert score[0, snippets:].eq(0).all()


def test_the_rate_falls_once() -> None:
    model = tiny(lr_drop_steps=3)
    plan: Any = model.configure_optimizers()
    rates = []
    for _ in range(5):
        rates.append(plan["optimizer"].param_groups[0]["lr"])
        plan["optimizer"].step()
        plan["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 2)
    with pytest.raises(ConfigError, match="segments must be at least 2"):
        tiny(segments=1)
