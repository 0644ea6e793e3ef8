"""Every method leaves Python: ``torch.export``, and ONNX by both exporters, equal to torch under onnxruntime.

Exported is ``forward``. Images: scores and, where there is one, the map of images (B, C, H, W), B being any number. Videos: scores of
videos and their snippets from features (B, C, T, D) and ``length`` (B,), B and T being any numbers.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from tiny_runs import METHODS, all_test_inputs, fitted
from torch import Tensor

EVERY = [pytest.param(name, marks=pytest.mark.xdist_group(tiny_runs.group(name))) for name in METHODS]
OUTPUTS = ("anomaly_score", "anomaly_map")


def inputs(name: str, count: int, *, snippets: int = 40) -> dict[str, Tensor]:
    """What ``forward`` takes, of so many images or videos."""
    batch = all_test_inputs(name)
    if "image" in batch:
        return {"image": batch["image"][:count]}
    features = batch["snippet_features"][:count, :, :snippets].contiguous()
    return {"snippet_features": features, "length": batch["length"][:count].clamp_max(features.shape[2])}


def sizes(name: str) -> list[dict[str, Tensor]]:
    """Batches of other sizes than that of the export."""
    return [inputs(name, 1), inputs(name, 7, snippets=64)]


def dynamic(example: dict[str, Tensor]) -> dict[str, dict[int, str]]:
    """Axes of any size, by name."""
    return {key: {0: "batch", 2: "snippets"} if key == "snippet_features" else {0: "batch"} for key in example}


@torch.no_grad()
def expected(name: str, batch: dict[str, Tensor]) -> list[Tensor]:
    return [value for value in fitted(name).model(**batch) if value is not None]


def same(found: Any, wanted: list[Tensor]) -> None:
    values = [torch.as_tensor(value) for value in found if value is not None]
    assert [value.shape for value in values] == [value.shape for value in wanted]
    for value, true in zip(values, wanted, strict=True):
        assert value.dtype == torch.float32
        # Another program adds the same numbers in another order.
        torch.testing.assert_close(value, true, rtol=1e-3, atol=1e-4)


def needs_exporter() -> None:
    """Skip where ONNX cannot be made from captured graphs; torch makes it from traces by default before 2.9."""
    pytest.importorskip("onnxscript", reason="ONNX of a captured graph needs onnxscript")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        pytest.skip("before torch 2.9 ONNX of a captured graph lacks operators, adaptive max pooling among them")


def run_onnx(file: Path, batch: dict[str, Tensor]) -> list[Any]:
    session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}
    return session.run(None, {key: value.numpy() for key, value in batch.items() if key in names})


@pytest.mark.parametrize("name", EVERY)
def test_a_captured_graph_and_its_onnx(name: str, tmp_path: Path) -> None:
    example, file = inputs(name, 3), tmp_path / "model.onnx"
    dims = {axis: torch.export.Dim(axis) for axis in ("batch", "snippets")}
    shapes = {key: {axis: dims[dim] for axis, dim in axes.items()} for key, axes in dynamic(example).items()}
    program = torch.export.export(fitted(name).model, (), kwargs=example, dynamic_shapes=shapes, strict=False)
    for batch in sizes(name):
        same(program.module()(**batch), expected(name, batch))
    needs_exporter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Optimising takes long, but names what is left anew: the buffer mean of this method and a node called so would clash.
        optimize = name == "PostHocScore"
        torch.onnx.export(program, (), file, kwargs=example, dynamo=True, optimize=optimize, verbose=False)
    for batch in sizes(name):
        same(run_onnx(file, batch), expected(name, batch))


@pytest.mark.xdist_group("ADACL")
def test_onnx_of_a_method_as_the_manual_says(tmp_path: Path) -> None:
    """The exporter captures the graph itself, and batches of any size need no more than a name."""
    needs_exporter()
    example, file = inputs("ADACL", 3), tmp_path / "model.onnx"
    batch = {"image": {0: torch.export.Dim("batch")}}
    fitted("ADACL").model.to_onnx(file, example["image"], dynamo=True, dynamic_shapes=batch, verbose=False)
    for other in sizes("ADACL"):
        same(run_onnx(file, other), expected("ADACL", other))


@pytest.mark.parametrize("name", EVERY)
def test_onnx_of_a_trace(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="to_onnx needs onnx")
    example, file = inputs(name, 3), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted(name).model.to_onnx(
            file, tuple(example.values()), input_names=list(example), dynamic_axes=dynamic(example), dynamo=False
        )
    for batch in sizes(name):
        same(run_onnx(file, batch), expected(name, batch))
