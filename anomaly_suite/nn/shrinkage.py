"""Covariances of many features from few samples: Ledoit and Wolf's estimate, from sums that can be added up.

Source: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis 2004.

Axes: B batch, D channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class FeatureMoments:
    """Sums over features that mean, covariance and its best shrinkage follow from; those of several processes add up.

    Args:
        channels: D.
        device: Where the sums live.
    """

    def __init__(self, channels: int, *, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.count, self.fourth = zeros(), zeros()  # and the sum of |x|^4
        self.total, self.third = zeros(channels), zeros(channels)  # of x and |x|^2 x
        self.second = zeros(channels, channels)  # of x x'

    def add(self, feature: Tensor) -> None:
        """Take in features (B, D)."""
        x = feature.double()
        length = (x**2).sum(1)
        self.count += len(x)
        self.total += x.sum(0)
        self.second += x.T @ x
        self.third += length @ x
        self.fourth += (length**2).sum()

    def merge(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Add up the sums of all processes, by a function that may overwrite its argument."""
        for name, value in vars(self).items():
            setattr(self, name, sum_over_ranks(value))

    @property
    def mean(self) -> Tensor:
        """Mean (D,), float64."""
        return self.total / self.count

    def covariance(self) -> Tensor:
        """Unbiased sample covariance (D, D), float64, of at least two samples."""
        return self._scatter() / (self.count - 1)

    def shrunk_covariance(self) -> Tensor:
        """Ledoit and Wolf's covariance (D, D), float64: the sample's, moved towards a multiple of the identity."""
        sample, mean = self._scatter() / self.count, self.mean
        identity = torch.eye(len(mean), dtype=sample.dtype, device=sample.device)
        target = sample.diagonal().mean() * identity
        squared = mean @ mean
        # The sum of |x - mean|^4, multiplied out.
        fourth = self.fourth + 4 * (mean @ self.second @ mean) + self.count * squared**2
        fourth += 2 * squared * self.second.trace() - 4 * (mean @ self.third) - 4 * squared * (mean @ self.total)
        distance = ((sample - target) ** 2).sum()
        spread = (fourth / self.count - (sample**2).sum()) / self.count
        share = torch.where(distance > 0, (spread / distance).clamp(0, 1), 0.0)
        return torch.lerp(sample, target, share)

    def _scatter(self) -> Tensor:
        return self.second - torch.outer(self.total, self.mean)
