from __future__ import annotations

import pytest
import torch
from torchmetrics import MetricCollection

from anomaly_suite.errors import MetricUndefinedError, ShapeError
from anomaly_suite.metrics import FAR, Accuracy, Dice, IoU, Sensitivity, Specificity
from anomaly_suite.metrics.decision import DecisionMetric

EXPECTED = {  # TP 2 FP 2 FN 3 TN 5
    Accuracy: 7 / 12,
    Sensitivity: 2 / 5,
    Specificity: 5 / 7,
    FAR: 2 / 7,
    IoU: 2 / 7,
    Dice: 4 / 9,
}
DECIDED = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
TARGET = torch.tensor([1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("metric", list(EXPECTED))
@pytest.mark.parametrize("size", [1, 5, 12])
def test_hand_values_in_any_split(metric: type[DecisionMetric], size: int) -> None:
    filled = metric()
    for decided, target in zip(DECIDED.split(size), TARGET.split(size), strict=True):
        filled.update(decided.bool(), target)
    assert float(filled.compute()) == pytest.approx(EXPECTED[metric], abs=1e-12)


def test_a_collection_shares_one_state() -> None:
    collection = MetricCollection([metric() for metric in EXPECTED])
    for shape in ((3, 1, 2, 2), (12,)):
        collection.update(DECIDED.view(shape), TARGET.view(shape).bool())
    values = collection.compute()
    assert {name: float(value) for name, value in values.items()} == pytest.approx(
        {metric.__name__: value for metric, value in EXPECTED.items()}, abs=1e-12
    )
    assert len(collection.compute_groups) == 1


@pytest.mark.parametrize(
    ("metric", "target", "message"),
    [
        (Sensitivity, 0, "Sensitivity needs anomalous samples; got 3 normal and 0 anomalous"),
        (IoU, 0, "IoU needs anomalous samples"),
        (Dice, 0, "Dice needs anomalous samples"),
        (Specificity, 1, "Specificity needs normal samples; got 0 normal and 3 anomalous"),
        (FAR, 1, "FAR needs normal samples; got 0 normal and 3 anomalous"),
    ],
)
def test_missing_samples_have_no_value(metric: type[DecisionMetric], target: int, message: str) -> None:
    filled = metric()
    filled.update(torch.tensor([0, 1, 1]), torch.full((3,), target))
    with pytest.raises(MetricUndefinedError, match=message):
        filled.compute()


def test_nothing_and_nonsense_are_refused() -> None:
    metric = Accuracy()
    metric.update(torch.empty(0).bool(), torch.empty(0).bool())
    with pytest.raises(MetricUndefinedError, match="Accuracy needs samples; got 0 normal and 0 anomalous"):
        metric.compute()
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        metric.update(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"1 values do not\. Apply the threshold first"):
        metric.update(torch.tensor([0.0, 0.7]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="target must hold only 0"):
        metric.update(torch.tensor([0, 1]), torch.tensor([0, 255]))
