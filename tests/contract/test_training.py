"""Seeds of a step, progress of a run, batches outside the training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.errors import ConfigError

BATCH = {"image": torch.arange(32.0).view(2, 1, 4, 4), "padding": torch.tensor([False, True])}


class Diary(AnomalyModule):
    """Writes down what a step is given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.lines: list[tuple[int, int, float, float, float]] = []
        self.images: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        own = float(torch.rand((), generator=self.step_generator(batch_idx)))
        line = (self.current_epoch, batch_idx, self.training_progress(batch_idx), own, float(torch.rand(())))
        self.lines.append(line)

    def on_train_epoch_end(self) -> None:
        self.images += list(self.training_images())

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return image.mean((1, 2, 3)), None

    def configure_optimizers(self) -> None:
        return None


def fitted(trainer: Trainer, seed: int) -> Diary:
    model = Diary()
    torch.manual_seed(seed)
    loader: Any = DataLoader([BATCH] * 3, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(model, train_dataloaders=loader)
    return model


def test_draws_of_a_step_follow_from_seed_epoch_and_step(trainer_in: Callable[..., Trainer]) -> None:
    first, again, other = (fitted(trainer_in(max_epochs=2), seed) for seed in (1, 1, 2))
    assert first.lines == again.lines
    draws = [value for model in (first, other) for line in model.lines for value in line[3:]]
    assert len(set(draws)) == len(draws) == 24  # step_generator and torch's own, two epochs of three steps, two seeds


def test_a_resumed_run_draws_what_the_first_one_would_have(trainer_in: Callable[..., Trainer], tmp_path: Path) -> None:
    whole, first = fitted(trainer_in(max_epochs=2), 1), trainer_in()
    fitted(first, 1)
    first.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(2)  # of another process
    resumed, loader = Diary(), DataLoader([BATCH] * 3, batch_size=None)  # type: ignore[arg-type,var-annotated]
    trainer_in(max_epochs=2).fit(resumed, loader, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert [line[3:] for line in resumed.lines] == [line[3:] for line in whole.lines[3:]]


def test_every_process_draws_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Diary()
    seeds = []
    for rank in range(3):
        monkeypatch.setattr(Diary, "global_rank", rank)
        seeds.append(model.step_generator(5).initial_seed())
    assert len(set(seeds)) == 3


def test_progress_is_the_share_of_the_run_behind_a_step(trainer_in: Callable[..., Trainer]) -> None:
    model = fitted(trainer_in(max_epochs=2), 0)
    assert [line[2] for line in model.lines] == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_training_images_leave_padding_out(trainer_in: Callable[..., Trainer]) -> None:
    model = fitted(trainer_in(), 0)
    assert len(model.images) == 3
    assert all(torch.equal(image, BATCH["image"][:1]) for image in model.images)


def test_a_run_without_training_set_is_refused(trainer_in: Callable[..., Trainer]) -> None:
    model = Diary()
    trainer_in().test(model, dataloaders=DataLoader([{"image": torch.rand(1, 2, 2)}]), verbose=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Diary needs a training set"):
        list(model.training_batches())
