"""Impossible values are refused with their names, by every method, data module, callback and metric."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_runs
from lightning.pytorch import Callback
from torchmetrics import Metric

import anomaly_suite.callbacks
import anomaly_suite.data
import anomaly_suite.methods
import anomaly_suite.metrics
from anomaly_suite.contract import AnomalyDataModule
from anomaly_suite.errors import AnomalySuiteError, ConfigError
from anomaly_suite.ranges import range_of

NUMBER = re.compile(r"\b(int|float|Size|ImageSize)\b")
HUGE = 10**12
NEEDED = {"MeanIoU": {"num_classes": 3}}


def classes() -> Iterator[Any]:
    for package, base in (
        (anomaly_suite.methods, object),
        (anomaly_suite.data, AnomalyDataModule),
        (anomaly_suite.callbacks, Callback),
        (anomaly_suite.metrics, Metric),
    ):
        for name in package.__all__:
            kind = getattr(package, name)
            if isinstance(kind, type) and issubclass(kind, base):
                yield kind


def impossible(kind: type) -> Iterator[tuple[str, Any]]:
    """Names of options of numbers, each with values that cannot work."""
    for name, parameter in inspect.signature(kind.__init__).parameters.items():  # type: ignore[misc]
        written = str(parameter.annotation)
        if not NUMBER.search(written) or "Callable" in written or "Any" in written or "Mapping" in written:
            continue
        values: list[Any] = [math.nan, math.inf, -math.inf]
        wanted = range_of(name)
        values += [value for value in (-1, 0, HUGE) if not wanted.holds(value)]
        alone = {part.strip() for part in written.split("|")} & {"int", "float", "Size", "ImageSize"}
        yield from ((name, value if alone else (value, value)) for value in values)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_option_of_a_number_refuses_what_cannot_work(kind: type) -> None:
    seen = set()
    for name, value in impossible(kind):
        with pytest.raises(ConfigError, match=re.escape(f"; got {value!r}")) as raised:
            kind(**{name: value})
        assert str(raised.value).startswith(f"{name} must be ")
        seen.add(name)
    if issubclass(kind, AnomalyDataModule):
        assert {"num_workers", "eval_batch_size"} <= seen


@pytest.mark.parametrize(
    "kind", [kind for kind in classes() if kind.__module__.split(".")[1] != "methods"], ids=lambda kind: kind.__name__
)
def test_what_has_no_range_by_its_name_works_or_is_refused(kind: type) -> None:
    """Never an error of Python in the middle of the constructor; with values of its own it says the values."""
    for name, value in impossible(kind):
        several = isinstance(value, tuple)
        for number in (-1, 0):
            with contextlib.suppress(AnomalySuiteError):
                kind(**{**NEEDED.get(kind.__name__, {}), name: (number, number) if several else number})


@pytest.mark.parametrize("name", tiny_runs.METHODS)
def test_numbers_of_methods_have_ranges(name: str) -> None:
    """A new option of a number has a range by its name, or may be any finite number, which its method then says here."""
    free = {"margin_in", "margin_out", "zeta", "top_k", "nu", "num_channels"}
    kind = getattr(anomaly_suite.methods, name)
    open_ended = {option for option, value in impossible(kind) if value in (-1, (-1, -1))}
    numbers = {option for option, _ in impossible(kind)}
    assert numbers - open_ended <= free | {"layers"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("weight_decay", -1e-3),
        ("latent_dim", 0),
        ("latent_dim", -3),
    ],
)
def test_the_options_that_many_methods_share(name: str, value: Any) -> None:
    shared = [kind for kind in classes() if name in inspect.signature(kind.__init__).parameters]
    assert len(shared) >= 3
    for kind in shared:
        with pytest.raises(ConfigError, match=f"{name} must be"):
            kind(**{name: value})
