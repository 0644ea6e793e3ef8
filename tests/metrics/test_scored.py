from __future__ import annotations

import pytest
import torch

from anomaly_suite.errors import ShapeError
from anomaly_suite.metrics import AP, scored_pixels


def test_void_is_left_out_and_the_order_kept() -> None:
    score = torch.arange(12.0).view(2, 1, 2, 3)
    ood = torch.tensor([[[0, 255, 1], [255, 255, 0]], [[255] * 3] * 2], dtype=torch.uint8)
    found, truth = scored_pixels(score, ood)
    assert found.tolist() == [0, 2, 5]
    assert truth.tolist() == [False, True, False]
    assert truth.dtype == torch.bool
    nothing = scored_pixels(score[1:], ood[1:])
    assert [len(part) for part in nothing] == [0, 0]
    metric = AP(exact=False)
    for part in (nothing, (found, truth), nothing):
        metric.update(*part)
    assert float(metric.compute()) == 0.5


def test_maps_are_resized_to_the_labels_and_labels_never() -> None:
    score = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]], dtype=torch.float16)
    ood = torch.tensor([[[0, 0, 1, 1], [0, 255, 1, 0]]], dtype=torch.uint8)
    found, truth = scored_pixels(score, ood)
    # Pixel centres: columns at -1/4 (clamped to 0), 1/4, 3/4 and 5/4 (clamped to 1) of the small map, rows are its own.
    assert found.tolist() == [0, 0.25, 0.75, 1, 2, 2.75, 3]
    assert found.dtype == torch.float32
    assert truth.tolist() == [False, False, True, True, False, True, False]


def test_what_does_not_fit_is_refused() -> None:
    score, ood = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)
    with pytest.raises(ShapeError, match=r"got \(2, 4, 4\) and \(2, 4, 4\)"):
        scored_pixels(score[:, 0], ood)
    with pytest.raises(ShapeError, match=r"with the same B; got \(1, 1, 4, 4\)"):
        scored_pixels(score[:1], ood)
    with pytest.raises(ValueError, match=r"only 0 \(normal\), 1 \(anomalous\) and 255 \(not scored\); got 254"):
        scored_pixels(score, ood + 254)
