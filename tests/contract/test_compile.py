"""torch.compile: a compiled module is fitted, validated, tested and predicts like the plain one, over all methods."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from tiny_runs import METHODS, make_data, make_model, make_trainer
from torch import Tensor, nn

from anomaly_suite.callbacks import AnomalyMetrics, Calibrate

ONE = {"limit_train_batches": 1, "limit_val_batches": 1, "limit_test_batches": 1, "limit_predict_batches": 1}
SHORT = {
    "StudentTeacher": {"teacher_epochs": 0},
    "DeepSVDD": {"ae_epochs": 0},
    "FAnoGAN": {"gan_epochs": 1},
    "FSADNet": {"representation_epochs": 1},
    "ADGAN": {"gan_epochs": 1},
}
"""The last phase is the one that scores."""


def fit_and_predict(name: str, how: str, *, every_stage: bool, folder: Path, backend: str = "eager") -> Tensor:
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    module, data = make_model(name, **SHORT.get(name, {})), make_data(name)
    for part in module.modules():
        if type(part).__module__.startswith("timm"):  # tracing what is not ours takes most of the time
            part.forward = torch.compiler.disable(part.forward)
    model: Any = module
    if how == "torch.compile":
        model = torch.compile(module, backend=backend)
    elif how == "in place":
        module.compile(backend=backend)
    trainer = make_trainer(
        max_epochs=2 if {"gan_epochs", "representation_epochs"} & set(SHORT.get(name, {})) else 1,
        callbacks=[Calibrate(), AnomalyMetrics()],
        default_root_dir=folder,
        **ONE,
    )
    trainer.fit(model, datamodule=data)
    if every_stage:
        trainer.validate(model, datamodule=data, verbose=False)
        trainer.test(model, datamodule=data, verbose=False)
    predictions: Any = trainer.predict(model, datamodule=data)
    return torch.cat([part["anomaly_score"] for part in predictions])


def assert_alike(plain: Tensor, compiled: Tensor) -> None:
    """The backend runs the same operations, but graphs lay out no weights anew, and other layouts take other kernels."""
    torch.testing.assert_close(plain, compiled, rtol=1e-3, atol=1e-5)


STAGES = {"DAE": "one optimiser", "DeepMIL": "videos", "IGD": "several optimisers"}


def marks(name: str) -> list[pytest.MarkDecorator]:
    group = pytest.mark.xdist_group(tiny_runs.group(name))
    return [group, pytest.mark.matrix] if name in STAGES else [group]  # the test of every stage repeats those


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in METHODS])
def test_scores_of_a_compiled_module_are_equal(name: str, tmp_path: Path) -> None:
    plain = fit_and_predict(name, "plain", every_stage=False, folder=tmp_path)
    compiled = fit_and_predict(name, "torch.compile", every_stage=False, folder=tmp_path)
    assert_alike(plain, compiled)


@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, "torch.compile") for name in STAGES), ("DAE", "in place")],
)
def test_every_stage_of_a_compiled_module(name: str, how: str, tmp_path: Path) -> None:
    plain = fit_and_predict(name, "plain", every_stage=True, folder=tmp_path)
    assert_alike(plain, fit_and_predict(name, how, every_stage=True, folder=tmp_path))


@pytest.mark.slow
@pytest.mark.matrix  # a minute of C++
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_scores_up_to_rounding(tmp_path: Path) -> None:
    from torch._inductor import config

    plain = fit_and_predict("DeepMIL", "plain", every_stage=False, folder=tmp_path)
    # Dropout draws other numbers else. Its own patch: pytest's would delete the option.
    with config.patch(fallback_random=True):
        compiled = fit_and_predict("DeepMIL", "torch.compile", every_stage=False, folder=tmp_path, backend="inductor")
    assert torch.allclose(plain, compiled, rtol=1e-4, atol=1e-5)  # fused operations round differently


def test_the_compiled_part_is_the_network() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(torch.compile(make_model("DAE"), backend=backend), datamodule=make_data("DAE"))  # type: ignore[arg-type]
    convolutions = [
        node for graph in graphs for node in graph.graph.nodes if "conv" in str(node.target) or "conv" in node.name
    ]
    wanted = sum(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in make_model("DAE").modules())
    assert len(convolutions) >= wanted
