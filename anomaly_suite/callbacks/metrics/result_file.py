"""The one result file of a test: ``metrics.json``, which several callbacks write, each its section.

Top level: what ``AnomalyMetrics`` found (``metrics``, ``undefined``, ``error_bound``, ``definitions``, ``data``) and where it comes from
(``method``, ``dataset``, ``dataset_version`` where there are several, ``labelled_anomalies`` where some were moved into training, ``validation``, ``calibration``, ``seed``, ``checkpoint``,
``command``, ``versions``). Then a section per callback:
``segmentation`` of ``SegmentationMetrics``, ``components`` of ``ComponentMetrics``, ``localisation`` of ``LocalisationMetrics``,
``frames`` of ``FrameMetrics``.

All this is of the last test. ``data_sets`` has the same of the last test on each data set, by its name, so that no test replaces that of another
data set.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningModule, Trainer

from anomaly_suite.callbacks.base import of_data, of_module
from anomaly_suite.callbacks.loggers import log_file
from anomaly_suite.callbacks.run_folder import data_set_of, identity_in, now, run_of
from anomaly_suite.callbacks.writing import at_end, going_on
from anomaly_suite.io.atomic import save_json, try_file
from anomaly_suite.io.results import DATA_SETS, by_data_set

FILENAME = "metrics.json"

_sections: WeakKeyDictionary[Trainer, dict[str, dict[str | None, Any]]] = (
    WeakKeyDictionary()
)  # of the test under way, by file


def begin_result(trainer: Trainer, filename: str = FILENAME) -> None:
    """Forget the sections of an earlier test, and try the file; every callback that writes one says so when its test begins.

    Args:
        trainer: At the start of its test.
        filename: Name in the run folder.

    Raises:
        FileWriteError: the file cannot be written.
    """
    _sections[trainer] = {}
    file = run_of(trainer) / filename  # every process takes part
    if trainer.is_global_zero:
        try_file(file)


def write_section(
    trainer: Trainer, pl_module: LightningModule, filename: str, section: str | None, content: dict[str, Any]
) -> None:
    """Write what one callback found, beside what others wrote in this test; to be called in every process.

    The file is replaced as a whole, so an older test's sections stay under ``data_sets`` alone. Where it cannot be written, the content is printed, the test
    goes on, and its end raises, see :class:`~anomaly_suite.callbacks.writing.WritesFiles`.

    Args:
        trainer: In its test.
        pl_module: The module tested.
        filename: Name in the run folder; callbacks that name the same file share it.
        section: Key of the content; None for the top level.
        content: Plain values.
    """
    folder = run_of(trainer)  # every process takes part
    if not trainer.is_global_zero:
        return
    parts = _sections.setdefault(trainer, {}).setdefault(filename, {})
    parts[section] = content
    named = {name: part for name, part in parts.items() if name is not None}
    values = content if section is None else {section: content}
    with going_on(trainer, lambda: json.dumps(values, indent=2, default=str)):
        whole = {**parts.get(None, {}), **_context(trainer, pl_module), **named}
        others = by_data_set(folder / filename, identity_in(trainer))
        save_json(folder / filename, {**whole, DATA_SETS: {**others, data_set_of(trainer): whole}})
        text = json.dumps(whole, indent=2, default=str)
        at_end(trainer, filename, lambda trainer: log_file(trainer, folder / filename, text))


def log_values(pl_module: LightningModule, values: dict[str, float]) -> None:
    """Log metrics of an epoch that have the same value in every process."""
    for name, value in values.items():
        # The largest of equal values is that value, and Lightning need not warn.
        pl_module.log(name, value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max")


def _context(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Where the figures come from."""
    data: Any = getattr(trainer, "datamodule", None)
    version = of_data(trainer, "dataset_version", None)
    moved = of_data(trainer, "labelled_anomalies", None)
    return {
        "method": type(pl_module).__name__,
        "dataset": type(data).__name__ if data is not None else "unknown",
        **({} if version is None else {"dataset_version": version}),
        **(
            {}
            if moved is None
            else {"labelled_anomalies": {**moved, "trained_on": bool(of_module(pl_module, "reads_labels", True))}}
        ),
        "validation": of_data(trainer, "validation", "unknown"),
        "calibration": getattr(getattr(pl_module, "calibration", None), "record", {}),
        "seed": torch.initial_seed(),
        "checkpoint": trainer.ckpt_path,
        "run": identity_in(trainer),
        "date": now(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("anomaly-suite", "torch", "lightning", "torchmetrics", "timm", "albumentations", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
