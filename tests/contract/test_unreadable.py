"""Every unreadable or foreign checkpoint or file of weights ends in one sentence with its name, for every method."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch
from lightning.pytorch import Trainer
from tiny_runs import METHODS, all_test_inputs, checkpoint_file, fitted, make_data, make_model
from unreadable import UNREADABLE, write_unreadable

from anomaly_suite.errors import AnomalySuiteError, CheckpointError, StateDictError, WeightsError

KINDS = ("cut", "malicious", "html")  # of all that are unreadable, see test_tensor_files.py


def sentence(error: pytest.ExceptionInfo[Any], file: Path) -> str:
    message = str(error.value)
    assert str(file) in message
    assert "\n" not in message
    assert len(message) < 700
    return message


def changed(name: str, change: Callable[[dict[str, Any]], Any], file: Path) -> Path:
    """The checkpoint of a method with a change, which may return another content."""
    content = {**fitted(name).checkpoint, "state_dict": dict(fitted(name).checkpoint["state_dict"])}
    other = change(content)
    torch.save(content if other is None else other, file)
    return file


def a_weight(state: dict[str, Any]) -> str:
    return next(key for key, value in state.items() if value.ndim and "calibration" not in key)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no record": (lambda content: content.pop("anomaly_suite") and None, "cannot load a checkpoint of a class outside"),
    "another class": (
        lambda content: content.update(anomaly_suite={"class": "Else", "seed": 0}),
        "cannot load a checkpoint of Else",
    ),
    "missing key": (
        lambda content: content["state_dict"].pop(a_weight(content["state_dict"])) is None or None,
        "it lacks ",
    ),
    "extra key": (
        lambda content: content["state_dict"].update({"strange.weight": torch.ones(1)}),
        "it also holds strange.weight",
    ),
    "other shape": (
        lambda content: content["state_dict"].update(
            {(key := a_weight(content["state_dict"])): content["state_dict"][key][None][None]}
        ),
        "has the shape",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(tiny_runs.group(name))) for name in METHODS]
)
class TestEveryMethod:
    def test_load_from_checkpoint(self, name: str, tmp_path: Path) -> None:
        kind = type(make_model(name))
        whole = checkpoint_file(name).read_bytes()
        for number, unreadable in enumerate(KINDS):
            file = write_unreadable(unreadable, tmp_path, f"{number}.ckpt", whole)
            with pytest.raises(CheckpointError, match=re.escape(UNREADABLE[unreadable])) as error:
                kind.load_from_checkpoint(file)
            assert "Give a checkpoint that fit wrote" in sentence(error, file)
        assert not (tmp_path / "ran").exists()
        for number, (change, said) in enumerate(CHANGES.values()):
            file = changed(name, change, tmp_path / f"changed-{number}.ckpt")
            with pytest.raises(CheckpointError, match=re.escape(said)) as error:
                kind.load_from_checkpoint(file)
            sentence(error, file)

    def test_a_trainer_given_one(self, name: str, tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
        model, data = make_model(name), make_data(name)
        cut = write_unreadable("cut", tmp_path, whole=checkpoint_file(name).read_bytes())
        shape = changed(name, CHANGES["other shape"][0], tmp_path / "shape.ckpt")
        bare = changed(name, lambda content: content["state_dict"], tmp_path / "bare.ckpt")
        alone = changed(name, lambda content: content.pop("optimizer_states") and None, tmp_path / "alone.ckpt")
        for verb, file, said in (
            ("fit", cut, "is cut or damaged"),
            ("test", shape, "has the shape"),
            ("predict", bare, "it holds a bare state_dict"),
            ("fit", alone, "has no optimizer_states: it was saved to be tested"),
        ):
            with pytest.raises(CheckpointError, match=said) as error:
                getattr(trainer_in(), verb)(model, datamodule=data, ckpt_path=file)
            sentence(error, file)

    def test_numpy_numbers_in_a_checkpoint(self, name: str, tmp_path: Path) -> None:
        file = changed(name, lambda content: content.update(mean_iu=np.float64(0.5)), tmp_path / "a.ckpt")
        restored = type(make_model(name)).load_from_checkpoint(file).eval()
        batch = {key: value[:2] for key, value in all_test_inputs(name).items()}
        with torch.no_grad():
            first, second = fitted(name).model.predict(batch), restored.predict(batch)  # type: ignore[arg-type]
        assert torch.equal(first["anomaly_score"], second["anomaly_score"])

    def test_every_option_of_weights(self, name: str, tmp_path: Path) -> None:
        """Whatever is given, what a fit does before its first step says which file it is."""
        options = [
            option for option in inspect.signature(type(make_model(name))).parameters if option.endswith("weights")
        ]
        for number, option in enumerate(options):
            for unreadable in ("cut", "malicious"):
                file = write_unreadable(unreadable, tmp_path, f"{number}-{unreadable}.pth")
                model = _with_weights(name, option, file)
                if model is None:
                    break
                with pytest.raises(WeightsError, match=re.escape(UNREADABLE[unreadable])) as error:
                    model.load_pretrained()
                sentence(error, file)
        assert not (tmp_path / "ran").exists()

    def test_a_state_that_does_not_fit_is_told_in_python(self, name: str) -> None:
        model = make_model(name)
        state = copy.copy(dict(model.state_dict()))
        state["strange.weight"] = torch.ones(1)
        with pytest.raises(RuntimeError, match=f"does not fit {name}: it also holds strange.weight"):
            model.load_state_dict(state)
        with pytest.raises(StateDictError, match="it lacks "):
            model.load_state_dict({})
        assert not model.load_state_dict({}, strict=False).unexpected_keys


def _with_weights(name: str, option: str, file: Path) -> Any:
    """A model with a file of weights, where its configuration uses that option."""
    changes: dict[str, Any] = {option: str(file)}
    if option == "local_encoder_weights":
        changes |= {"scope": "both"}
    if option == "weights" and name == "DeepSVDD":
        changes |= {"backbone": "resnet10t", "in_channels": 3}
    try:
        model = make_model(name, **changes)
    except AnomalySuiteError:
        return None
    if model.hparams[option] != str(file):  # tiny_runs puts the pre-trained segmenter in
        model = type(model)(**{**model.hparams, option: str(file)})
    if option == "backbone_weights":
        model = type(model)(**{**model.hparams, "segmenter_weights": None})
    return model
