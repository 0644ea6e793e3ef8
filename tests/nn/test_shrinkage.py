from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from anomaly_suite.nn.shrinkage import FeatureMoments

DATA = (
    torch.randn(30, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 3, 50) + 2
)


def moments(*parts: torch.Tensor) -> FeatureMoments:
    found = FeatureMoments(50, device=torch.device("cpu"))
    for part in parts:
        found.add(part)
    return found


def test_it_is_sklearns_estimate() -> None:
    reference = LedoitWolf().fit(DATA.numpy())
    found = moments(*DATA.split(7))
    np.testing.assert_allclose(found.mean, reference.location_, rtol=1e-10)
    np.testing.assert_allclose(found.shrunk_covariance(), reference.covariance_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.covariance(), np.cov(DATA.T), rtol=1e-8, atol=1e-10)


def test_sums_of_processes_add_up() -> None:
    whole, first, second = moments(DATA), moments(DATA[:11]), moments(DATA[11:])
    others = iter(list(vars(second).values()))
    first.merge(lambda value: value + next(others))
    torch.testing.assert_close(first.shrunk_covariance(), whole.shrunk_covariance(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [2, 5])
def test_equal_features_have_no_spread(count: int) -> None:
    found = moments(torch.ones(count, 50))
    assert torch.equal(found.shrunk_covariance(), torch.zeros(50, 50, dtype=torch.float64))
