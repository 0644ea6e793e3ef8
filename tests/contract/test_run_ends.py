"""However a run ends, what hangs on its end has happened: statistics, schedules, phases; and runs that are equal end equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from tiny_runs import (
    METHODS,
    SHORT,
    SHORT_STEPS,
    all_test_inputs,
    make_data,
    make_model,
    make_trainer,
    short_fit,
    short_run,
    tensors,
)
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.data import Digits
from anomaly_suite.errors import ConfigError, NotFittedError
from anomaly_suite.methods import ADACL, IGD, DeepLabV3Plus

EVERY_METHOD = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(tiny_runs.group(name))) for name in METHODS]
)


class StopAt(Callback):
    """Ask the trainer to stop after a batch (epoch, number)."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.place = (epoch, batch)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if (trainer.current_epoch, args[-1]) == self.place:
            trainer.should_stop = True


class Watch(Callback):
    """Count steps, and note after how many of them statistics were fitted."""

    def __init__(self) -> None:
        self.steps = 0
        self.fitted: list[int] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fit_statistics: Callable[[], None] = pl_module.fit_statistics  # type: ignore[assignment]

        def counted() -> None:
            self.fitted.append(self.steps)
            fit_statistics()

        pl_module.fit_statistics = counted  # type: ignore[assignment]

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.steps += 1


# All methods -------------------------------------------------------------------------------------------------------------


@EVERY_METHOD
def test_equal_ends_make_equal_runs(name: str) -> None:
    whole = short_run(name)
    ends = {"max_epochs": 100} if len(name) % 2 else {"max_epochs": -1, "max_time": timedelta(hours=1e5)}
    other = short_fit(name, max_steps=whole.global_step, val_check_interval=0.5, **ends)
    assert other.trainer.global_step == whole.global_step
    for key, value in tensors(other).items():
        assert torch.equal(value.nan_to_num(), whole.tensors[key].nan_to_num()), key


@EVERY_METHOD
def test_a_run_that_is_stopped_inside_an_epoch_is_fitted_to_its_last_step(name: str) -> None:
    watch, last = Watch(), 0 if make_model(name).single_pass else SHORT.get(name, {}).get("gan_epochs", 1)
    model = short_fit(name, watch, StopAt(last, 0), max_epochs=100, check_val_every_n_epoch=50)
    assert watch.steps == last * SHORT_STEPS + 1
    assert watch.fitted[-1] == watch.steps
    assert model.is_fitted


# Two phases --------------------------------------------------------------------------------------------------------------

PHASES = {
    "DeepSVDD": "ae_epochs=1",
    "FAnoGAN": "gan_epochs=2",
    "FSADNet": "representation_epochs=1",
    "ADGAN": "gan_epochs=2",
    "StudentTeacher": "teacher_epochs=1",
}


@pytest.mark.parametrize("end", ["max_steps", "max_epochs", "should_stop"])
@pytest.mark.parametrize("name", PHASES)
def test_a_run_that_ends_in_the_first_phase_is_unfitted(name: str, end: str, tmp_path: Path) -> None:
    stop = [StopAt(0, 0)] if end == "should_stop" else []
    ends = {"max_steps": {"max_steps": 1}, "max_epochs": {"max_epochs": 1}}.get(end, {})
    with pytest.warns(
        UserWarning, match=f"{name} ends unfitted: it has not left its first phase, .*{PHASES[name]} epochs"
    ):
        model = short_fit(name, *stop, **{"max_epochs": -1, **ends})
    model.trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = type(model).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    for each in (model, restored):
        assert not each.is_fitted
        for stage in ("validate", "test", "predict"):
            with pytest.raises(
                NotFittedError, match=rf"{name} cannot score yet: .*{PHASES[name]} epochs.*Run fit first"
            ):
                getattr(make_trainer(limit_test_batches=1), stage)(each, datamodule=make_data(name))


@pytest.mark.parametrize("name", PHASES)
def test_a_run_that_reaches_the_second_phase_is_fitted_and_stays_so(name: str, tmp_path: Path) -> None:
    model = short_fit(name, max_epochs=3)
    model.trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = type(model).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert model.is_fitted
    assert restored.is_fitted
    batch = {key: value[:2] for key, value in all_test_inputs(name).items()}
    prediction = restored.eval().test_step(batch, 0)
    assert prediction is not None
    assert prediction["anomaly_score"].isfinite().all()


