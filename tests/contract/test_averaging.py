"""Weight averaging, over all methods: averaged weights come with their own statistics, or one sentence refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from timm.utils import ModelEmaV3
from tiny_runs import FIRST_PHASES, METHODS, all_test_inputs, config, group, make_data, make_model, make_trainer
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import ConfigError, NotFittedError
from anomaly_suite.methods import StudentTeacher
from anomaly_suite.nn.encoders import standardize

FEW = {"max_epochs": 2, "limit_val_batches": 1}
FEW_SCENES = {"train_size": 12, "val_size": 2, "train_batch_size": 4, "eval_batch_size": 2}
CHANGES: dict[str, dict[str, Any]] = {"DeepSVDD": {"objective": "soft-boundary", "warmup_epochs": 0}}
"""Options with which a method has more statistics."""


class ByHand(Callback):
    """As in timm's examples: the copy is made before the fit and updated after every step."""

    def __init__(self, model: AnomalyModule) -> None:
        self.ema = ModelEmaV3(model, decay=0.5)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.ema.update(pl_module)


class Watch(Callback):
    """Scores of the last validation, and the statistics that a fit leaves beside those measured again."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated: list[Tensor] = []

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.validated.append(outputs["anomaly_score"])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = cast(AnomalyModule, pl_module)
        if model.single_pass:
            return
        if isinstance(self.callback, ByHand):
            model.load_state_dict(self.callback.ema.module.state_dict())
        self.left = {name: value.clone() for name, value in model.statistics().items()}
        with torch.no_grad():
            model.eval().measure_statistics()
        self.measured = {name: value.clone() for name, value in model.statistics().items()}


def make_callback(kind: str, model: AnomalyModule) -> Callback:
    if kind == "ema":
        return EMAWeightAveraging(decay=0.5)
    if kind == "swa":
        return StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1)
    if kind == "by hand":
        return ByHand(model)
    return WeightAveraging(use_buffers=kind == "mean")


def refusal(model: AnomalyModule, kind: str) -> str | None:
    if kind == "by hand":
        return None
    if model.single_pass:
        return "it trains no weights. Leave the callback out."
    if kind == "swa" and not model.automatic_optimization:
        return "it steps its optimizers itself. Use EMAWeightAveraging or WeightAveraging."
    trained = [part for part in model.train().modules() if isinstance(part, _NormBase) and part.training]
    if kind == "parameters" and trained:
        return "its running statistics would be those of other weights. Give use_buffers=True."
    return None


def prepare(name: str, kind: str, folder: Path) -> tuple[AnomalyModule, Any, Watch, Trainer]:
    short = {key: value for key, value in FIRST_PHASES.items() if key in config(name)["model"]}
    model = make_model(name, **short, **CHANGES.get(name, {}))
    data = make_data(name, **(FEW_SCENES if group(name) == "DeepLabV3Plus" else {}))
    callback = make_callback(kind, model)
    watch = Watch(callback)
    trainer = make_trainer(
        callbacks=[callback, watch, ModelCheckpoint(folder, "last", save_on_train_epoch_end=True)],
        enable_checkpointing=True, default_root_dir=folder, **FEW,
    )  # fmt: skip
    return model, data, watch, trainer


def scores(model: AnomalyModule, name: str) -> Tensor:
    few = {key: value[:4] for key, value in all_test_inputs(name).items()}
    with torch.no_grad():
        return model.eval().predict(cast(Any, few))["anomaly_score"]


def rows() -> list[Any]:
    """Every method with every kind; scenes, which take longer and share their classes, with one.

    A mean is like an exponential mean but for its arithmetic, so that those with statistics are enough.
    """
    kinds = ("ema", "parameters", "swa", "by hand")
    pairs = [(name, kind) for name in METHODS for kind in kinds if kind == "ema" or group(name) != "DeepLabV3Plus"]
    pairs += [(name, "mean") for name in ("DeepSVDD", "IGD", "StudentTeacher", "PaDiM")]
    return [pytest.param(*pair, marks=pytest.mark.xdist_group(group(pair[0]))) for pair in pairs]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "kind"), rows())
def test_averaged_weights_have_their_own_statistics(name: str, kind: str, tmp_path: Path) -> None:
    model, data, watch, trainer = prepare(name, kind, tmp_path)
    if kind == "by hand" and not isinstance(model.calibration.get_extra_state(), Tensor):
        pytest.skip("timm averages tensors, and nothing else may be in state_dict")
    if (refused := refusal(model, kind)) is not None:
        with pytest.raises(ConfigError, match=f"Averaging cannot average the weights of {name}: {refused}$"):
            trainer.fit(model, datamodule=data)
        return
    trainer.fit(model, datamodule=data)
    if model.single_pass:  # by hand: the copy was made of an unfitted module
        average = cast(ByHand, watch.callback).ema.module
        if average.is_fitted:  # without statistics
            assert torch.equal(scores(average, name), scores(model, name))
        else:
            with pytest.raises(NotFittedError, match="Run fit first"):
                average.test_step(all_test_inputs(name), 0)
        return
    for key, value in watch.left.items():  # the same operations, perhaps on memory laid out anew
        torch.testing.assert_close(value, watch.measured[key], rtol=1e-5, atol=1e-6, equal_nan=True, msg=key)
        assert value.isfinite().all(), key
    if kind in ("swa", "by hand"):
        return  # these validate and save the weights that are trained
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert any(not torch.equal(saved["current_model_state"][key], value) for key, value in model.named_parameters())
    for part in model.at_rest():  # what others were trained by is no average
        for key, weight in model.named_parameters():
            if any(weight is one for one in part.parameters()):
                assert torch.equal(saved["current_model_state"][key], saved["state_dict"][key]), key
    restored = type(model).load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")
    torch.testing.assert_close(scores(restored, name), scores(model, name))
    last = torch.cat(watch.validated)
    trainer.validate(model, datamodule=data, verbose=False)
    torch.testing.assert_close(torch.cat(watch.validated), last)


@pytest.mark.parametrize("name", METHODS)
def test_copies_can_be_averaged_tensor_by_tensor(name: str) -> None:
    model = make_model(name)
    saved = model.state_dict()
    for key, buffer in model.named_buffers():
        assert buffer.dtype != torch.bool, f"{key}: two bool tensors have no difference; give torch.tensor(0.0)"
        assert buffer.numel() or model.single_pass or key not in saved, (
            f"{key} would grow during the fit; fill it with NaN"
        )


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.filterwarnings("ignore")
def test_a_student_teacher_is_standardised_by_the_errors_of_its_average(kind: str, tmp_path: Path) -> None:
    model, data, _, trainer = prepare("StudentTeacher", kind, tmp_path)
    trainer.fit(model, datamodule=data)
    assert isinstance(model, StudentTeacher)
    with torch.no_grad():
        image = torch.cat([batch["image"] for batch in data.train_dataloader()])
        error, disagreement = model.components(0, standardize(image)).unbind(1)
    expected = torch.tensor([[error.mean(), disagreement.mean()], [error.std(), disagreement.std()]])
    torch.testing.assert_close(model.score_statistics[0], expected, rtol=1e-3, atol=1e-5)


class KeepsWeights(Callback):
    """Somebody's own averaging: a table of weights, put in for the validation and for good, and no copy of the module."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not hasattr(self, "weights"):
            self.weights = {name: weight.detach().clone() for name, weight in pl_module.named_parameters()}
        for name, weight in pl_module.named_parameters():
            self.weights[name].lerp_(weight.detach(), 0.5)

    def swap(self, pl_module: LightningModule) -> None:
        for name, weight in pl_module.named_parameters():
            mine = weight.detach().clone()
            weight.data.copy_(self.weights[name])
            self.weights[name] = mine

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap(pl_module)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["StudentTeacher", "IGD"])
def test_weights_that_a_callback_puts_in_are_measured(name: str, tmp_path: Path) -> None:
    model, data, watch, _ = prepare(name, "by hand", tmp_path)
    keeper = KeepsWeights()
    watch = Watch(keeper)
    trainer = make_trainer(callbacks=[keeper, watch], default_root_dir=tmp_path, **FEW)
    trainer.fit(model, datamodule=data)
    for key, value in watch.left.items():
        torch.testing.assert_close(value, watch.measured[key], rtol=1e-5, atol=1e-6, msg=key)
    last = torch.cat(watch.validated)
    plain = make_trainer(callbacks=[watch], default_root_dir=tmp_path, **FEW)
    plain.validate(model, datamodule=data, verbose=False)
    torch.testing.assert_close(torch.cat(watch.validated), last)


