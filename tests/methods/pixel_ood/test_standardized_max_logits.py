"""Standardized max logits: borders and smoothing against slow references, statistics of classes."""

from __future__ import annotations

import pytest
import torch

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pixel_ood.standardized_max_logits import (
    boundaries,
    boundary_schedule,
    class_statistics,
    dilate,
    max_logit_sums,
    smooth_dilated,
    standardized_max_logit,
    suppress_boundaries,
)


@pytest.mark.parametrize(("width", "steps", "radii"), [(4, 4, [3, 2, 1, 0]), (4, 2, [3, 0]), (4, 1, [0]), (0, 4, [])])
def test_boundary_schedule(width, steps, radii):
    assert boundary_schedule(width, steps) == radii


@pytest.mark.parametrize(("width", "steps"), [(4, 3), (-4, 4), (4, 0)])
def test_boundary_steps_must_divide_the_width(width, steps):
    with pytest.raises(ConfigError, match="must divide"):
        boundary_schedule(width, steps)


def test_one_class_has_no_border_and_two_halves_have_two_columns():
    label = torch.zeros(1, 1, 6, 8)
    assert not boundaries(label).any()
    label[..., 4:] = 1
    border = boundaries(label)
    assert border[..., 3:5].all()
    assert int(border.sum()) == 2 * 6


def test_a_border_is_grown_by_a_plus_and_shrunk_by_a_square():
    label = torch.zeros(1, 1, 6, 6)
    label[..., 3:, 3:] = 1
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[3:, 3] = expected[3, 3:] = True  # inside, against any of the nine neighbours
    expected[3:, 2] = expected[2, 3:] = True  # outside, against the four: the corner (2, 2) is no border
    assert torch.equal(boundaries(label)[0, 0], expected)


def test_dilation_is_the_ball_of_the_sum_of_absolute_distances():
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    mask[0, 0, 4, 4] = True
    y, x = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    for radius in (0, 1, 3):
        assert torch.equal(dilate(mask, radius)[0, 0], (y - 4).abs() + (x - 4).abs() <= radius)


def test_a_border_takes_the_mean_of_its_outer_neighbours():
    value, label = torch.full((1, 1, 8, 16), 5.0), torch.zeros(1, 1, 8, 16)
    value[..., 7:9] = -3
    label[..., 8:] = 1
    assert torch.allclose(suppress_boundaries(value, label, width=4, steps=4), torch.full_like(value, 5.0))


def test_without_a_border_nothing_changes():
    value = torch.randn(2, 1, 7, 9)
    assert torch.equal(suppress_boundaries(value, torch.ones(2, 1, 7, 9), width=4, steps=4), value)


def slow_suppression(value, label, radii):
    border = boundaries(label)[0, 0]
    value = value[0, 0].clone()
    height, width = value.shape
    for radius in radii:
        masked = dilate(border[None, None], radius)[0, 0]
        new = value.clone()
        for i in range(height):
            for j in range(width):
                around = [
                    (min(max(i + a, 0), height - 1), min(max(j + b, 0), width - 1))
                    for a in (-1, 0, 1)
                    for b in (-1, 0, 1)
                ]
                free = [float(value[place]) for place in around if not masked[place]]
                if masked[i, j] and free:
                    new[i, j] = sum(free) / len(free)
        value = new
    return value


def test_suppression_equals_a_loop_over_pixels():
    value, label = torch.randn(1, 1, 12, 13), (torch.rand(1, 1, 3, 3) * 3).floor()
    label = torch.nn.functional.interpolate(label, size=(12, 13), mode="nearest")
    fast = suppress_boundaries(value, label, width=4, steps=2)
    assert torch.allclose(fast[0, 0], slow_suppression(value, label, [3, 0]), atol=1e-5)


def test_dilated_smoothing_keeps_constants_and_spreads_an_impulse_in_steps_of_six():
    assert torch.allclose(smooth_dilated(torch.full((1, 1, 9, 11), 2.5)), torch.full((1, 1, 9, 11), 2.5))
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[0, 0, 20, 20] = 1
    spread = smooth_dilated(impulse)[0, 0]
    assert float(spread.sum()) == pytest.approx(1)
    weights = [0.004433, 0.054006, 0.242036, 0.399050]
    row = [float(spread[20, 20 - 6 * step]) / weights[3] for step in (3, 2, 1, 0)]
    assert row == pytest.approx(weights, abs=1e-5)
    assert set(spread.nonzero()[:, 1].tolist()) == {2, 8, 14, 20, 26, 32, 38}


def test_statistics_of_classes_equal_a_loop_and_standardise_their_own_logits():
    logits = torch.rand(2, 3, 6, 5)
    halves = [max_logit_sums(part) for part in logits.split(1)]
    mean, variance = class_statistics(*(first + second for first, second in zip(*halves, strict=True)))
    largest, index = logits.max(1)
    value, label = standardized_max_logit(logits, mean, variance)
    assert torch.equal(label.squeeze(1), index)
    for number in range(3):
        members = largest[index == number].double()
        assert float(mean[number]) == pytest.approx(float(members.mean()), rel=1e-5)
        assert float(variance[number]) == pytest.approx(float(members.var()), rel=1e-4)
        own = value[label == number]
        assert (float(own.mean()), float(own.std())) == (pytest.approx(0, abs=1e-4), pytest.approx(1, rel=1e-4))
