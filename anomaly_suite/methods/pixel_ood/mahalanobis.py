"""Mahalanobis distance of features to the nearest known class.

Paper: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018,
    arXiv:1807.03888.
Reference: described by our notes; no code was read.
Differs: a covariance for each class is an option; the paper shares one. Covariances get a ridge of 1e-4 of their mean diagonal.
Axes: B batch, Y classes, D features, h and w cells, N sampled cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-4  # of the covariance, as a share of its mean diagonal


def class_sums(feature: Tensor, label: Tensor, *, num_classes: int, per_class: bool) -> list[Tensor]:
    """Number, sum and products of features by class.

    Args:
        feature: Shape (N, D), float64.
        label: Classes, shape (N,).
        num_classes: Y.
        per_class: Products of each class, or of all features together.

    Returns:
        Shapes (Y,), (Y, D), and (Y, D, D) or (1, D, D).
    """
    width = feature.shape[1]
    count = label.bincount(minlength=num_classes).double()
    total = feature.new_zeros(num_classes, width).index_add_(0, label, feature)
    if not per_class:
        return [count, total, (feature.T @ feature).unsqueeze(0)]
    product = feature.new_zeros(num_classes, width, width)
    for index in count.nonzero().flatten().tolist():
        members = feature[label == index]
        product[index] = members.T @ members
    return [count, total, product]


def fit_gaussians(count: Tensor, total: Tensor, product: Tensor, *, per_class: bool) -> tuple[Tensor, Tensor]:
    """Means of the classes, and the inverse Cholesky factors of their covariances.

    Args:
        count: From :func:`class_sums`, shape (Y,).
        total: Shape (Y, D).
        product: Shape (Y, D, D) or (1, D, D).
        per_class: A covariance for each class, or one around all means.

    Returns:
        Means (Y, D), and factors (Y, D, D) or (1, D, D), float32.
    """
    mean = total / count.clamp_min(1).unsqueeze(1)
    if per_class:
        spread = product - count.view(-1, 1, 1) * mean.unsqueeze(2) * mean.unsqueeze(1)
        covariance = spread / count.clamp_min(1).view(-1, 1, 1)
    else:
        covariance = (product - torch.einsum("c,cd,ce->de", count, mean, mean)) / count.sum()
    scale = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    eye = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)
    factor = torch.linalg.cholesky(covariance + RIDGE * scale.view(-1, 1, 1) * eye)
    inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    # The order in memory decides the rounding of products.
    return mean.float(), inverse.float().contiguous()


def nearest_class_distance(feature: Tensor, mean: Tensor, whitening: Tensor, present: Tensor) -> Tensor:
    """Squared Mahalanobis distance to the nearest class.

    Args:
        feature: Shape (B, D, h, w).
        mean: Shape (Y, D).
        whitening: Inverse Cholesky factors, shape (Y, D, D), or (1, D, D) for all classes.
        present: Classes that have statistics, bool, shape (Y,).

    Returns:
        Shape (B, 1, h, w); infinite where no class is present.
    """
    shared = len(whitening) == 1
    flat = feature.movedim(1, -1).flatten(0, -2)  # cells D
    nearest = flat.new_full((len(flat),), torch.inf)
    for index in range(len(mean)):  # all of them: which are there is not known to a graph
        if not shared or index == 0:
            # In float32 also where the module, and with it the statistics, is in half precision.
            factor = whitening[0 if shared else index].float()
            white = flat @ factor.T
        distance = (white - factor @ mean[index].float()).square().sum(1)
        nearest = torch.minimum(nearest, distance.where(present[index], torch.inf))
    return nearest.view(feature.shape[0], 1, *feature.shape[2:])
