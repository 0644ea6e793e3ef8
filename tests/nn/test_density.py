"""Densities against scikit-learn and worked values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from anomaly_suite.nn.density import (
    BANDWIDTHS,
    SupportVectors,
    fit_gaussian,
    fit_support_vectors,
    kernel_distance,
    likely_bandwidth,
    negative_log_density,
    outside,
    principal_axes,
    spread_gamma,
    squared_distances,
)
from anomaly_suite.nn.shrinkage import FeatureMoments

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(120, 6, generator=GENERATOR) * torch.tensor([3.0, 2, 1, 1, 0.5, 0.1])
TEST = torch.randn(40, 6, generator=GENERATOR) * 2


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    rows, feature = ROWS.double() + 1000, TEST.double() + 1000
    expected = ((feature.unsqueeze(1) - rows) ** 2).sum(2)
    torch.testing.assert_close(squared_distances(feature, rows), expected, rtol=1e-9, atol=1e-9)
    found = squared_distances(feature.float(), rows.float())  # the inputs themselves are rounded to 6e-5
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("bandwidth", [0.1, 0.7, 4.0])
def test_kernel_density_is_that_of_scikit_learn(bandwidth: float) -> None:
    # In one leaf: where trees are descended, sums of tiny kernels lose terms (scikit-learn 1.8).
    theirs = (
        -KernelDensity(bandwidth=bandwidth, leaf_size=500)
        .fit(ROWS.double().numpy())
        .score_samples(TEST.double().numpy())
    )
    ours = negative_log_density(TEST.double(), ROWS.double(), bandwidth=torch.tensor(bandwidth, dtype=torch.float64))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    single = negative_log_density(TEST, ROWS, bandwidth=torch.tensor(bandwidth))
    np.testing.assert_allclose(single, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


def test_the_bandwidth_is_the_likeliest_of_five_folds() -> None:
    rows = ROWS.double()
    tried = [float(((rows - rows.mean(0)) ** 2).mean().sqrt()) * factor for factor in BANDWIDTHS]
    order = np.argsort(np.arange(len(rows)) % 5, kind="stable")  # folds of scikit-learn are blocks
    search = GridSearchCV(KernelDensity(leaf_size=500), {"bandwidth": tried}, cv=KFold(5)).fit(rows.numpy()[order])
    assert float(likely_bandwidth(rows)) == pytest.approx(search.best_params_["bandwidth"])
    assert float(likely_bandwidth(ROWS[:2])) > 0
    assert math.isfinite(float(likely_bandwidth(torch.zeros(4, 3))))


@pytest.mark.parametrize("nu", [0.01, 0.1, 0.5, 0.9])
def test_support_vectors_are_those_of_scikit_learn(nu: float) -> None:
    gamma = spread_gamma(ROWS)
    theirs = OneClassSVM(gamma="scale", nu=nu, tol=1e-6).fit(ROWS.double().numpy())
    assert float(gamma) == pytest.approx(theirs._gamma, rel=1e-6)
    support = fit_support_vectors(ROWS, nu=nu, gamma=gamma)
    assert float(support.weight.sum()) == pytest.approx(1, abs=1e-6)
    expected = -theirs.decision_function(TEST.double().numpy()) / theirs.dual_coef_.sum()
    np.testing.assert_allclose(outside(TEST, support, gamma=gamma), expected, atol=1e-6)
    empty = torch.full((3, 6), torch.nan)
    padded = SupportVectors(
        torch.cat([support.rows, empty]), torch.cat([support.weight, torch.zeros(3)]), support.offset
    )
    torch.testing.assert_close(
        outside(TEST, padded, gamma=gamma), outside(TEST, support, gamma=gamma), rtol=0, atol=1e-6
    )


def test_nu_is_the_share_outside() -> None:
    rows = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    gamma = spread_gamma(rows)
    support = fit_support_vectors(rows, nu=0.2, gamma=gamma)
    share = float((outside(rows, support, gamma=gamma) > 1e-5).float().mean())
    assert 0.15 <= share <= 0.2
    assert len(support.rows) >= 0.2 * 400


def test_gamma_and_the_distance_by_kernels() -> None:
    bank = torch.cat([ROWS[:5], torch.full((2, 6), torch.nan)])
    assert float(spread_gamma(bank, scale=10.0)) == pytest.approx(
        10 / (6 * float(ROWS[:5].var(correction=0))), rel=1e-5
    )
    one = torch.nn.functional.normalize(ROWS[:1], dim=1)
    feature = torch.nn.functional.normalize(TEST, dim=1)
    torch.testing.assert_close(kernel_distance(feature, one), ((feature - one) ** 2).sum(1), rtol=1e-4, atol=1e-5)


def test_one_gaussian() -> None:
    moments = FeatureMoments(6, device=ROWS.device)
    moments.add(ROWS)
    theirs = LedoitWolf().fit(ROWS.double().numpy())
    for ridge, covariance in ((None, theirs.covariance_), (0.5, np.cov(ROWS.double().numpy().T) + 0.5 * np.eye(6))):
        found = fit_gaussian(moments, ridge=ridge)
        assert found is not None
        mean, whitening = found
        np.testing.assert_allclose(mean, ROWS.double().mean(0))
        np.testing.assert_allclose(whitening.T @ whitening, np.linalg.inv(covariance), rtol=1e-6, atol=1e-9)
    alike = FeatureMoments(2, device=ROWS.device)
    alike.add(torch.ones(4, 2))
    assert fit_gaussian(alike, ridge=0.0) is None


@pytest.mark.parametrize("shape", [(50, 6), (4, 6)])  # more rows than columns, and fewer
@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_principal_axes(shape: tuple[int, int], share: float) -> None:
    rows = ROWS[: shape[0]].double()
    centred = rows - rows.mean(0)
    axes = principal_axes(centred, share=share)
    theirs = PCA(n_components=share if share < 1 else min(shape[0] - 1, 6), svd_solver="full").fit(rows.numpy())
    width = theirs.n_components_
    assert axes.shape[1] in (width, width + (share == 1.0 and shape[0] < 6))  # an axis of no variance may count at 1
    np.testing.assert_allclose(np.abs(centred @ axes)[:, :width], np.abs(theirs.transform(rows.numpy())), atol=1e-8)
    np.testing.assert_allclose((axes.T @ axes)[:width, :width], np.eye(width), atol=1e-9)
