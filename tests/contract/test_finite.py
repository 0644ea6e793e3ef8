"""Numbers that are not finite stop a fit before weights, statistics or checkpoints take them over; the message names the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from tiny_runs import METHODS, make_data, make_model, make_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_suite.contract import AnomalyModule, Batch, as_batch, finite
from anomaly_suite.errors import NotFiniteError


def poisoned(name: str, value: float) -> tuple[Any, str]:
    """Data of a method with one bad value in one training file, and that file's name."""
    data = make_data(name)
    data.setup("fit")
    broken = next(iter(data.train_dataloader()))["image_path"][1]
    make = data.train_dataloader

    def train_dataloader() -> DataLoader[Any]:
        loader = make()
        collate = loader.collate_fn

        def collate_poisoned(items: Any) -> Batch:
            batch = collate(items)
            values = batch["image" if "image" in batch else "snippet_features"]
            for row, path in enumerate(batch["image_path"]):
                if path == broken:
                    values[row].view(-1)[0] = value
            return batch

        loader.collate_fn = collate_poisoned
        return loader

    data.train_dataloader = train_dataloader
    return data, broken


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e30])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(tiny_runs.group(name))) for name in METHODS]
)
def test_one_bad_value_in_one_file_stops_every_method(name: str, value: float) -> None:
    model, (data, broken) = make_model(name), poisoned(name, value)
    before = {key: part.clone() for key, part in model.named_parameters()}
    with pytest.raises(NotFiniteError, match=rf"{name} needs finite numbers; in .* {broken} holds"):
        make_trainer(max_epochs=1).fit(model, datamodule=data)
    # It is in the first batch, or the second of a sampler that draws anew: weights are finite in any case.
    assert all(part.isfinite().all() for part in model.parameters())
    assert before.keys() == dict(model.named_parameters()).keys()


class Probe(AnomalyModule):
    """Multiplies images with a weight; ``trouble`` says what goes wrong in the third batch, whose first pixel is 7."""

    total: Tensor

    def __init__(self, trouble: str = "none") -> None:
        super().__init__()
        self.trouble = trouble
        self.automatic_optimization = trouble != "manual"
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.register_buffer("total", torch.zeros(()))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        pixel = batch["image"].mean((1, 2, 3))
        bad = bool((pixel == 7).any())
        loss = (self.weight * pixel).sum()
        if bad and self.trouble in ("loss", "manual"):
            loss = loss * torch.tensor(torch.inf)
        if bad and self.trouble == "gradient":
            loss = loss + (self.weight - self.weight.detach()).sum().sqrt()  # 0, with an infinite gradient
        if bad and self.trouble == "running":
            self.norm.running_var.fill_(torch.inf)  # type: ignore[union-attr]
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def on_train_start(self) -> None:
        if self.trouble != "statistic":
            return
        total = torch.zeros(1, dtype=torch.float64)
        for image in self.training_images():
            code = 1 / (7 - image.mean((1, 2, 3)))
            self.watch("a code", code)
            total += code.sum().double()
        self.total = self.sum_over_ranks(total)

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return self.weight * image.mean((1, 2, 3)), None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)


