"""Steps reach a callback checked, under both stages; a module that returns nothing is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import StageCallback, Step
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import ConfigError


class Mean(AnomalyModule):
    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return image.mean((1, 2, 3)), None


class Silent(LightningModule):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Diary(StageCallback):
    def __init__(self, *, size: int = 3) -> None:
        self.steps: list[Step] = []
        self.calls: list[tuple[str, str]] = []

    def begin(self, trainer: Trainer, stage: str) -> None:
        self.calls.append(("begin", stage))

    def collect(self, step: Step) -> None:
        self.steps.append(step)

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.calls.append(("finish", stage))


def loader() -> DataLoader[Any]:
    return DataLoader([(torch.full((1, 2, 2), float(i)), i % 2) for i in range(4)], batch_size=2)  # type: ignore[arg-type]


def test_every_step_of_test_and_predict_is_collected(trainer_in: Callable[..., Trainer]) -> None:
    diary, model = Diary(), Mean()
    trainer = trainer_in(callbacks=[diary])
    trainer.test(model, dataloaders=[loader(), loader()], verbose=False)
    trainer.predict(model, dataloaders=loader())
    assert diary.calls == [("begin", "test"), ("finish", "test"), ("begin", "predict"), ("finish", "predict")]
    assert [(step.stage, step.dataloader_idx) for step in diary.steps] == [("test", 0)] * 2 + [("test", 1)] * 2 + [
        ("predict", 0)
    ] * 2
    first = diary.steps[0]
    assert first.trainer is trainer
    assert first.pl_module is model
    assert first.batch["label"].tolist() == [0, 1]
    assert first.prediction["anomaly_score"].tolist() == [0.0, 1.0]


def test_modules_that_return_nothing_are_left_alone(trainer_in: Callable[..., Trainer]) -> None:
    diary = Diary()
    trainer_in(callbacks=[diary]).test(Silent(), dataloaders=loader(), verbose=False)
    assert diary.steps == []


def test_an_author_is_told_what_to_define_and_which_option_is_wrong() -> None:
    with pytest.raises(NotImplementedError, match=r"StageCallback must define begin\(trainer, stage\)"):
        StageCallback().begin(None, "test")  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match=r"StageCallback must define collect\(step\)"):
        StageCallback().collect(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Diary has no option 'sizes'. Did you mean 'size'\?"):
        Diary(sizes=1)  # type: ignore[call-arg]
