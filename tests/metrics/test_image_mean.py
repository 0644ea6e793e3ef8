"""Means over scenes against scikit-learn, in batches and merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torchmetrics import MetricCollection

from anomaly_suite.errors import ConfigError, MetricUndefinedError
from anomaly_suite.metrics.image_mean import ImageMean, OfImage

GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.randn(5, 1, 6, 8, generator=GENERATOR)
MASKS = torch.randint(0, 2, (5, 6, 8), generator=GENERATOR, dtype=torch.uint8)
MASKS[:, 0] = 255
MASKS[3] = 0  # a scene without an anomaly
MAPS[1] += 100  # scores of one scene say nothing about another


def theirs(metric: OfImage) -> float:
    values = []
    for anomaly_map, mask in zip(MAPS[:, 0], MASKS, strict=True):
        score, truth = anomaly_map[mask != 255].numpy(), mask[mask != 255].numpy()
        if truth.any():
            false, true, _ = roc_curve(truth, score, drop_intermediate=False)
            fpr95 = false[np.flatnonzero(true >= 0.95)[0]]
            values.append(
                {"AUROC": roc_auc_score(truth, score), "AP": average_precision_score(truth, score), "FPR95": fpr95}[
                    metric
                ]
            )
    assert len(values) == 4
    return float(np.mean(values))


@pytest.mark.parametrize("metric", ["AUROC", "AP", "FPR95"])
def test_it_is_the_mean_of_the_scenes_that_have_both_kinds(metric: OfImage) -> None:
    whole, first, second = (ImageMean(metric=metric) for _ in range(3))
    whole.update(MAPS, MASKS)
    first.update(MAPS[:2], MASKS[:2])
    second.update(MAPS[2:], MASKS[2:])
    first.merge_state(second)
    assert float(whole.compute()) == pytest.approx(theirs(metric), abs=1e-12)
    assert float(first.compute()) == pytest.approx(theirs(metric), abs=1e-12)
    assert float(whole.error_bound()) == 0


def test_what_has_no_value() -> None:
    metric = ImageMean(metric="AP")
    metric.update(MAPS[3:4], MASKS[3:4])
    with pytest.raises(MetricUndefinedError, match="AP needs a scene with normal and anomalous pixels"):
        metric.compute()
    with pytest.raises(ConfigError, match="metric must be 'AUROC', 'AP' or 'FPR95'; got 'F1Max'"):
        ImageMean(metric="F1Max")  # type: ignore[arg-type] # on purpose
    with pytest.raises(ConfigError, match="kept with metric=AUROC; got metric=AP"):
        ImageMean(metric="AUROC").merge_state(metric)


def test_in_one_collection_each_has_a_state_of_its_own() -> None:
    """States are equal after a scene without an anomaly, by which torchmetrics would take them for the same."""
    names: tuple[OfImage, ...] = ("AUROC", "AP", "FPR95")
    together = MetricCollection({name: ImageMean(metric=name) for name in names})
    for rows in (slice(3, 4), slice(0, 3), slice(4, 5)):
        together.update(MAPS[rows], MASKS[rows])
    assert {name: float(value) for name, value in together.compute().items()} == pytest.approx(
        {name: theirs(name) for name in names}, abs=1e-12
    )
