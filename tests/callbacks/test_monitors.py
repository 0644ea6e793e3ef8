"""Monitored metrics: impossible ones are refused before the first step, missing ones before Lightning looks for them."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_runs
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from anomaly_suite.callbacks import AnomalyMetrics
from anomaly_suite.contract.monitors import monitors
from anomaly_suite.data import Digits, SyntheticTextures
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import ADACL

SHORT = {"max_epochs": 2, "limit_train_batches": 1, "limit_val_batches": 1}


class Plateau(ADACL):
    """Lowers its learning rate by a metric."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/image_AUROC"}}


def fit(*callbacks: Any, kind: type[ADACL] = ADACL, validation: Any = "holdout", **options: Any) -> Any:
    model = kind(widths=(4, 4, 4, 4), hidden=4)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = tiny_runs.make_trainer(
        callbacks=list(callbacks),
        enable_checkpointing=saves,
        default_root_dir=tiny_runs.FOLDER.name,
        **{**SHORT, **options},
    )
    trainer.fit(model, datamodule=Digits(image_size=8, validation=validation))
    return trainer


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping("val/image_AUROC"),
        ModelCheckpoint(monitor="val/image_F1Max"),
        EarlyStopping("val/bottle/image_AP"),
    ],
    ids=lambda callback: f"{type(callback).__name__}-{callback.monitor}",
)
def test_normals_alone_have_no_ranking(callback: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        fit(callback, AnomalyMetrics(), max_epochs=0)
    assert str(raised.value) == (
        f"{type(callback).__name__} monitors {callback.monitor!r}, which needs normal and anomalous samples; Digits with validation: holdout "
        "validates normal ones only. Monitor val/normal_score or a loss that the method logs, or choose validation: augmented or test."
    )


def test_no_validation_and_pixels_outside_of_it() -> None:
    with pytest.raises(ConfigError, match="validation: none validates nothing"):
        fit(EarlyStopping("val/image_AUROC"), AnomalyMetrics(), validation="none", max_epochs=0)
    with pytest.raises(
        ConfigError, match=r"'val/pixel_AUROC', which validation does not compute\. .*pixel_in_validation"
    ):
        fit(EarlyStopping("val/pixel_AUROC"), AnomalyMetrics(), validation="augmented", max_epochs=0)


def test_a_schedule_that_waits_for_a_ranking() -> None:
    with pytest.raises(
        ConfigError, match="ReduceLROnPlateau monitors 'val/image_AUROC', which needs normal and anomalous"
    ):
        fit(AnomalyMetrics(), kind=Plateau, max_epochs=1)
    with pytest.raises(
        ConfigError,
        match="ReduceLROnPlateau monitors 'val/image_AUROC', which nothing has logged; logged are train/loss",
    ):
        fit(kind=Plateau)


@pytest.mark.parametrize(
    ("callback", "more"),
    [
        (EarlyStopping("val/normal_scor"), "Did you mean 'val/normal_score'?"),
        (EarlyStopping("other", check_on_train_epoch_end=False), "Monitor one of these"),
        (ModelCheckpoint(monitor="other"), "Monitor one of these"),
    ],
)
def test_a_metric_that_nobody_logs(callback: Any, more: str) -> None:
    with pytest.raises(ConfigError, match=r"which nothing has logged; logged are .*val/normal_score") as raised:
        fit(callback, AnomalyMetrics())
    assert more in str(raised.value)


def test_what_is_logged_is_monitored_and_who_is_told_to_go_on_does() -> None:
    possible = [EarlyStopping("val/image_AUROC", mode="max"), ModelCheckpoint(monitor="val/normal_score")]
    trainer = fit(*possible, EarlyStopping("other", strict=False), AnomalyMetrics(), validation="augmented")
    assert trainer.current_epoch == 2
    assert [monitor.name for monitor in monitors(trainer)] == ["val/image_AUROC", "val/normal_score"]


def test_data_modules_know_what_they_validate() -> None:
    assert Digits(image_size=8).validates_anomalies is False
    assert Digits(image_size=8, validation="none").validates_anomalies is False
    assert Digits(image_size=8, validation="augmented").validates_anomalies is True
    assert Digits(image_size=8, validation="test").validates_anomalies is None
    assert SyntheticTextures(train_size=8, test_size=4).validates_anomalies is True
    assert SyntheticTextures(train_size=8, test_size=4, val_anomalies=0).validates_anomalies is False
