"""Writing a fitted method as one file that other programs run: ONNX, ``torch.export`` or TorchScript."""

from __future__ import annotations

import io
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch.core.module import _jit_is_scripting
from torch import Tensor, nn

from anomaly_suite.contract import AnomalyModule, Preparation
from anomaly_suite.deploy.graph import FeatureGraph, graph_of, metadata_of
from anomaly_suite.errors import ConfigError, did_you_mean
from anomaly_suite.io.atomic import save_bytes
from anomaly_suite.methods.weak_video.bags import BagModule

Format = Literal["onnx", "torch_export", "torchscript"]
Exporter = Literal["trace", "capture"]
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".pt"}
EXAMPLE = 96  # side of the pictures that a network of any size is recorded with
LEAST = 32  # and what it takes at least, in a captured graph
OPSET = 18
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # in what exporters say to a terminal
LIMIT = 2**31 - 1  # bytes that a file of ONNX holds in itself


class Recorded(NamedTuple):
    """A graph, what it is recorded with, and what its file says.

    Attributes:
        graph: From inputs to a tuple of outputs.
        example: Inputs.
        axes: By input, names of the axes of any size.
        outputs: Names.
        metadata: Text by name.
        least: By name, the smallest size of an axis, where the network needs one.
    """

    graph: nn.Module
    example: dict[str, Tensor]
    axes: dict[str, dict[int, str]]
    outputs: list[str]
    metadata: dict[str, str]
    least: Mapping[str, int] = {}


