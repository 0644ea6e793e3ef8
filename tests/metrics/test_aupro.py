from __future__ import annotations

import numpy as np
import pytest
import torch
from metric_references import planted_maps, slow_aupro, slow_regions, tensors
from torchmetrics import MetricCollection

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.metrics import AP, AUPRO, AUROC, aupro
from anomaly_suite.metrics.regions import region_weights


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_equals_a_loop_over_thresholds_and_regions(limit: float, ties: bool) -> None:
    for seed in range(3):
        maps, masks = planted_maps(4, 18, seed=seed)
        maps = np.round(maps) if ties else maps
        expected = slow_aupro(maps, masks, limit)
        assert float(aupro(*tensors(maps, masks), max_fpr=limit)) == pytest.approx(expected, abs=1e-9)
        metric = AUPRO(max_fpr=limit)
        for part, truth in zip(*(t[:, None].split(3) for t in tensors(maps, masks)), strict=True):
            metric.update(part, truth.long())
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-9)


def test_known_values_on_sixty_maps() -> None:
    """Values of scikit-learn 1.9 and of an independent numpy computation on these maps."""
    maps, masks = tensors(*planted_maps(60, 256))
    assert float(aupro(maps, masks)) == pytest.approx(0.638607, abs=5e-7)
    members = {"AUPRO": AUPRO(exact=False), "AUROC": AUROC(exact=False), "AP": AP(exact=False)}
    collection = MetricCollection(members, compute_groups=[list(members)])
    for part, truth in zip(maps.split(32), masks.split(32), strict=True):
        collection.update(part, truth)
    values = {name: float(value) for name, value in collection.compute().items()}
    assert values == pytest.approx({"AUPRO": 0.638607, "AUROC": 0.852298, "AP": 0.262406}, abs=5e-6)


def test_hand_values() -> None:
    mask = torch.tensor([[[1, 0, 1, 1, 0, 0]]])
    score = torch.tensor([[[6.0, 3.0, 5.0, 2.0, 4.0, 1.0]]])
    # points (FPR, overlap): (0, .5) (0, .75) (1/3, .75) (2/3, .75) (2/3, 1) (1, 1)
    assert float(aupro(score, mask, max_fpr=1.0)) == pytest.approx(0.75 * 2 / 3 + 1 / 3, abs=1e-12)
    assert float(aupro(score, mask, max_fpr=0.5)) == pytest.approx(0.75, abs=1e-12)
    tied = torch.tensor([[[3.0, 1.0, 2.0, 2.0, 2.0, 2.0]]])  # (0, .5) (2/3, 1) (1, 1)
    assert float(aupro(tied, mask, max_fpr=1 / 3)) == pytest.approx((0.5 + 0.75) / 2, abs=1e-12)


def test_regions_are_eight_connected_and_weigh_one_each() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((6, 12, 9)) < 0.3
    masks[2] = False
    weights = np.zeros(masks.shape)
    for index, mask in enumerate(masks):
        for region in slow_regions(mask):
            for pixel in region:
                weights[index][pixel] = 1 / len(region)
    assert np.array_equal(region_weights(torch.from_numpy(masks)).numpy(), weights[masks])
    diagonal = torch.eye(3, dtype=torch.bool)[None, None]
    assert region_weights(diagonal).tolist() == [1 / 3] * 3
    assert region_weights(torch.zeros(2, 1, 3, 3, dtype=torch.bool)).numel() == 0


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(B, H, W\) or \(B, 1, H, W\); got \(6,\)"):
        AUPRO().update(torch.rand(6), torch.ones(6))
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4, 4\)"):
        aupro(torch.rand(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
    for value in (0.0, 1.5):
        with pytest.raises(ConfigError, match="max_fpr must be above 0"):
            AUPRO(max_fpr=value)
