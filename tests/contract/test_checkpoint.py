"""When pretrained weights are loaded, and which checkpoints are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.contract import AnomalyModule, Batch


class Pretrained(AnomalyModule):
    """Its one weight is 2 before training and 3 after."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loaded = 0

    def load_pretrained(self) -> None:
        self.weight.data.fill_(2)
        self.loaded += 1

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return self.weight * image.mean((1, 2, 3)), None

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.weight.data.fill_(3)

    def configure_optimizers(self) -> None:
        return None


def test_pretrained_weights_are_loaded_before_the_first_fit_alone(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    model, loader = Pretrained(), DataLoader([{"image": torch.rand(3, 4, 4)}])  # type: ignore[arg-type,var-annotated]
    seen: list[float] = []

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.append(float(pl_module.weight))

    for _ in range(2):
        trainer = trainer_in(callbacks=[Look()])
        trainer.fit(model, train_dataloaders=loader)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = Pretrained.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    trainer_in(callbacks=[Look()]).fit(restored, train_dataloaders=loader)
    assert seen == [2, 3, 3]
    assert (model.loaded, restored.loaded) == (1, 0)


def test_a_resumed_run_loads_no_pretrained_weights(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    loader: Any = DataLoader([{"image": torch.rand(3, 4, 4)}])  # type: ignore[arg-type,var-annotated]
    trainer = trainer_in()
    trainer.fit(Pretrained(), train_dataloaders=loader)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    resumed = Pretrained()
    trainer_in(max_epochs=2).fit(
        resumed, train_dataloaders=loader, ckpt_path=tmp_path / "model.ckpt", weights_only=True
    )
    assert resumed.loaded == 0  # they may have to be downloaded, and would be overwritten
