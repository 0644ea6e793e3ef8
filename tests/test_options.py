"""The sentence about an option that does not exist."""

from __future__ import annotations

import copy
import inspect

import pytest

from anomaly_suite.options import ChecksOptions, UnknownOptionError


class Small(ChecksOptions):
    def __init__(self, *, side: int = 1) -> None:
        self.side = side


class Open(ChecksOptions):
    def __init__(self, **anything: int) -> None:
        self.anything = anything


class Bare(ChecksOptions):
    pass


def test_a_wrong_option_names_the_nearest_or_all() -> None:
    with pytest.raises(UnknownOptionError, match=r"^Small has no option 'sides'. Did you mean 'side'[?]$"):
        Small(sides=3)  # type: ignore[call-arg]
    with pytest.raises(UnknownOptionError, match=r"^Small has no option 'zzz'. It takes side.$"):
        Small(zzz=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Small(1)  # type: ignore[misc]


def test_right_options_open_signatures_and_copies_go_through() -> None:
    assert Small(side=2).side == 2
    assert Open(any=1).anything == {"any": 1}
    assert copy.deepcopy(Small(side=5)).side == 5
    assert list(inspect.signature(Small).parameters) == ["side"]
    assert isinstance(Bare(), Bare)
