"""Kinds of option values by their annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from anomaly_suite.annotations import annotations_of, describe, fits
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import ADACL
from anomaly_suite.options import ChecksOptions

Choice = Literal["first", "second"]


class OfAStranger(ChecksOptions):
    def __init__(self, *, loss: Choice = "first") -> None:
        self.loss = loss


class Unreadable:
    def __init__(self, *, value: Nowhere) -> None:  # type: ignore[name-defined] # noqa: F821
        """An annotation that exists for type checkers alone."""


@pytest.mark.parametrize(
    ("value", "annotation", "fine"),
    [
        ("first", Choice, True),
        ("frist", Choice, False),
        (True, Literal[1, 3], False),
        (None, Choice | None, True),
        (Path("a"), str, True),
        (3, str, False),
        (np.True_, bool, True),
        ("yes", bool, False),
        (np.float32(2), float, True),
        ("2", int | float, False),
        ([1, 2], tuple[int, int], True),
        ((1, 2, 3), tuple[int, int], False),
        ((), tuple[int, ...], True),
        (np.arange(3), Sequence[int], True),
        (range(3), Sequence[int], True),
        ("123", Sequence[str], False),
        (["a", 3], list[str], False),
        ({"a": 1}, Sequence[int], False),
        ({"a": 1}, Mapping[str, int], True),
        (3, dict[str, int], False),
        (len, Callable[..., Any], True),
        (3, Callable[..., Any], False),
        (torch.nn.ReLU(), torch.nn.Module | None, True),
        (3, torch.nn.Module | None, False),
        (object(), Any, True),
    ],
)
def test_values_of_a_kind(value: Any, annotation: Any, fine: bool) -> None:
    assert fits(value, annotation) is fine


def test_kinds_in_words() -> None:
    assert describe(int | tuple[int, int] | None) == "a whole number, a list of 2 (a whole number) or null"
    assert describe(Choice | bool) == "'first', 'second' or true or false"
    assert describe(Sequence[Choice]) == "a list ('first' or 'second')"
    assert describe(torch.nn.Module) == "Module"


def test_the_sentence_has_the_choices_and_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"^labels must be 'continuous' or 'discrete'; got 'continous'\. Did you mean 'continuous'\?$"
    ):
        ADACL(labels="continous")  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"^widths must be a list of 4 \(a whole number\); got 4\. Give ADACL such a value\.$"
    ):
        ADACL(widths=4)  # type: ignore[arg-type]


def test_classes_of_ones_own_and_unreadable_annotations_are_left_alone() -> None:
    assert OfAStranger(loss="third").loss == "third"  # type: ignore[arg-type]
    assert annotations_of(Unreadable) == {}
