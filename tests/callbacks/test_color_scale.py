"""One scale for all pictures, with its numbers."""

from __future__ import annotations

import math

import pytest
import torch

from anomaly_suite.callbacks.color_scale import ColorScale, range_of
from anomaly_suite.contract import Calibration


def fitted(**record: float) -> ColorScale:
    calibration = Calibration()
    calibration.set("pixel", **record)  # type: ignore[arg-type]
    return ColorScale(calibration, calibrated=True)


def test_the_threshold_is_in_the_middle_and_marked() -> None:
    scale = fitted(threshold=3.0, low=1.0, high=11.0)
    assert scale(torch.tensor([[0.0, 1.0], [2.0, 3.0]])).tolist() == [[0.0, 0.0], [0.25, 0.5]]
    ticks = scale.ticks()
    assert [tick.text for tick in ticks] == ["1", "3", "5", "33"]
    assert [tick.is_threshold for tick in ticks] == [False, True, False, False]
    assert [tick.place for tick in ticks] == pytest.approx([0.0, 0.5, 0.75, 0.9])


def test_without_threshold_a_range_leaves_room_above() -> None:
    scale = ColorScale.spanning(2.0, 6.0)
    assert scale(torch.tensor([2.0, 3.0, 4.0])).tolist() == [0.0, 0.25, 0.5]
    assert [tick.text for tick in scale.ticks()][:3] == ["2", "4", "6"]
    assert not any(tick.is_threshold for tick in scale.ticks())


@pytest.mark.parametrize(
    ("scale", "numbers"),
    [
        (fitted(threshold=2.0, low=2.0, high=2.0), ["0", "2", "4", "32"]),
        (ColorScale.spanning(0.0, 0.0), ["-1", "0", "1", "15"]),
        (fitted(threshold=2.0, low=2.0, high=2.5), ["1.5", "2", "2.5", "9.5"]),
        (fitted(threshold=math.inf, low=2.0, high=3.0), ["2", "3"]),
        (fitted(threshold=-math.inf, low=2.0, high=3.0), ["2", "3"]),
        (fitted(threshold=1e30, low=-1e30, high=2e30), ["-1e+30", "1e+30", "3e+30", "3.1e+31"]),
    ],
)
def test_the_numbers_stand_where_their_colours_are(scale: ColorScale, numbers: list[str]) -> None:
    ticks = scale.ticks()
    assert [tick.text for tick in ticks] == numbers
    places = scale(torch.tensor([float(text) for text in numbers], dtype=torch.float64)).tolist()
    assert [tick.place for tick in ticks] == pytest.approx(places, abs=1e-6)
    assert places == sorted(places)


def test_what_is_no_number_has_the_highest_colour() -> None:
    assert ColorScale.spanning(0.0, 1.0)(torch.tensor([math.nan, math.inf, -math.inf])).tolist() == [1, 1, 0]


def test_ranges_are_those_of_finite_scores() -> None:
    assert range_of(torch.tensor([math.nan, 2.0, -1.0, math.inf], dtype=torch.bfloat16)) == (-1.0, 2.0)
    assert range_of(torch.tensor([math.nan])) == (0.0, 1.0)
    assert range_of(torch.zeros(0, 3)) == (0.0, 1.0)
