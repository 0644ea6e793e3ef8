"""Densities of feature vectors whose score needs nothing but tensors: kernels, a one-class SVM, one Gaussian.

Sources: Parzen 1962 (kernel density); Schölkopf et al., "Estimating the support of a high-dimensional distribution", Neural Computation
    2001 (OC-SVM, whose coefficients sum to 1; scikit-learn's sum to ``nu`` times the number of rows); Sohn et al., DROC, ICLR 2021 (gamma).
Axes: B batch, N rows of a sample, M support vectors, D features, K principal axes. Higher is more anomalous.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from sklearn.svm import OneClassSVM
from torch import Tensor

from anomaly_suite.nn.feature_bank import ROWS_AT_ONCE, bank_rows, log_kernels
from anomaly_suite.nn.gaussian import inverse_cholesky
from anomaly_suite.nn.shrinkage import FeatureMoments

KERNEL_SCALE = 10.0  # DROC's gamma, in units of one over the variance of all entries and the number of columns
SMALLEST_VARIANCE = 1e-12  # where all entries are equal
TOLERANCE = 1e-6  # of the solver, so that one solution is found whatever the order of the rows
FOLDS = 5  # of the choice of a bandwidth
BANDWIDTHS = tuple(2 ** (power / 2) for power in range(-8, 5))
"""Bandwidths that are tried, in standard deviations of the features: 1/16 to 4."""


class SupportVectors(NamedTuple):
    """A one-class SVM: vectors (M, D), weights (M,) that sum to 1, and the offset ()."""

    rows: Tensor
    weight: Tensor
    offset: Tensor


# Kernels -----------------------------------------------------------------------------------------------------------


def squared_distances(feature: Tensor, rows: Tensor) -> Tensor:
    """Of all pairs, (B, D) and (N, D) to (B, N), as one product; around the mean of the rows, which keeps the digits."""
    centre = rows.mean(0)
    feature, rows = feature - centre, rows - centre
    lengths = (feature**2).sum(1, keepdim=True) + (rows**2).sum(1)
    return (lengths - 2 * feature @ rows.T).clamp_min(0)


def spread_gamma(rows: Tensor, *, scale: float = 1.0) -> Tensor:
    """``scale`` over the variance of all entries of rows (N, D) and the number of columns, a number (); rows of NaN are empty."""
    columns = rows.shape[1]
    known = ~rows[:, :1].isnan()
    count = known.sum() * columns
    mean = rows.nan_to_num(0).sum() / count
    variance = torch.where(known, rows - mean, 0).square().sum() / count
    return scale / (columns * variance.clamp_min(SMALLEST_VARIANCE))


def kernel_distance(feature: Tensor, bank: Tensor) -> Tensor:
    """``-log(sum of exp(-gamma |feature - row|^2)) / gamma`` over the rows of a bank: the squared distance, where there is one.

    Gamma is 10 over the variance of all entries of the bank and the number of its columns, as DROC has it.

    Args:
        feature: Of length 1, (B, D).
        bank: Shape (M, D); rows of NaN are empty.

    Returns:
        Shape (B,).
    """
    gamma = spread_gamma(bank_rows(bank), scale=KERNEL_SCALE)
    return -log_kernels(feature, bank, gamma=gamma) / gamma


def negative_log_density(feature: Tensor, rows: Tensor, *, bandwidth: Tensor) -> Tensor:
    """Of a Gaussian kernel on every row, what scikit-learn's ``-KernelDensity(bandwidth).score_samples`` is.

    Args:
        feature: Shape (B, D).
        rows: Shape (N, D).
        bandwidth: Deviation of the kernel, ().

    Returns:
        Shape (B,).
    """
    squared = squared_distances(feature, rows)
    constant = math.log(rows.shape[0]) + rows.shape[1] * (bandwidth.log() + math.log(2 * math.pi) / 2)
    return constant - torch.logsumexp(-squared / (2 * bandwidth**2), 1)


def likely_bandwidth(rows: Tensor) -> Tensor:
    """The bandwidth of :data:`BANDWIDTHS` under which held-out rows are likeliest, by five folds; a number ().

    Args:
        rows: Shape (N, D), at least two, in an order that says nothing.
    """
    count, width = rows.shape
    fold = torch.arange(count, device=rows.device) % min(FOLDS, count)
    deviation = ((rows - rows.mean(0)) ** 2).mean().clamp_min(SMALLEST_VARIANCE).sqrt()
    tried = deviation * torch.tensor(BANDWIDTHS, dtype=rows.dtype, device=rows.device)
    likelihood = torch.zeros(len(tried), dtype=torch.float64, device=rows.device)
    for place in torch.split(torch.arange(count, device=rows.device), ROWS_AT_ONCE):
        squared = squared_distances(rows[place], rows)
        squared.masked_fill_(fold[place].unsqueeze(1) == fold, math.inf)
        for index, bandwidth in enumerate(tried):
            found = torch.logsumexp(-squared / (2 * bandwidth**2), 1)
            likelihood[index] += (found - width * bandwidth.log()).sum(dtype=torch.float64)
    return tried[likelihood.argmax()]


# One-class SVM -------------------------------------------------------------------------------------------------------


def fit_support_vectors(rows: Tensor, *, nu: float, gamma: Tensor) -> SupportVectors:
    """Fit scikit-learn's one-class SVM with Gaussian kernels, in float64.

    Args:
        rows: Shape (N, D).
        nu: At most this share of the rows lies outside, at least this share are support vectors.
        gamma: Of the kernel ``exp(-gamma |x - y|^2)``, ().

    Returns:
        In the type and on the device of the rows.
    """
    found = OneClassSVM(kernel="rbf", gamma=float(gamma), nu=nu, tol=TOLERANCE).fit(rows.double().cpu().numpy())
    weight = torch.from_numpy(found.dual_coef_[0])
    total = weight.sum()
    offset = -torch.as_tensor(found.intercept_[0]) / total
    return SupportVectors(rows[torch.from_numpy(found.support_).long()], (weight / total).to(rows), offset.to(rows))


def outside(feature: Tensor, support: SupportVectors, *, gamma: Tensor) -> Tensor:
    """How far features lie outside of a one-class SVM: above 0 outside, at most 0 inside.

    Args:
        feature: Shape (B, D).
        support: Weights of 0 count for nothing, rows of NaN as zeros.
        gamma: ().

    Returns:
        Shape (B,): scikit-learn's ``-decision_function`` over the sum of its coefficients.
    """
    kernel = torch.exp(-gamma * squared_distances(feature, support.rows.nan_to_num(0)))
    return support.offset - kernel @ support.weight


# One Gaussian, and principal axes --------------------------------------------------------------------------------


def fit_gaussian(moments: FeatureMoments, *, ridge: float | None) -> tuple[Tensor, Tensor] | None:
    """Mean (D,) and inverse Cholesky factor (D, D) of a covariance, float64.

    Args:
        moments: Of at least two features.
        ridge: Added to the diagonal of the sample's covariance; None takes Ledoit and Wolf's.

    Returns:
        None where the covariance is singular.
    """
    if ridge is None:
        matrix = moments.shrunk_covariance()
    else:
        matrix = moments.covariance()
        matrix = matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    inverse, failed = inverse_cholesky(matrix.unsqueeze(0))
    return None if bool(failed) else (moments.mean, inverse[0])


def principal_axes(rows: Tensor, *, share: float) -> Tensor:
    """The fewest principal axes that hold a share of the variance.

    Args:
        rows: Shape (N, D), centred.
        share: In (0, 1].

    Returns:
        Orthonormal columns, (D, K), K at least 1, in the type of the rows.
    """
    x = rows.double()
    wide = x.shape[1] > x.shape[0]
    values, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    kept = values.cumsum(0) / values.sum().clamp_min(SMALLEST_VARIANCE)
    count = min(int((kept < share * (1 - 1e-12)).sum()) + 1, len(values))
    axes = torch.nn.functional.normalize(x.T @ vectors[:, :count], dim=0) if wide else vectors[:, :count]
    return axes.to(rows).contiguous()
