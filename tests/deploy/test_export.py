"""One file a run: every method and format, beside the package itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch
from tiny_runs import METHODS, fitted

from anomaly_suite import methods
from anomaly_suite.data.preparation import PicturePreparation
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.deploy.export import export
from anomaly_suite.deploy.graph import graph_of
from anomaly_suite.deploy.onnx_predictor import OnnxPredictor
from anomaly_suite.deploy.predictor import Predictor
from anomaly_suite.errors import ConfigError, NotFittedError, WeightsError
from anomaly_suite.methods.weak_video.bags import BagModule

KEPT = {("PaDiM", "onnx"), ("DAE", "torch_export"), ("DAE", "torchscript"), ("RTFM", "onnx"), ("PostHocScore", "onnx")}
"""What ``make test`` tries: sizes that change and that stay, images and features."""
FORMATS = ["onnx", "torch_export", "torchscript"]
EVERY = [
    pytest.param(
        name,
        format,
        marks=[
            pytest.mark.xdist_group(tiny_runs.group(name)),
            *([] if (name, format) in KEPT else [pytest.mark.matrix]),
        ],
    )
    for name in METHODS
    for format in FORMATS
]
RNG = np.random.default_rng(0)


def preparation_of(name: str) -> Any:
    return None if issubclass(getattr(methods, name), BagModule) else tiny_runs.make_data(name).preparation()


def run_file(file: Path, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file.suffix == ".onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
            known = {each.name for each in session.get_inputs()}
            found = session.run(None, {key: value.numpy() for key, value in inputs.items() if key in known})
        elif file.suffix == ".pt2":
            found = torch.export.load(file).module()(*inputs.values())
        else:
            found = torch.jit.load(file)(*inputs.values())
    return [torch.as_tensor(value).detach() for value in found]


def pictures(name: str, count: int, height: int, width: int) -> torch.Tensor:
    channels = preparation_of(name).channels
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, height, width, channels), dtype=np.uint8))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    if found.dtype == torch.bool:
        assert (found != wanted).float().mean() <= 0.01  # where a score lies on the threshold
    else:
        scale = float(wanted.abs().max()) or 1.0
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(("name", "format"), EVERY)
def test_a_file_gives_what_the_method_gives(name: str, format: Any, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnx", reason="export to ONNX needs onnx")
    model, preparation = fitted(name).model, preparation_of(name)
    mode = model.training
    file = export(model, preparation, tmp_path / "model", format=format)
    assert model.training == mode
    model.eval()
    if preparation is None:
        batch = tiny_runs.all_test_inputs(name)
        features = batch["snippet_features"][:3].contiguous()
        inputs = {"snippet_features": features, "length": batch["length"][:3]}
        with torch.no_grad():
            score, snippets = model(**inputs)
        found = run_file(file, inputs)
        close(found[0], score)
        close(found[-1], snippets)
        return
    graph = graph_of(model, preparation)
    sizes = [(1, 64, 64), (7, 64, 96)] if graph.keeps_size else [(1, 40, 52), (7, 20, 90), (3, 64, 64)]
    for size in sizes:
        image = pictures(name, *size)
        with torch.no_grad():
            wanted = graph(image)
        for one, true in zip(run_file(file, {"image": image}), wanted, strict=True):
            close(one, true)


@pytest.mark.xdist_group("PaDiM")
@pytest.mark.parametrize("size", [(64, 64), (90, 71), (20, 90)])
def test_a_graph_gives_what_the_predictor_gives(size: tuple[int, int]) -> None:
    model, preparation = fitted("PaDiM").model, preparation_of("PaDiM")
    image = pictures("PaDiM", 4, *size)
    found = Predictor(model, preparation, device="cpu")(list(image.numpy()))
    graph = graph_of(model, preparation)
    with torch.no_grad():
        columns = dict(zip(graph.outputs(True), graph(image), strict=True))
    scores = [each.anomaly_score for each in found]
    # where a picture grows, OpenCV rounds its weights, and a grey level may be another
    assert columns["anomaly_score"].tolist() == pytest.approx(scores, rel=1e-4 if size == (64, 64) else 0.02)
    assert list(columns) == ["anomaly_score", "normalized_score", "pred_label", "anomaly_map", "pred_mask"]


@pytest.mark.parametrize(
    "options",
    [
        {"frame": (0.1, 0.2, 0.9, 0.8)},
        {"crop": (12, 10)},
        {"size": (20, 24), "crop": (12, 10)},
        {},
        {"size": (20, 24), "frame": (0, 0, 0.5, 1)},
    ],
)
def test_every_preparation_as_a_graph(options: dict[str, Any]) -> None:
    picture = RNG.integers(0, 256, (50, 41, 3), dtype=np.uint8)
    pipeline = Pipeline(image_size=options.get("size"), center_crop=options.get("crop"), steps=())
    preparation = PicturePreparation(pipeline, frame=options.get("frame"))
    graph = graph_of(methods.PaDiM(), preparation)
    found = graph.prepared(torch.from_numpy(picture)[None])[0].permute(1, 2, 0).mul(255).numpy()
    wanted = preparation(picture, source="it")
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.01


@pytest.mark.xdist_group("PaDiM")
def test_onnx_predictor_is_the_predictor(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, preparation = fitted("PaDiM").model, preparation_of("PaDiM")
    file = export(model, preparation, tmp_path / "a.onnx", metadata={"license": "CC0"})
    images = list(pictures("PaDiM", 5, 64, 64).numpy())
    one, other = OnnxPredictor(file, batch_size=2, threads=1), Predictor(model, preparation, device="cpu")
    for found, wanted in zip(one(images), other(images), strict=True):
        assert found.name == wanted.name
        assert found.anomaly_score == pytest.approx(wanted.anomaly_score, rel=1e-3)
        assert found.normalized_score == pytest.approx(wanted.normalized_score, abs=1e-3)
        assert found.is_anomalous == wanted.is_anomalous
        np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=1e-2, atol=1e-3)
        assert (found.mask != wanted.mask).mean() < 0.01
    assert one.metadata["license"] == "CC0"
    assert json.loads(one.metadata["calibration"]) == model.calibration.record
    assert (one.metadata["method"], one.metadata["channels"]) == ("PaDiM", "3")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    model = fitted("PaDiM").model
    with pytest.raises(ConfigError, match=r"format must be one of onnx.*got 'onx'\. Did you mean"):
        export(model, preparation_of("PaDiM"), tmp_path / "a", format="onx")  # type: ignore[arg-type]
    with pytest.raises(NotFittedError, match="no fitted statistics"):
        export(methods.PaDiM(), preparation_of("PaDiM"), tmp_path / "a")
    with pytest.raises(ConfigError, match="PaDiM scores images; got no preparation"):
        export(model, None, tmp_path / "a")
    steps = Pipeline(image_size=32, center_crop=None, steps=[{"class": "Equalize", "p": 1}])
    with pytest.raises(
        ConfigError, match=r"transform steps cannot be written into an exported file; the run has Equalize"
    ):
        export(model, PicturePreparation(steps), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_what_is_no_exported_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(WeightsError, match=r"there is no '.*gone\.onnx'\. Write one with"):
        OnnxPredictor(tmp_path / "gone.onnx")
    (tmp_path / "odd.onnx").write_text("nothing")
    with pytest.raises(WeightsError, match=r"odd\.onnx' cannot be read as ONNX"):
        OnnxPredictor(tmp_path / "odd.onnx")
    with pytest.raises(ConfigError, match=r"providers must be of .*got 'Abacus'"):
        OnnxPredictor(tmp_path / "odd.onnx", providers=["Abacus"])
