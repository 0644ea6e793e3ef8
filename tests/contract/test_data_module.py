"""Options and splits of the base data module."""

from __future__ import annotations

from typing import Any

import pytest

from anomaly_suite.contract import AnomalyDataModule
from anomaly_suite.errors import ConfigError


class TestDataModuleOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"train_batch_size": 0}, "train_batch_size must be at least 1"),
            ({"val_size": 0}, "val_size must be a fraction"),
            ({"val_size": 1.0}, "val_size must be a fraction"),
        ],
    )
    def test_impossible_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            AnomalyDataModule(**options)

    def test_hold_out_is_seeded_and_disjoint(self) -> None:
        train, val = AnomalyDataModule(val_size=0.25, seed=1).hold_out(20)
        assert len(val) == 5
        assert sorted(train + val) == list(range(20))
        assert AnomalyDataModule(val_size=5, seed=1).hold_out(20) == (train, val)
        assert AnomalyDataModule(val_size=5, seed=2).hold_out(20) != (train, val)
        assert AnomalyDataModule(validation="none").hold_out(3) == ([0, 1, 2], [])

    def test_hold_out_must_leave_something(self) -> None:
        with pytest.raises(ConfigError, match="leaves no training item out of 4"):
            AnomalyDataModule(val_size=4).hold_out(4)


class SetUpByHand(AnomalyDataModule):
    def setup(self, stage: str | None = None) -> None:
        """Forgets the splits."""


def test_a_setup_that_leaves_no_splits_is_named() -> None:
    with pytest.raises(ConfigError, match=r"SetUpByHand.setup must set self.splits; it is None"):
        SetUpByHand().test_dataloader()


def test_callbacks_find_every_declared_attribute() -> None:
    data = AnomalyDataModule(validation="augmented")
    assert (data.root, data.classes, data.validation, data.validated_on) == (None, (), "augmented", None)
