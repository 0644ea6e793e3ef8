"""Graphs over the snippets of a video: the checks of GCN-Anomaly's card, normalisation and convolutions against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from anomaly_suite.nn.label_graph import GraphBranch, LabelGraph, normalized, similarity_graph, temporal_graph

VERTEX = torch.tensor([[True, True, False, True, True, False]])
ALL = torch.ones(1, 6, dtype=torch.bool)


def slow_normalized(adjacency: list[list[float]]) -> list[list[float]]:
    degree = [sum(row) for row in adjacency]
    return [
        [value / math.sqrt(degree[i] * degree[j]) if degree[i] and degree[j] else 0.0 for j, value in enumerate(row)]
        for i, row in enumerate(adjacency)
    ]


@pytest.mark.parametrize("vertex", [ALL, VERTEX])
def test_temporal_graph_equals_a_loop(vertex: Tensor) -> None:
    (held,) = vertex.tolist()
    slow = [[math.exp(-abs(i - j)) * held[i] * held[j] for j in range(6)] for i in range(6)]
    found = temporal_graph(vertex)[0]
    torch.testing.assert_close(found, torch.tensor(slow_normalized(slow)), rtol=1e-5, atol=1e-7)  # float32 distances
    assert torch.allclose(found, found.T, atol=1e-7)  # products in two orders
    assert float(torch.linalg.eigvalsh(found.double()).abs().max()) <= 1 + 1e-6


def test_similarity_graph_equals_a_loop() -> None:
    hidden = torch.randn(1, 6, 3, dtype=torch.float64)
    (held,), rows = VERTEX.tolist(), hidden[0].tolist()
    slow = [[0.0] * 6 for _ in range(6)]
    for i in range(6):
        products = {j: sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) for j in range(6) if held[j]}
        for j, product in products.items():
            slow[i][j] = math.exp(product - max(products.values())) * held[i]
    found = similarity_graph(hidden, VERTEX)[0]
    torch.testing.assert_close(found, torch.tensor(slow_normalized(slow), dtype=torch.float64), rtol=1e-8, atol=1e-8)
    rows_of_one = similarity_graph(hidden, VERTEX, kind="softmax")[0]
    assert rows_of_one.sum(1).tolist() == pytest.approx([float(one) for one in held])
    assert rows_of_one[:, ~VERTEX[0]].eq(0).all()


def test_identical_features_give_a_uniform_graph() -> None:
    for kind in ("max", "softmax"):
        found = similarity_graph(torch.ones(1, 6, 3), VERTEX, kind=kind)[0]  # type: ignore[arg-type]
        assert torch.allclose(found[VERTEX[0]][:, VERTEX[0]], torch.full((4, 4), 0.25))


def test_large_products_do_not_overflow() -> None:
    hidden = (100 * torch.randn(1, 6, 3)).requires_grad_()
    found = similarity_graph(hidden, VERTEX)
    found.sum().backward()
    assert found.isfinite().all()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


def test_rows_without_edges_stay_empty() -> None:
    found = normalized(torch.tensor([[[0.0, 0, 0], [0, 2, 2], [0, 2, 2]]]))
    assert torch.equal(found, torch.tensor([[[0, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]]]))


def test_without_edges_between_snippets_a_branch_is_a_perceptron() -> None:
    branch, hidden = GraphBranch(width=4).double(), torch.randn(1, 6, 4, dtype=torch.float64)
    found = branch(hidden, torch.eye(6, dtype=torch.float64).unsqueeze(0))
    assert torch.allclose(found, ((hidden @ branch.first).relu() @ branch.second).squeeze(2))
    assert branch.first.abs().max() <= 32**-0.5
    assert branch.second.abs().max() <= 1


def test_branch_equals_a_loop() -> None:
    branch, hidden = GraphBranch(width=4, hidden=3).double(), torch.randn(1, 5, 4, dtype=torch.float64)
    adjacency = torch.rand(1, 5, 5, dtype=torch.float64)
    first, second = branch.first.tolist(), branch.second.tolist()
    x, edge = hidden[0].tolist(), adjacency[0].tolist()

    def convolved(value: list[list[float]], weight: list[list[float]]) -> list[list[float]]:
        mixed = [[sum(row[d] * weight[d][h] for d in range(len(row))) for h in range(len(weight[0]))] for row in value]
        return [[sum(edge[i][j] * mixed[j][h] for j in range(5)) for h in range(len(weight[0]))] for i in range(5)]

    inner = [[max(0.0, value) for value in row] for row in convolved(x, first)]
    slow = [row[0] for row in convolved(inner, second)]
    assert branch(hidden, adjacency)[0].tolist() == pytest.approx(slow, abs=1e-8)


def test_other_snippets_do_not_matter_to_vertices() -> None:
    model = LabelGraph(feature_dim=5, hidden=(8, 4), dropout=0.5).eval()
    features = torch.randn(2, 6, 5)
    vertex = torch.cat([VERTEX, ALL])
    changed = features.clone()
    changed[0, ~VERTEX[0]] = 7
    assert torch.allclose(model(features, vertex), model(changed, vertex))
    assert model(features, vertex)[0, ~VERTEX[0]].eq(0).all()
    assert torch.allclose(model(3 * features, vertex), model(features, vertex), atol=1e-6)  # rows have length 1
