"""Ranges of option values by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from anomaly_suite.contract import AnomalyDataModule
from anomaly_suite.errors import ConfigError
from anomaly_suite.options import ChecksOptions
from anomaly_suite.ranges import NAMES, RANGES, Range, check_values, range_of


class OfAStranger(ChecksOptions):
    """A class of one's own: only names that can mean nothing else are checked."""

    def __init__(self, lr: float = 1.0, *, low: float = 0.0, sizes: Sequence[int] = (), **more: Any) -> None:
        self.low = low


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("lr", -1, "at least 0"),
        ("lr", 1e30, "at most 1000"),
        ("lr", math.nan, "a finite number and at least 0"),
        ("lr", -math.inf, "a finite number and at least 0"),
        ("latent_dim", 0, "at least 1"),
        ("latent_dim", -3, "at least 1"),
        ("latent_dim", 2.5, "a whole number and at least 1"),
        ("latent_dim", 10**12, "at most 65536"),
        ("noise_std", math.nan, "a finite number and at least 0"),
        ("num_workers", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("dropout", 1.0, "in [0, 1)"),
        ("betas", (0.9, 1.5), "in [0, 1)"),
        ("image_size", (32, 0), "at least 1"),
        ("any_weight", -0.5, "at least 0"),
        ("of_no_range", math.inf, "a finite number"),
        ("lr", np.float32("nan"), "a finite number and at least 0"),
    ],
)
def test_the_sentence_has_name_range_and_value(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_values("Method", {name: value}, {})
    assert str(raised.value) == f"{name} must be {wanted}; got {value!r}. Give Method such a value."


@pytest.mark.parametrize("value", ["0.1", None, [0.1]])
def test_an_option_of_one_number_takes_nothing_else(value: Any) -> None:
    check_values("Method", {"lr": value}, {"lr": "float | str | None"})
    with pytest.raises(ConfigError, match="lr must be a finite number and at least 0; got"):
        check_values("Method", {"lr": value}, {"lr": "float"})


def test_what_works_passes() -> None:
    fine = {
        "lr": 1e-3,
        "seed": 2**40,
        "weight_decay": 0,
        "image_size": (1, 2),
        "name": "nan",
        "on": True,
        "margin_in": -12.0,
    }
    check_values("Method", {**fine, "latent_dim": np.int64(3), "lr_milestones": [], "weights": None}, {})


def test_a_class_of_ones_own_names_its_options_as_it_likes() -> None:
    assert OfAStranger(low=-5, sizes=[-1], depth=-1).low == -5
    with pytest.raises(ConfigError, match=r"lr must be at least 0; got -1\. Give OfAStranger such a value"):
        OfAStranger(-1)
    with pytest.raises(ConfigError, match="num_workers must be at least 0; got -1"):
        OfAStranger(num_workers=-1)


def test_every_name_of_the_base_is_checked() -> None:
    with pytest.raises(ConfigError, match="seed must be at least 0; got -1"):
        AnomalyDataModule(seed=-1)


def test_every_range_refuses_what_is_no_number() -> None:
    assert len(RANGES) == sum(len(names.split()) for names in NAMES.values()) > 80  # none stands twice
    for name in RANGES:
        assert not any(range_of(name).holds(value) for value in (math.nan, math.inf, -math.inf, -1)), name
    assert Range().holds(-1e300)