@pytest.mark.parametrize(
    ("name", "steps"), [("ADGAN", 4), ("DeepSVDD", 2), ("FAnoGAN", 4), ("FSADNet", 4), ("StudentTeacher", 2)]
)
def test_a_run_that_is_planned_to_end_in_the_first_phase_says_so_at_its_start(name: str, steps: int) -> None:
    option, message = PHASES[name].partition("=")[0], f"{name} only .*max_steps={steps} does not exceed"
    with pytest.warns(UserWarning, match=rf"{message} {PHASES[name]} epochs. Raise max_steps or lower {option}"):
        short_fit(name, StopAt(0, 0), max_epochs=-1, max_steps=steps)


def test_students_that_were_never_measured_do_not_score(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "model.ckpt")

    model = short_fit("StudentTeacher", Save(), max_epochs=2)
    restored = type(model).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    with pytest.raises(NotFittedError, match=r"no epoch of its students \(those after teacher_epochs\) is over"):
        restored.require_fitted()


@pytest.mark.parametrize(("name", "key"), [("FAnoGAN", "has_encoder"), ("IGD", "target_")])
def test_checkpoints_of_former_versions_load(name: str, key: str) -> None:
    model = short_fit(name, max_epochs=3)
    former = {k: value for k, value in model.state_dict().items() if not k.rpartition(".")[2].startswith(key)}
    assert len(former) < len(model.state_dict())
    restored = make_model(name)
    restored.load_state_dict(former)
    assert restored.is_fitted
    if name == "IGD":
        part = restored.descriptors["global"]
        assert torch.equal(part.target_center, part.center)
        assert torch.equal(part.target_variance, part.variance)


# Statistics --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["early_stopping", "should_stop", "max_steps"])
def test_igd_scores_by_the_gaussian_of_its_last_weights(how: str) -> None:
    ends: dict[str, Any] = {
        "early_stopping": {"callbacks": [EarlyStopping("train/loss", patience=0, stopping_threshold=1e9)]},
        "should_stop": {"callbacks": [StopAt(1, 1)]},
        "max_steps": {"max_steps": 6, "callbacks": []},
    }
    model = IGD(image_size=16, encoder="residual", encoder_weights=None, width=4, latent_dim=6, variance_floor=0.0)
    data = Digits(normal_class=3, image_size=16, train_batch_size=32, validation="none")
    make_trainer(**{"max_epochs": 100, "limit_train_batches": 2, **ends[how]}).fit(model, datamodule=data)
    part, epoch = model.descriptors["global"], model.current_epoch - 1
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    with torch.no_grad():
        codes = torch.cat(
            [part.autoencoder.eval().encode(batch["image"]) for batch, _ in zip(loader, range(2), strict=False)]
        )
    # Two batches, not the whole set; in another batch size, so sums are in another order.
    assert part.variance.item() == pytest.approx(((codes - part.center) ** 2).sum(1).mean().item(), rel=1e-4)


# Schedules ---------------------------------------------------------------------------------------------------------------


class Progress(AnomalyModule):
    """Writes down the progress of every optimiser step."""

    def __init__(self, *, optimizers: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = optimizers == 1
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.count, self.seen = optimizers, list[float]()
        self.reference = list[float]()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.seen.append(self.training_progress(batch_idx))
        self.reference.append(self.global_step / self.trainer.estimated_stepping_batches)
        if self.automatic_optimization:
            return self.weight * 0
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([self.weight], lr=0.1) for _ in range(self.count)]


def batches(count: int) -> DataLoader[Any]:
    return DataLoader([{"image": torch.rand(1, 4, 4)}] * count, batch_size=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "ends", "expected"),
    [
        ({}, {"max_epochs": 2, "max_steps": 1000}, [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8]),
        ({}, {"max_epochs": 1000, "max_steps": 5}, [0, 1 / 5, 2 / 5, 3 / 5, 4 / 5]),
        ({}, {"max_epochs": -1, "max_steps": 5}, [0, 1 / 5, 2 / 5, 3 / 5, 4 / 5]),
        ({}, {"max_epochs": 2, "accumulate_grad_batches": 2}, [0, 0, 1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4]),
        ({}, {"max_epochs": 2, "accumulate_grad_batches": 3}, [0, 0, 0, 1 / 4, 2 / 4, 2 / 4, 2 / 4, 3 / 4]),
        ({}, {"max_epochs": -1, "max_steps": 2, "accumulate_grad_batches": 3}, [0, 0, 0, 1 / 2]),
        ({}, {"max_epochs": 2, "limit_train_batches": 2}, [0, 1 / 4, 2 / 4, 3 / 4]),
        ({"optimizers": 2}, {"max_epochs": 1}, [0, 1 / 4, 2 / 4, 3 / 4]),
        ({"optimizers": 2}, {"max_epochs": 1000, "max_steps": 8}, [0, 1 / 4, 2 / 4, 3 / 4]),
    ],
    ids=str,
)
def test_progress_follows_the_nearer_end(options: dict[str, int], ends: dict[str, Any], expected: list[float]) -> None:
    model = Progress(**options)
    make_trainer(**ends).fit(model, batches(4))
    assert model.seen == pytest.approx(expected)
    if not options:
        assert model.seen == pytest.approx(model.reference)


