"""A small grid without training, shared by the tests of ``anomaly_suite.benchmark``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from anomaly_suite.benchmark.cells import Cell
from anomaly_suite.benchmark.folder import GridFolder, Record
from anomaly_suite.benchmark.grid import Grid, read_grid

CONFIGS: dict[str, dict[str, Any]] = {
    "first.yaml": {"model": {"class_path": "PaDiM"}, "trainer": {"default_root_dir": "runs/first"}},
    "second.yaml": {"model": {"class_path": "IGD"}},
    "encoder.yaml": {"model": {"class_path": "SimCLR"}},
}


def read_config(name: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    content = CONFIGS[name]
    return (name,), {key: dict(value) for key, value in content.items()}


def grid_of(folder: Path, **content: Any) -> Grid:
    """A grid from what its file says."""
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump({"folder": str(folder / "out"), **content}), encoding="utf-8")
    return read_grid(file, read_config)


def record_of(value: float, **more: Any) -> Record:
    """What a cell gives back."""
    return {"metrics": {"image_AUROC": value}, "seconds": {"fit": 2.0, "test": 1.0}, **more}


def finish(cells: Sequence[Cell], root: Path, values: Sequence[float], **more: Any) -> None:
    """Give cells a record each."""
    folder = GridFolder(root)
    for cell, value in zip(cells, values, strict=True):
        folder.finish(cell, {"status": "finished", "error": None, **record_of(value, **more)})
