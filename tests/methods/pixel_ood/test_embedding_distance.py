"""Distances to the nearest cells against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from anomaly_suite.methods.pixel_ood import embedding_distance
from anomaly_suite.methods.pixel_ood.embedding_distance import nearest_cell_distance, uniform_keys


@pytest.mark.parametrize("neighbours", [1, 3, 50])
def test_the_mean_distance_to_the_nearest(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    feature, bank = torch.randn(2, 5, 4, 6, generator=generator) + 30, torch.randn(20, 5, generator=generator) + 30
    found = nearest_cell_distance(feature, bank, neighbours=neighbours)
    flat = feature.double().movedim(1, -1).flatten(0, 2).numpy()
    theirs = NearestNeighbors(n_neighbors=min(neighbours, 20)).fit(bank.double().numpy()).kneighbors(flat)[0].mean(1)
    np.testing.assert_allclose(found.flatten(), theirs, rtol=1e-4)  # float32, around the mean of the bank
    assert found.shape == (2, 1, 4, 6)
    monkeypatch.setattr(embedding_distance, "CELLS_AT_ONCE", 7)
    # Products of other sizes are rounded otherwise.
    torch.testing.assert_close(nearest_cell_distance(feature, bank, neighbours=neighbours), found, rtol=1e-4, atol=1e-5)


def test_keys_differ_and_repeat() -> None:
    first, again = (uniform_keys(1000, torch.Generator().manual_seed(1), torch.device("cpu")) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.unique()) == 1000