def batches(count: int = 4, bad: int = 2) -> DataLoader[Any]:
    """Two images a batch; those of the bad one are 7."""
    items = [
        {
            "image": torch.full((2, 1, 4, 4), 7.0 if number == bad else 0.5),
            "image_path": [f"{number}/a.png", f"{number}/b.png"],
            "label": torch.tensor([0, 1]),
        }
        for number in range(count)
    ]
    return DataLoader(items, batch_size=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("read", ["at once", "later"])  # on a CPU, and on a GPU, which must not wait in every step
@pytest.mark.parametrize(
    ("trouble", "what"),
    [
        ("loss", "the loss of batch 2 of epoch 0"),
        ("manual", "the loss of batch 2 of epoch 0"),
        ("gradient", "the gradient of batch 2 of epoch 0"),
        ("running", "a running statistic of batch 2 of epoch 0"),
        ("statistic", "a code of a pass over the training set"),
    ],
)
def test_the_message_names_what_and_where(
    trouble: str, what: str, read: str, trainer_in: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    if read == "later":
        monkeypatch.setattr(finite, "read_at_once", lambda device: False)
    model = Probe(trouble)
    with pytest.raises(NotFiniteError, match=rf"{what} is NaN or infinite\. It holds 2/a\.png, 2/b\.png") as caught:
        trainer_in().fit(model, train_dataloaders=batches())
    assert "the largest value, 7, is in 2/" in str(caught.value)
    if trouble != "gradient" or read == "at once":  # a GPU has made that step; nothing saves it
        steps = 0 if trouble == "statistic" else 2
        assert model.weight.item() == pytest.approx(1 - 0.1 * steps)


def test_a_statistic_that_nobody_watched_is_not_taken_over(trainer_in: Callable[..., Trainer]) -> None:
    class Careless(Probe):
        def watch(self, what: str, *values: Tensor, seen: bool = True) -> None:
            if what != "a code":
                super().watch(what, *values, seen=seen)

    with pytest.raises(NotFiniteError, match="a statistic of the training set has become NaN or infinite"):
        trainer_in().fit(Careless("statistic"), train_dataloaders=batches())


def test_a_good_checkpoint_is_kept(trainer_in: Callable[..., Trainer], tmp_path: Path) -> None:
    class Later(Probe):
        def on_train_batch_end(self, *args: Any) -> None:
            if self.current_epoch == 1:  # unseen by any check of a step
                self.weight.data.fill_(torch.nan)

    saver = ModelCheckpoint(dirpath=tmp_path, filename="model", enable_version_counter=False, every_n_train_steps=4)
    trainer = trainer_in(max_epochs=3, enable_checkpointing=True, callbacks=[saver])
    with pytest.raises(NotFiniteError):
        trainer.fit(Later(), train_dataloaders=batches())
    kept = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert (kept["epoch"], kept["global_step"]) == (0, 4)
    assert kept["state_dict"]["weight"].isfinite().all()


def test_weights_that_are_not_finite_are_not_saved(trainer_in: Callable[..., Trainer], tmp_path: Path) -> None:
    model, trainer = Probe(), trainer_in()
    trainer.fit(model, train_dataloaders=batches())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    good = (tmp_path / "model.ckpt").read_bytes()
    model.total.fill_(torch.inf)
    with pytest.raises(NotFiniteError, match="a checkpoint of Probe must hold finite numbers; total became NaN"):
        trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert (tmp_path / "model.ckpt").read_bytes() == good


def test_what_waits_for_its_number_may_be_saved(trainer_in: Callable[..., Trainer], tmp_path: Path) -> None:
    model, trainer = Probe(), trainer_in()
    model.total.fill_(torch.nan)  # like PEBAL's margins before they are measured
    trainer.test(model, dataloaders=batches(), verbose=False)
    trainer.save_checkpoint(tmp_path / "untrained.ckpt")
    trainer.fit(model, train_dataloaders=batches())
    trainer.save_checkpoint(tmp_path / "fitted.ckpt")
    assert (tmp_path / "fitted.ckpt").is_file()


@pytest.mark.parametrize("stage", ["validate"])
def test_validation_names_the_file_too(stage: str, trainer_in: Callable[..., Trainer]) -> None:
    images = torch.rand(3, 1, 4, 4)
    images[1, 0, 2, 2] = torch.nan
    batch = {"image": images, "image_path": ["a.png", "b.png", "c.png"]}
    with pytest.raises(NotFiniteError, match=r"Probe needs finite numbers; in a batch b\.png holds nan\. Repair"):
        getattr(trainer_in(), stage)(Probe(), dataloaders=DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    model = Probe()
    model.weight.data.fill_(1e38)
    batch["image"] = torch.tensor([0.0, 9.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    with pytest.raises(NotFiniteError, match=r"the score of a batch is NaN or infinite\. It holds b\.png; the largest"):
        getattr(trainer_in(), stage)(model, dataloaders=DataLoader([batch], batch_size=None))  # type: ignore[arg-type]


def test_padding_of_videos_may_hold_anything() -> None:
    features = torch.ones(2, 1, 3, 4)
    features[0, 0, 2] = torch.nan
    features[1, 0, 1, 3] = -5
    batch = as_batch({"snippet_features": features, "length": torch.tensor([2, 3])})
    assert finite.largest_values(batch).tolist() == [1, 5]
    assert finite.names_of(batch) == ["sample 0", "sample 1"]


def test_steps_that_a_gradient_scaler_leaves_out_are_no_fault(trainer_in: Callable[..., Trainer]) -> None:
    class Scaled(Probe):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return (self.weight.half() * batch["image"].half().mean((1, 2, 3))).float().sum()

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=1000)  # type: ignore[attr-defined]
    model = Scaled()
    trainer = trainer_in(plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    trainer.fit(model, train_dataloaders=batches(8))
    assert scaler.get_scale() < 2.0**18  # steps were left out
    assert model.weight.isfinite().all()
    assert model.weight.item() != 1  # and others made


class Diary(Probe):
    """Writes down what each process stops with."""

    folder: Path

    def stop_if_not_finite(self) -> None:
        try:
            super().stop_if_not_finite()
        except NotFiniteError as error:
            (self.folder / str(self.global_rank)).write_text(str(error), encoding="utf-8")
            self.trainer.strategy.barrier()  # the launcher ends the others as soon as one has gone
            raise


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["loss", "statistic"])
def test_all_processes_stop_with_the_same_message(
    trouble: str, tmp_path: Path, two_processes: dict[str, Any], trainer_in: Callable[..., Trainer]
) -> None:
    model = Diary(trouble)
    model.folder = tmp_path
    with pytest.raises(Exception, match="NotFiniteError"):
        trainer_in(**two_processes).fit(model, train_dataloaders=batches(bad=3))  # the last one of the second process
    first, second = ((tmp_path / str(rank)).read_text(encoding="utf-8") for rank in (0, 1))
    assert first == second
    assert "It holds 3/a.png, 3/b.png" in first


def test_a_statistic_that_nobody_watched_stops_the_fit_at_the_end_of_its_epoch() -> None:
    class Unwatched(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("spread", torch.ones(()))

        def fit_statistics(self) -> None:
            self.spread = torch.tensor(torch.nan)

    with pytest.raises(NotFiniteError, match=r"what it has learned \(spread\) has become NaN or infinite"):
        make_trainer(max_epochs=2).fit(Unwatched(), batches(bad=-1))
