from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_suite.nn.sliding_window import sliding_windows, window_places, window_starts


@pytest.mark.parametrize(
    ("side", "window", "stride", "expected"),
    [
        (1024, 800, 534, [0, 224]),
        (2048, 800, 534, [0, 534, 1068, 1248]),
        (1600, 800, 800, [0, 800]),
        (800, 800, 534, [0]),
        (500, 800, 534, [0]),
        (801, 800, 534, [0, 1]),
    ],
)
def test_windows_of_the_published_evaluator(side: int, window: int, stride: int, expected: list[int]) -> None:
    assert window_starts(side, window, stride) == expected


@pytest.mark.parametrize("blend", ["uniform", "tapered"])
@pytest.mark.parametrize(
    ("window", "stride"), [((5, 7), (5, 7)), ((6, 4), (2, 3)), ((5, 50), (3, 1)), ((13, 17), (4, 4))]
)
def test_weights_sum_to_one_everywhere(blend: Any, window: tuple[int, int], stride: tuple[int, int]) -> None:
    ones = sliding_windows(torch.ones_like, torch.zeros(2, 3, 13, 17), window=window, stride=stride, blend=blend)
    torch.testing.assert_close(ones, torch.ones(2, 3, 13, 17))
    image = torch.rand(2, 3, 13, 17)
    same = sliding_windows(lambda x: x, image, window=window, stride=stride, blend=blend)
    torch.testing.assert_close(same, image)


@pytest.mark.parametrize("blend", ["uniform", "tapered"])
def test_overlaps_are_the_weighted_mean_of_a_slow_loop(blend: Any) -> None:
    image, window, stride = torch.rand(1, 1, 9, 11), (4, 6), (3, 2)
    ramp = torch.arange(24.0).view(1, 1, 4, 6)  # what a window says of a pixel depends on the window
    total, weights = np.zeros((9, 11)), np.zeros((9, 11))
    for top in window_starts(9, 4, 3):
        for left in window_starts(11, 6, 2):
            for row in range(4):
                for column in range(6):
                    taper = (min(row, 3 - row) + 1) * (min(column, 5 - column) + 1) if blend == "tapered" else 1
                    place = (top + row, left + column)
                    total[place] += taper * (image[0, 0][place].item() + 6 * row + column)
                    weights[place] += taper
    found = sliding_windows(lambda x: x + ramp, image, window=window, stride=stride, blend=blend)
    np.testing.assert_allclose(found[0, 0].numpy(), total / weights, rtol=1e-5)


def test_windows_come_one_after_another_in_their_size() -> None:
    shapes: list[tuple[int, ...]] = []

    def note(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return x[:, :1]

    sliding_windows(note, torch.rand(2, 3, 10, 20), window=(6, 8), stride=(4, 6))
    assert shapes == [(2, 3, 6, 8)] * 6


def test_places_are_the_windows_row_by_row() -> None:
    image = torch.arange(6 * 10.0).view(1, 1, 6, 10)
    found = [image[place] for place in window_places((6, 10), (4, 20), (2, 5))]
    assert [tuple(part.shape) for part in found] == [(1, 1, 4, 10)] * 2
    assert [float(part[0, 0, 0, 0]) for part in found] == [0.0, 20.0]
