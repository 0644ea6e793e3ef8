"""Options of the trainer out of their ranges."""

from __future__ import annotations

from typing import Any

import pytest
from jsonargparse import Namespace

from anomaly_suite.cli.trainer_options import check_trainer, require_end
from anomaly_suite.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("max_epochs", -2, "at least -1"),
        ("max_steps", -2, "at least -1"),
        ("min_epochs", -1, "at least 0"),
        ("accumulate_grad_batches", 0, "at least 1"),
        ("check_val_every_n_epoch", 0, "at least 1"),
        ("val_check_interval", 0, "above 0"),
        ("num_sanity_val_steps", -2, "at least -1"),
        ("gradient_clip_val", -0.5, "at least 0"),
    ],
)
def test_numbers_out_of_their_range(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"^trainer\.{name} must be {wanted}; got {value}\. Give it such a value\.$"):
        check_trainer(Namespace(**{name: value}))


def test_what_works_passes() -> None:
    check_trainer(
        Namespace(max_epochs=-1, min_epochs=None, val_check_interval=0.5, devices="auto", max_time={"hours": 1})
    )


@pytest.mark.parametrize("devices", [99999, "99999"])
def test_no_machine_has_so_many_devices(devices: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^trainer\.devices must be at most \d+ on this machine; got 99999\. Give as many"
    ):
        check_trainer(Namespace(devices=devices))
    for there in (2, "2", "0,1", [0, 1], -1, "auto", None):
        check_trainer(Namespace(devices=there))


def test_the_least_is_not_above_the_most() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.min_epochs must be at most trainer\.max_epochs; got 5 and 2"):
        check_trainer(Namespace(min_epochs=5, max_epochs=2))


@pytest.mark.parametrize("settings", [3, [3], None])
def test_a_group_is_a_mapping(settings: Any) -> None:
    with pytest.raises(ConfigError, match=r"^trainer must be a mapping of options to values; got"):
        check_trainer(settings)


NO_END: dict[str, Any] = {"max_epochs": None, "max_steps": -1, "max_time": None, "fast_dev_run": False}


def test_a_fit_that_nothing_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^fit needs to know when to end; got neither trainer\.max_epochs nor"):
        require_end(Namespace(**NO_END), single_pass=False)
    require_end(Namespace(**NO_END), single_pass=True)


@pytest.mark.parametrize(
    "end",
    [{"max_epochs": -1}, {"max_epochs": 3}, {"max_steps": 9}, {"max_time": "00:01:00:00"}, {"fast_dev_run": True}],
)
def test_anything_may_end_a_fit(end: dict[str, Any]) -> None:
    require_end(Namespace(**{**NO_END, **end}), single_pass=False)