@pytest.mark.parametrize(
    ("epochs", "expected"), [(-1, [0, 0.3, 0.6, 0.9]), (1, [0, 0.3, 0.6, 0.9]), (2, [0, 0.3, 0.6, 0.9])]
)
def test_progress_of_a_run_that_time_ends(epochs: int, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Progress()
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: 30.0 * len(model.seen))
    trainer = make_trainer(max_epochs=epochs, max_time=timedelta(seconds=100))
    trainer.fit(model, batches(8))
    assert model.seen == pytest.approx(expected)


def test_progress_without_an_end_is_none_and_epochs_count_where_batches_do_not() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from [{"image": torch.rand(1, 4, 4)}] * 2

    endless, counted = Progress(), Progress()
    make_trainer(max_epochs=-1, callbacks=[StopAt(1, 0)]).fit(endless, batches(2))
    make_trainer(max_epochs=2).fit(counted, DataLoader(Stream(), batch_size=1))
    assert endless.seen == [0.0] * 3
    assert counted.seen == [0.0, 0.0, 0.5, 0.5]


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.seen.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "ends",
    [
        {"max_epochs": 5},
        {"max_epochs": -1, "max_steps": 10},
        {"max_epochs": 5, "max_steps": 1000},
        {"max_epochs": 5, "accumulate_grad_batches": 2, "limit_train_batches": 4},
        {"max_epochs": 5, "max_time": timedelta(hours=1)},
        {"max_epochs": -1, "max_time": timedelta(hours=1), "callbacks": [StopAt(4, 1)]},
        {"max_epochs": -1, "max_steps": 10, "overfit_batches": 2},
    ],
    ids=", ".join,
)
def test_the_cycle_of_adacl_lasts_its_epochs(ends: dict[str, Any]) -> None:
    rates = Rates()
    model = ADACL(widths=(2, 2, 2, 2), hidden=2, lr_min=1.0, lr_max=3.0, half_period=2.0)
    data = Digits(normal_class=3, image_size=8, train_batch_size=16, validation="none")
    ends = {"limit_train_batches": 2, **ends, "callbacks": [rates, *ends.get("callbacks", [])]}
    make_trainer(**ends).fit(model, datamodule=data)
    assert rates.seen == pytest.approx([1, 1.5, 2, 2.5, 3, 2.5, 2, 1.5, 1, 1.5])  # two steps an epoch


def test_a_cycle_in_epochs_of_unknown_length_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield {"image": torch.rand(1, 8, 8)}

    model = ADACL(widths=(2, 2, 2, 2), hidden=2)
    with pytest.raises(ConfigError, match=r"half_period=2.0 is in epochs, .* Set limit_train_batches"):
        make_trainer(max_epochs=1).fit(model, DataLoader(Stream(), batch_size=1))


@pytest.mark.parametrize(
    "ends",
    [
        {"max_epochs": 4},
        {"max_epochs": -1, "max_steps": 8},
        {"max_epochs": 4, "max_steps": 1000},
        {"max_epochs": 1000, "max_steps": 8},
        {"max_epochs": 4, "accumulate_grad_batches": 2, "limit_train_batches": 4},
        {"max_epochs": -1, "max_time": timedelta(seconds=80)},
    ],
    ids=str,
)
def test_a_decay_restarts_after_its_epochs_and_ends_with_the_run(
    ends: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Rates()
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: 10.0 * len(rates.seen))
    model = DeepLabV3Plus(
        backbone="mobilenetv3_small_050", num_classes=7, width=8, output_stride=16, backbone_weights=None, lr=0.1,
        lr_power=1.0, restart_power=2.0, relaxation_epochs=2, auxiliary_weight=0.0,
    )  # fmt: skip
    data = make_data("DeepLabV3Plus", train_size=8, train_batch_size=2, crop_size=32, validation="none")
    make_trainer(**{"limit_train_batches": 2, **ends, "callbacks": [rates]}).fit(model, datamodule=data)
    first, second = [0.1 * (1 - step / 8) for step in range(4)], [0.1 * (1 - step / 4) ** 2 for step in range(4)]
    assert rates.seen == pytest.approx(first + second)
