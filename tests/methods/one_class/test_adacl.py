"""The checks of the method's description, numbered as there."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.cli.samples import read_stack, sample_names, samples_folder
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.one_class import adacl
from anomaly_suite.methods.one_class.adacl import ADACL, draw_labels, label_loss


def labels(count: int, *, continuous: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return draw_labels(count, 0.3, 0.7, continuous=continuous, generator=generator, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 249_281),
        ({"in_channels": 3}, 249_857),
        ({"kernel_size": 5, "widths": (32, 48, 64, 64)}, 223_249),
    ],
)
def test_1_parameter_counts(options: dict[str, object], count: int) -> None:
    model = ADACL(**options)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == count
    score, anomaly_map = model(torch.rand(5, options.get("in_channels", 1), 28, 28))  # type: ignore[arg-type]
    assert score.shape == (5,)
    assert anomaly_map is None


def test_1_output_is_not_squashed() -> None:
    model = ADACL()
    last = model.net[-2]
    torch.nn.init.constant_(last.bias, 3.0)  # type: ignore[union-attr]
    score, _ = model.eval()(torch.rand(4, 1, 28, 28))
    assert (score > 1).all()


def test_2_labels_lie_in_their_intervals() -> None:
    drawn = labels(100_000)
    normal, anomalous = drawn.chunk(2)
    assert 0 <= normal.min() <= normal.max() <= 0.3
    assert 0.7 <= anomalous.min() <= anomalous.max() <= 1
    assert normal.mean() == pytest.approx(0.15, abs=0.002)
    assert anomalous.mean() == pytest.approx(0.85, abs=0.002)


def test_3_and_4_expected_losses() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return label_loss(output, target, loss="mse", clip=False)

    drawn = labels(100_000)
    assert loss(torch.full_like(drawn, 0.5), drawn) == pytest.approx(0.13, abs=1e-3)
    assert loss(torch.full_like(drawn, 0.5), labels(100_000, continuous=False)) == pytest.approx(0.25)
    midpoints = torch.cat([torch.full((100_000,), 0.15), torch.full((100_000,), 0.85)])
    assert loss(midpoints, drawn) == pytest.approx(0.0075, abs=1e-4)


@pytest.mark.parametrize(("clip", "zero"), [(True, True), (False, False)])
def test_7_clipping_in_the_loss_stops_all_learning_below_zero(clip: bool, zero: bool) -> None:
    model = ADACL()
    torch.nn.init.constant_(model.net[-2].bias, -5.0)  # type: ignore[union-attr]
    output = model.net(torch.rand(8, 1, 28, 28))
    assert output.max() < 0
    label_loss(output, labels(4), loss="mse", clip=clip).backward()
    gradients = [p.grad.abs().max().item() for p in model.parameters() if p.grad is not None]
    assert (max(gradients) == 0) is zero


def test_bce_is_the_one_on_logits() -> None:
    output, target = torch.tensor([0.3, -1.2]), torch.tensor([0.2, 0.9])
    p = torch.sigmoid(output)
    by_hand = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert label_loss(output, target, loss="bce", clip=True) == pytest.approx(by_hand.item())


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 4.0), ({"clip_in_loss": True}, 1.0), ({"loss": "bce"}, 1.7200948)]
)
def test_the_options_reach_the_training_loss(
    options: dict[str, object], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ADACL(**options, labels="discrete")  # type: ignore[arg-type]
    monkeypatch.setattr(model.net, "forward", lambda _: torch.tensor([2.0, 2.0, -1.0, -1.0]))
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    loss = model.training_step({"image": torch.rand(2, 1, 8, 8)}, 0)  # targets 0, 0, 1, 1
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_pseudo_anomalies_and_labels_are_drawn_anew_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seeds = ADACL(widths=(4, 4, 4, 4)), []
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    for draws in ("pseudo_anomaly", "draw_labels"):
        drawn = getattr(adacl, draws)

        def noted(*args: Any, drawn: Any = drawn, **options: Any) -> Any:
            generator = next(part for part in (*args, *options.values()) if isinstance(part, torch.Generator))
            seeds.append(generator.initial_seed())
            return drawn(*args, **options)

        monkeypatch.setattr(adacl, draws, noted)
    monkeypatch.setattr(ADACL, "current_epoch", 2)
    for step in range(2):
        model.training_step({"image": torch.rand(2, 1, 8, 8)}, step)
    expected = [model.step_generator(step).initial_seed() for step in range(2)]
    assert seeds == [expected[0]] * 2 + [expected[1]] * 2
    assert expected[0] != expected[1]


def test_learning_rate_is_a_triangle() -> None:
    rates: list[float] = []

    class Recorder(ADACL):
        def on_train_batch_start(self, *args: object) -> None:
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    loader = DataLoader(TensorDataset(torch.rand(20, 1, 12, 12)), batch_size=4)  # 5 steps an epoch
    trainer = Trainer(
        accelerator="cpu", max_epochs=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Recorder(widths=(4, 4, 4, 4), lr_min=0.1, lr_max=0.3, half_period=1.0), loader)
    expected = [0.1 + 0.2 * (1 - abs((step % 10) - 5) / 5) for step in range(20)]
    assert rates == pytest.approx(expected)  # the rate in force when a step was taken


SMALL = {"widths": (4, 4, 4, 4), "hidden": 4}
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


@pytest.mark.parametrize(
    ("epochs", "steps", "height"),
    [(8, -1, None), (9, -1, "50%"), (10, -1, "100%"), (11, -1, "50%"), (12, -1, None), (10, 100, None), (-1, -1, None)],
)
def test_a_last_epoch_near_the_peak_of_the_cycle_is_warned_of(
    epochs: int, steps: int, height: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ADACL(**SMALL, half_period=2.0)  # type: ignore[arg-type]
    monkeypatch.setattr(ADACL, "trainer", SimpleNamespace(max_epochs=epochs, max_steps=steps))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.on_train_start()
    said = [str(w.message) for w in caught]
    assert len(said) == (height is not None)
    if height is not None:
        assert f"max_epochs is {epochs}, {height} of the way up" in said[0]
        assert "Set max_epochs to 8 or 12" in said[0]


def test_the_trainer_brings_the_warning() -> None:
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 12, 12)), batch_size=4)
    with pytest.warns(UserWarning, match="100% of the way up to lr_max. Set max_epochs to 2 or 4"):
        Trainer(**QUIET, max_epochs=1, enable_model_summary=False).fit(ADACL(**SMALL, half_period=1.0), loader)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in sample_names() if "/adacl_" in name])
def test_sample_configurations_end_after_whole_cycles(name: str) -> None:
    content = read_stack(samples_folder() / name)
    half_period = ADACL(**{**content["model"].get("init_args", {})}).hparams["half_period"]
    assert content["trainer"]["max_epochs"] % (2 * half_period) == 0


def test_coefficients_of_operations_reach_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def spy(image: torch.Tensor, *args: object, **shares: object) -> torch.Tensor:
        seen.update(shares)
        return image

    monkeypatch.setattr("anomaly_suite.methods.one_class.adacl.pseudo_anomaly", spy)
    model = ADACL(**SMALL, mix_share=(0.1, 0.9), cut_share=(0.3, 0.4))  # type: ignore[arg-type]
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    model.training_step({"image": torch.rand(2, 1, 8, 8)}, 0)
    assert seen == {"mix_share": (0.1, 0.9), "cut_share": (0.3, 0.4)}
    for options in ({"mix_share": (0.7, 0.3)}, {"cut_share": (0.0, 0.5)}, {"cut_share": (0.5, 1.0)}):
        with pytest.raises(ConfigError, match=r"_share must be (two shares between 0 and 1|in \(0, 1\))"):
            ADACL(**options)  # type: ignore[arg-type]