@pytest.mark.filterwarnings("ignore")
def test_a_copy_that_nothing_moves_stays_as_it_is(tmp_path: Path) -> None:
    model, data, _, _ = prepare("StudentTeacher", "by hand", tmp_path)
    before = copy.deepcopy(model)
    state = {key: value.clone() for key, value in before.state_dict().items() if isinstance(value, Tensor)}
    make_trainer(default_root_dir=tmp_path, **FEW).fit(model, datamodule=data)
    assert all(torch.equal(before.state_dict()[key], value) for key, value in state.items())
    assert before.hparams == model.hparams


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ADGAN", "DeepSVDD", "IGD", "StudentTeacher", "FAnoGAN"])
def test_a_resumed_average_goes_on(name: str, tmp_path: Path) -> None:
    model, data, _, trainer = prepare(name, "ema", tmp_path)
    trainer.fit(model, datamodule=data)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    longer = {**FEW, "max_epochs": 3}
    resumed, _, watch, _ = prepare(name, "ema", tmp_path)
    begun: dict[str, Tensor] = {}

    class Begin(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            begun.update({key: weight.detach().clone() for key, weight in pl_module.named_parameters()})

    callbacks = [watch.callback, watch, Begin()]
    trainer = make_trainer(callbacks=callbacks, default_root_dir=tmp_path, **longer)
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert all(torch.equal(weight, saved["current_model_state"][key]) for key, weight in begun.items())
    for key, value in watch.left.items():
        torch.testing.assert_close(value, watch.measured[key], rtol=1e-5, atol=1e-6, msg=key)


class SaveState(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = {key: value for key, value in pl_module.state_dict().items() if "_extra_state" not in key}
        torch.save(state, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["DeepSVDD", "IGD", "StudentTeacher"])
def test_two_processes_end_with_one_average(name: str, tmp_path: Path, two_processes: dict[str, Any]) -> None:
    model, data, _, _ = prepare(name, "ema", tmp_path)
    callbacks = [make_callback("ema", model), SaveState(tmp_path)]
    make_trainer(callbacks=callbacks, default_root_dir=tmp_path, **FEW, **two_processes).fit(model, datamodule=data)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    assert all(value.isfinite().all() for value in first.values())
