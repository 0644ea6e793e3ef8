"""Two processes, over all methods: they fit what one does with all their images, and hold one and the same model throughout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_runs import FIRST_PHASES, METHODS, config, group, make_data, make_model, make_trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anomaly_suite.callbacks import Calibrate
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.contract.processes import share_running_statistics
from anomaly_suite.methods import CSI, DROC, CutPaste, DeepSVDD

CHANGES: dict[str, dict[str, Any]] = {"DeepSVDD": {"objective": "soft-boundary", "warmup_epochs": 0}}
"""Options with which a method has more to share."""

ORDER = 3  # a seed with which each process has one of the two images of Deep SVDD with the extreme pixels


class Watch(Callback):
    """No learning in the first epochs, in which two processes must do what one does; the last one learns.

    What was learned from half as many images at once would differ, and so would batch norm's means of them.
    """

    def __init__(self, folder: Path, *, still: int) -> None:
        self.folder, self.still = folder, still
        self.resting: set[_NormBase] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.strides = strides(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        still = trainer.current_epoch < self.still
        if still:
            self.resting |= {part for part in pl_module.modules() if isinstance(part, _NormBase) and part.training}
        for part in self.resting:
            part.train(not still)
            part.momentum = 0.0 if still else 0.1  # a step may switch to training mode, too

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.world_size > 1:  # or the strategy would give back gradients in the order of the first layout
            assert strides(pl_module) == self.strides
        if trainer.current_epoch < self.still:
            for weight in pl_module.parameters():
                weight.grad = None  # with zeros, weights would decay

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer, pl_module, f"validated-{trainer.current_epoch}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer, pl_module, "end")

    def save(self, trainer: Trainer, pl_module: LightningModule, when: str) -> None:
        assert isinstance(pl_module, AnomalyModule)
        found: dict[str, Any] = {
            "noise": torch.rand(4, generator=pl_module.step_generator(0)),
            "state": {name: value for name, value in pl_module.state_dict().items() if "_extra_state" not in name},
            "thresholds": {level: entry["threshold"] for level, entry in pl_module.calibration.record.items()},
        }
        torch.save(found, self.folder / f"{when}-{trainer.global_rank}.pt")


def strides(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: weight.stride() for name, weight in module.named_parameters()}


def fit(name: str, folder: Path, *, batch_size: int, learn: bool, **options: Any) -> None:
    folder.mkdir()
    changes = {key: value for key, value in FIRST_PHASES.items() if key in config(name)["model"]}
    model = make_model(name, **changes, **CHANGES.get(name, {}))
    if isinstance(model, DeepSVDD):  # components of the centre near 0 are all moved to 0.1
        model.head.weight.data.mul_(50)
    still = 1 if model.single_pass or not changes else 2
    trainer = make_trainer(
        max_epochs=still + learn, callbacks=[Calibrate(), Watch(folder, still=still)], default_root_dir=folder,
        **({} if model.single_pass else {"limit_train_batches": 2}), **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=make_data(name, train_batch_size=batch_size, seed=ORDER))


def load(file: Path) -> Any:
    return torch.load(file, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(group(name))) for name in METHODS])
def test_two_processes_fit_what_one_does(name: str, tmp_path: Path, two_processes: dict[str, Any]) -> None:
    half = config(name)["data"]["train_batch_size"] // 2
    fit(name, tmp_path / "one", batch_size=2 * half, learn=False)
    fit(name, tmp_path / "two", batch_size=half, learn=True, **two_processes)
    moments = sorted(file.name.removesuffix("-0.pt") for file in (tmp_path / "two").glob("*-0.pt"))
    for moment in moments:  # every process has the same model, when it is validated and at the end
        first, second = (load(tmp_path / "two" / f"{moment}-{rank}.pt") for rank in range(2))
        assert first["state"].keys() == second["state"].keys()
        assert [key for key, value in first["state"].items() if not same(value, second["state"][key])] == []
        assert first["thresholds"] == second["thresholds"]
        assert not torch.equal(first["noise"], second["noise"])
    alone = list((tmp_path / "one").glob("validated-*-0.pt"))
    for file in alone or [tmp_path / "one" / "end-0.pt"]:
        one, both = load(file), load(tmp_path / "two" / file.name)
        for key, value in one["state"].items():  # sums in another order
            torch.testing.assert_close(both["state"][key], value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=key)
        assert one["thresholds"] == pytest.approx(both["thresholds"], rel=1e-4, abs=1e-5)
        assert torch.equal(one["noise"], both["noise"])


def same(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.nan_to_num(), second.nan_to_num())


class Halves:
    """A strategy of two processes, of which the other one has seen nothing yet."""

    def reduce(self, value: Tensor, *, reduce_op: str) -> Tensor:
        assert reduce_op == "mean"
        return (value + torch.cat([torch.zeros(3), torch.ones(3)])) / 2


def test_layers_that_are_not_trained_keep_their_statistics() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3, track_running_stats=False))
    net(torch.randn(8, 3))
    trained, frozen, _ = net
    mean, var, kept = trained.running_mean.clone(), trained.running_var.clone(), frozen.running_var.clone()
    share_running_statistics(net, Halves())  # type: ignore[arg-type]
    torch.testing.assert_close(trained.running_mean, mean / 2)
    torch.testing.assert_close(trained.running_var, (var + 1) / 2)
    assert torch.equal(frozen.running_var, kept)


class Densities(CutPaste):
    """CutPaste that learns nothing, and other methods whose scores are densities, measured by the same processes."""

    def __init__(self, file: Path) -> None:
        tiny: dict[str, Any] = {"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 4}
        pasted = {**tiny, "hidden": [8], "density": "kde"}
        super().__init__(**tiny, hidden=[8], lr=0.0)
        kinds = [CutPaste(**{**pasted, "density": "ridge"}), CutPaste(**pasted), CutPaste(**pasted, bank_size=20)]
        self.file, self.others = (
            file,
            (
                *kinds,
                DROC(**tiny),
                DROC(**tiny, density="kde"),
                CSI(**tiny),
                CSI(**tiny, density="native", score_views=1),
            ),
        )
        for part in self.modules():
            if isinstance(part, _NormBase):
                part.momentum = 0.0

    def fit_statistics(self) -> None:
        super().fit_statistics()
        for method in self.others:
            method.trainer = self.trainer
            method.eval().fit_statistics()

    def on_fit_end(self) -> None:
        super().on_fit_end()
        if self.trainer.is_global_zero:
            found = {
                f"{i} {name}": value
                for i, part in enumerate((self, *self.others))
                for name, value in part.named_buffers(recurse=False)
            }
            torch.save(found, self.file)


def test_densities_of_two_processes(tmp_path: Path, two_processes: dict[str, Any]) -> None:
    found = []
    for number, options in ((1, {}), (2, two_processes)):
        torch.manual_seed(0)
        model, data = Densities(tmp_path / f"{number}.pt"), make_data("CutPaste", train_batch_size=50 // number)
        trainer = make_trainer(max_epochs=1, limit_val_batches=0, default_root_dir=tmp_path, **options)
        trainer.fit(model, datamodule=data)
        found.append(load(tmp_path / f"{number}.pt"))
    one, both = found
    assert len(one) == 4 * 2 + 3 + 3  # four Gaussians, three banks, and CSI's own statistics
    for name, value in one.items():  # sums in another order
        assert value[0].isfinite().all()
        torch.testing.assert_close(both[name], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)
