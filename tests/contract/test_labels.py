"""Labelled anomalies in training, over all methods: only methods that say so learn from them, and no other sees one."""

from __future__ import annotations

import re

import pytest
import torch
from tiny_runs import METHODS, SEED, SHORT, group, make_data, make_model, make_trainer, short_fit, short_run, tensors

import anomaly_suite.methods
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import LabelError

READING = ("weak_video", "pixel_ood", "few_shot")  # families


def class_of(name: str) -> type[AnomalyModule]:
    kind: type[AnomalyModule] = getattr(anomaly_suite.methods, name)
    return kind


OTHERS = [
    pytest.param(name, marks=pytest.mark.xdist_group(group(name)))
    for name in METHODS
    if not class_of(name).reads_labels
]


def test_families_that_read_labels() -> None:
    reading = {name for name in METHODS if class_of(name).reads_labels}
    assert reading == {name for name in METHODS if class_of(name).__module__.split(".")[2] in READING}


@pytest.mark.parametrize("name", OTHERS)
def test_a_training_batch_with_an_anomaly_is_refused(name: str) -> None:
    model = make_model(name)
    batch = next(iter(make_data(name).train_dataloader()))
    batch["label"][1] = 1
    told = f"{name} trains on normal images alone; batch 0 of epoch 0 holds 1 labelled anomalous, first {batch['image_path'][1]}"
    before = tensors(model)
    with pytest.raises(LabelError, match=re.escape(told)):
        model.training_step(batch, 0)
    for key, value in tensors(model).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", OTHERS)
def test_a_fit_beside_labelled_anomalies_is_that_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny_runs.short_data", lambda each: make_data(each, num_anomalous=3, balanced=True))
    run = short_run(name)
    model = short_fit(name, max_epochs=1 if model_is_single(name) else 2 + (name in SHORT))
    assert all(torch.equal(value, run.tensors[key]) for key, value in tensors(model).items())


def model_is_single(name: str) -> bool:
    return class_of(name).single_pass


def test_a_pass_over_the_training_set_refuses_them_too() -> None:
    class Passes(AnomalyModule):
        reads_labels = False

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def on_train_start(self) -> None:
            list(self.training_images())

        def training_step(self, batch: object, batch_idx: int) -> None:
            """Nothing."""

        def configure_optimizers(self) -> None:
            return None

    loader = make_data("PaDiM", num_anomalous=3).train_dataloader()
    torch.manual_seed(SEED)
    with pytest.raises(
        LabelError, match=r"Passes trains on normal images alone; a pass over the training set holds \d labelled"
    ):
        make_trainer(max_epochs=1).fit(Passes(), train_dataloaders=loader)
