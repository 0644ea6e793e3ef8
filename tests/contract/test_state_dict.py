"""What every method's ``state_dict`` holds and who can take it: tensors alone, under names that code can contain."""

from __future__ import annotations

import copy
from keyword import iskeyword
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from safetensors.torch import load_model, save_file
from timm.utils.model_ema import ModelEmaV3
from tiny_runs import METHODS, all_test_inputs, checkpoint_file, fitted, make_data, make_model, make_trainer
from torch import Tensor

from anomaly_suite.contract import AnomalyModule, Prediction

EVERY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(tiny_runs.group(name))) for name in METHODS]
)


@torch.no_grad()
def decided(model: AnomalyModule, name: str) -> Prediction:
    """Scores and decisions of a few test samples."""
    batch = {key: value[:8] for key, value in all_test_inputs(name).items()}
    return model.eval().test_step(batch, 0)  # type: ignore[return-value]


def same(found: AnomalyModule, name: str) -> None:
    assert found.calibration.record == fitted(name).model.calibration.record
    first, second = decided(found, name), decided(fitted(name).model, name)
    assert first.keys() == second.keys()
    assert ("pred_label" in first) == ("image" in found.calibration.record)
    for key, value in first.items():
        assert torch.equal(value, second[key]), key  # type: ignore[arg-type, literal-required]


@EVERY
def test_it_holds_tensors_alone(name: str) -> None:
    for model in (make_model(name), fitted(name).model):
        assert not {key for key, value in model.state_dict().items() if not isinstance(value, Tensor)}
    assert not {key for key, value in fitted(name).checkpoint["state_dict"].items() if not isinstance(value, Tensor)}


@EVERY
def test_names_can_stand_in_code(name: str) -> None:
    model = fitted(name).model
    named = {*dict(model.named_modules()), *dict(model.named_parameters()), *dict(model.named_buffers())}
    parts = {part for key in named | set(model.state_dict()) if key for part in key.split(".")}
    assert not {part for part in parts if iskeyword(part) or not (part.isidentifier() or part.isdigit())}


@EVERY
def test_safetensors_hold_a_whole_method(name: str, tmp_path: Path) -> None:
    save_file(fitted(name).model.state_dict(), tmp_path / "model.safetensors")
    model = make_model(name)
    assert load_model(model, tmp_path / "model.safetensors") == (set(), [])
    same(model, name)


@EVERY
def test_a_checkpoint_restores_the_decisions(name: str) -> None:
    same(type(fitted(name).model).load_from_checkpoint(checkpoint_file(name), weights_only=True), name)
    model, trainer = make_model(name), make_trainer(limit_test_batches=1)
    trainer.test(model, make_data(name), ckpt_path=checkpoint_file(name), weights_only=True, verbose=False)
    same(model, name)


@EVERY
def test_a_checkpoint_of_a_former_version_loads(name: str, tmp_path: Path) -> None:
    torch.save(former(fitted(name).checkpoint, fitted(name).model), tmp_path / "old.ckpt")
    same(type(fitted(name).model).load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True), name)


@pytest.mark.xdist_group("IGD")
def test_former_names_load_where_a_method_is_a_part_of_another_module() -> None:
    whole = torch.nn.ModuleList([make_model("IGD")])
    state = former(fitted("IGD").checkpoint, fitted("IGD").model)["state_dict"]
    assert "descriptors.global.center" in state
    whole.load_state_dict({f"0.{key}": value for key, value in state.items()})
    same(whole[0], "IGD")  # type: ignore[arg-type]


@pytest.mark.parametrize("foreach", [False, True])
@EVERY
def test_an_average_of_timm_takes_it(name: str, foreach: bool) -> None:
    model = copy.deepcopy(fitted(name).model)
    average = ModelEmaV3(model, decay=0.75, foreach=foreach)
    model.calibration.set("pixel", threshold=0.5, low=0.0, high=1.0, rule="fixed", split="another" * 20)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for value in weights.values():
            value += 1
    average.update(model)
    for key, value in average.module.named_parameters():
        torch.testing.assert_close(value, weights[key] - 0.75, rtol=1e-5, atol=1e-5)
    assert (
        average.module.calibration.record == fitted(name).model.calibration.record
    )  # of other weights, it would be wrong


def former(checkpoint: dict[str, Any], model: AnomalyModule) -> dict[str, Any]:
    """A checkpoint as version 0.1 wrote it: a mapping as calibration, and parts called ``global``."""
    state = {key.replace(".global_.", ".global."): value for key, value in checkpoint["state_dict"].items()}
    return {**checkpoint, "state_dict": {**state, "calibration._extra_state": copy.deepcopy(model.calibration.record)}}
