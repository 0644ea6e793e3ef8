"""Mahalanobis distance to the nearest class against its formula."""

from __future__ import annotations

import pytest
import torch
from scene_cases import blobs

from anomaly_suite.methods.pixel_ood.mahalanobis import class_sums, fit_gaussians, nearest_class_distance


def distances(features, target, query, *, per_class: bool = False) -> torch.Tensor:
    """Of a map (1, D, h, w) of queries, after a fit in two parts."""
    flat, label = features[0].flatten(1).T.double(), target.flatten()
    halves = [
        class_sums(flat[rows], label[rows], num_classes=3, per_class=per_class)
        for rows in (slice(None, 500), slice(500, None))
    ]
    count, *sums = (first + second for first, second in zip(*halves, strict=True))
    return nearest_class_distance(query, *fit_gaussians(count, *sums, per_class=per_class), count > 0)


def slow_distance(features, target, query, *, per_class: bool) -> torch.Tensor:
    flat, label = features[0].flatten(1).T.double(), target.flatten()
    means = [flat[label == number].mean(0) for number in range(3)]
    spreads = [
        (flat[label == number] - means[number]).T @ (flat[label == number] - means[number]) for number in range(3)
    ]
    distances = []
    for number in range(3):
        own = spreads[number] / (label == number).sum() if per_class else sum(spreads) / len(flat)
        own = own + 1e-4 * own.diagonal().mean() * torch.eye(3, dtype=torch.float64)
        gap = query.double() - means[number]
        distances.append((gap @ own.inverse() * gap).sum(1))
    return torch.stack(distances).amin(0)


@pytest.mark.parametrize("per_class", [False, True])
def test_distance_equals_the_formula(per_class):
    features, target = blobs()
    query = torch.randn(50, 3) * 4
    fast = distances(features, target, query.T.view(1, 3, 5, 10), per_class=per_class).flatten()
    assert torch.allclose(fast.double(), slow_distance(features, target, query, per_class=per_class), rtol=1e-3)


def test_members_are_as_far_as_they_have_dimensions():
    features, target = blobs(3000)
    assert float(distances(features, target, features).mean()) == pytest.approx(3, abs=0.2)


def test_standard_normal_features_are_256_away_and_identity_is_the_euclidean_distance():
    feature = torch.randn(1, 256, 50, 60, generator=torch.Generator().manual_seed(1))
    found = nearest_class_distance(feature, torch.zeros(1, 256), torch.eye(256)[None], torch.ones(1, dtype=torch.bool))
    assert torch.allclose(found, feature.square().sum(1, keepdim=True), rtol=1e-4)
    assert float(found.mean()) == pytest.approx(256, rel=0.01)


def test_a_class_that_is_not_present_is_never_the_nearest():
    mean, query = torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)
    eye = torch.eye(2)[None]
    assert float(nearest_class_distance(query, mean, eye, torch.tensor([True, True]))) == 0
    assert float(nearest_class_distance(query, mean, eye, torch.tensor([True, False]))) == 25
    assert float(nearest_class_distance(query, mean, eye, torch.tensor([False, False]))) == torch.inf
