"""Labels and masks that are no numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import as_batch
from anomaly_suite.contract.numbers import as_numbers
from anomaly_suite.errors import ShapeError

IMAGE = torch.rand(2, 1, 4, 4)


@pytest.mark.parametrize("label", ["good", ["good", "bad"], [None, 1], {"a": 1}, np.array(["0", "1"])], ids=str)
def test_labels_that_are_no_numbers(label: Any) -> None:
    with pytest.raises(
        ShapeError,
        match=r"^label must be a tensor, or numbers .*; got .*Map names to numbers in the data set: 0 is normal",
    ):
        as_batch({"image": IMAGE, "label": label})
    with pytest.raises(ShapeError, match=r"^label must be a tensor"):
        as_batch({"snippet_features": IMAGE[:, 0], "label": label})


@pytest.mark.parametrize("name", ["mask", "target", "ood_mask"])
def test_labels_of_pixels_that_are_no_numbers(name: str) -> None:
    with pytest.raises(ShapeError, match=f"^{name} must be a tensor, or numbers"):
        as_batch({"image": IMAGE, name: ["a.png", "b.png"]})


def test_numbers_of_all_kinds() -> None:
    for value in ([0, 1], np.array([0, 1]), torch.tensor([0, 1]), (0.0, 1.0)):
        assert as_numbers(value, "label", torch.device("cpu")).tolist() == [0, 1]
