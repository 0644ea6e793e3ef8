from __future__ import annotations

import pytest
import torch

from anomaly_suite.metrics import AUROC
from anomaly_suite.metrics.curve import make_curve


@pytest.mark.parametrize("exact", [True, False])
def test_the_curve_counts_every_threshold(exact: bool) -> None:
    metric = AUROC(exact=exact)
    metric.update(torch.tensor([3.0, -1.0, 2.0, 2.0, 0.5]), torch.tensor([1, 0, 1, 0, 0]))
    curve = metric.curve()
    assert curve.threshold.tolist() == [3.0, 2.0, 0.5, -1.0]
    assert curve.true.tolist() == [1, 2, 2, 2]
    assert curve.false.tolist() == [0, 1, 2, 3]
    assert len(AUROC(exact=exact).curve().threshold) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8])
def test_a_curve_is_sorted_counted_and_its_own(dtype: torch.dtype) -> None:
    position, one = torch.tensor([5, 3, 4, 3], dtype=dtype), torch.ones(4, dtype=torch.int32)
    curve = make_curve(position, torch.tensor([1, 0, 0, 1]), one, torch.tensor([0.5, 0, 0, 0.25]))
    assert curve.threshold.tolist() == [5, 4, 3]
    assert [part.tolist() for part in curve[1:]] == [[1, 1, 2], [1, 2, 4], [0.5, 0.5, 0.75]]
    falling = torch.tensor([3, 2, 1, 0], dtype=dtype)
    make_curve(falling, one, one, one).threshold.fill_(7)
    assert falling.tolist() == [3, 2, 1, 0]