def export(
    model: AnomalyModule,
    preparation: Preparation | None,
    path: str | Path,
    *,
    format: Format = "onnx",
    exporter: Exporter = "trace",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write one file with preparation, scores, calibration and decisions inside.

    Of a method on images the input is ``image``, uint8 (B, H, W, channels), RGB or grey, B, H and W being any numbers, and outputs are
    those of :data:`~anomaly_suite.deploy.graph.NAMES` that the method and its calibration have. Of a method on snippet features see
    :class:`~anomaly_suite.deploy.graph.FeatureGraph`.

    Args:
        model: A fitted method.
        preparation: Of its data module; None for a method on snippet features.
        path: The file; a missing suffix is added, missing folders are made and an older file is replaced.
        format: ``onnx``; ``torch_export``, read by ``torch.export.load``; or ``torchscript``, read by ``torch.jit.load``.
        exporter: How ONNX comes about: from a ``trace``; or from a captured graph (``capture``), which needs onnxscript and torch of at
            least 2.9.
        metadata: Further entries for the file, such as ``data`` or ``license``.

    Returns:
        The file written.

    Raises:
        ConfigError: an unknown format, a package that is missing, or a method or preparation that cannot be written so.
        NotFittedError: the method cannot score yet.
        FileWriteError: the file cannot be written.
    """
    for name, value, known in (("format", format, get_args(Format)), ("exporter", exporter, get_args(Exporter))):
        if value not in known:
            raise ConfigError(
                f"{name} must be one of {', '.join(known)}; got {value!r}.{did_you_mean(str(value), known)}"
            )
    model.require_fitted()
    target = Path(path)
    target = target if target.suffix == SUFFIXES[format] else target.with_name(target.name + SUFFIXES[format])
    device, mode = model.device, model.training
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            recorded = _recorded(model.cpu(), preparation, metadata or {})
            content = _onnx(recorded, exporter) if format == "onnx" else _WRITERS[format](recorded)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(COLOURS.sub("", str(error)).split())[:300]
        raise ConfigError(
            f"{type(model).__name__} cannot be written as {format} by this torch ({torch.__version__}): {reason} "
            "Choose another format."
        ) from error
    finally:
        model.to(device).train(mode)
    save_bytes(target, content)
    return target


def _recorded(model: AnomalyModule, preparation: Preparation | None, metadata: Mapping[str, Any]) -> Recorded:
    entries = metadata_of(model, preparation, metadata)
    if preparation is None:
        if not isinstance(model, BagModule):
            raise ConfigError(
                f"{type(model).__name__} scores images; got no preparation. Give preparation(), of the data module it was trained with."
            )
        features = FeatureGraph(model)
        example = {"snippet_features": torch.rand(2, 3, 40, model.feature_dim), "length": torch.tensor([40, 33])}
        axes = {"snippet_features": {0: "batch", 1: "crops", 2: "snippets"}, "length": {0: "batch"}}
        return Recorded(features, example, axes, features.outputs(), entries)
    graph = graph_of(model, preparation)
    # Sides that no network would be built for, so that no axis is taken for one of a fixed size.
    sides = (EXAMPLE, EXAMPLE + 32) if graph.keeps_size else (EXAMPLE + 1, EXAMPLE + 3)
    drawn = torch.Generator().manual_seed(0)
    image = torch.randint(256, (2, *sides, graph.channels), dtype=torch.uint8, generator=drawn)
    names = graph.outputs(model(graph.prepared(image))[1] is not None)
    axes = {"image": {0: "batch", 1: "height", 2: "width"}}
    least = dict.fromkeys(("height", "width"), LEAST) if graph.keeps_size else {}
    return Recorded(graph, {"image": image}, axes, names, entries, least)


def _onnx(recorded: Recorded, exporter: Exporter) -> bytes:
    onnx = _require("onnx")
    names: dict[str, Any] = {"input_names": list(recorded.example), "output_names": recorded.outputs}
    inputs = tuple(recorded.example.values())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        if exporter == "capture":
            _require("onnxscript")
            torch.onnx.export(_captured(recorded), inputs, file, dynamo=True, optimize=False, verbose=False, **names)
        else:
            axes = {**recorded.axes, **{name: {0: "batch"} for name in recorded.outputs}}
            torch.onnx.export(
                recorded.graph, inputs, file, dynamo=False, opset_version=OPSET, dynamic_axes=axes, **names
            )
        model = onnx.load(file)
    for name, value in recorded.metadata.items():
        model.metadata_props.add(key=name, value=value)
    if model.ByteSize() > LIMIT:
        raise ConfigError("a file of ONNX holds 2 GB; the model is larger. Use format: torch_export.")
    written: bytes = model.SerializeToString()
    return written


def _captured(recorded: Recorded) -> Any:
    names = dict.fromkeys(name for axes in recorded.axes.values() for name in axes.values())
    dims = {name: torch.export.Dim(name, min=recorded.least.get(name)) for name in names}
    shapes = {key: {axis: dims[name] for axis, name in axes.items()} for key, axes in recorded.axes.items()}
    inputs = tuple(recorded.example.values())
    return torch.export.export(recorded.graph, inputs, dynamic_shapes=shapes, strict=False)


def _torch_export(recorded: Recorded) -> bytes:
    content = io.BytesIO()
    torch.export.save(_captured(recorded), content, extra_files=_extra(recorded))
    return content.getvalue()


def _torchscript(recorded: Recorded) -> bytes:
    content = io.BytesIO()
    with _jit_is_scripting():  # as Lightning's own export: a module without a trainer can then be looked at
        traced: Any = torch.jit.trace(recorded.graph, tuple(recorded.example.values()), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, content, _extra_files={name: value.encode() for name, value in _extra(recorded).items()})
    return content.getvalue()


def _extra(recorded: Recorded) -> dict[str, str]:
    """Metadata of formats whose files do not say what outputs are called."""
    return {**recorded.metadata, "inputs": ",".join(recorded.example), "outputs": ",".join(recorded.outputs)}


_WRITERS: Mapping[str, Callable[[Recorded], bytes]] = {"torch_export": _torch_export, "torchscript": _torchscript}


def _require(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"export to ONNX needs {name}, which is not installed. Install anomaly-suite[export]."
        ) from error
