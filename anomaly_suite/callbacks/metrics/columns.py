"""One column of values a loader, under Lightning's own names, and one of all loaders together.

A single loader has plain names. Of several, ``image_AUROC/dataloader_idx_1`` is that of the second, and ``pooled/image_AUROC`` that of all their
samples together; monitors (``EarlyStopping``, ``ModelCheckpoint``) also find the latter under its plain name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lightning.pytorch import LightningModule

from anomaly_suite.callbacks.metrics.result_file import log_values
from anomaly_suite.callbacks.reading import POOL

T = TypeVar("T")


def flat(columns: Mapping[int, Mapping[str, T]]) -> dict[str, T]:
    """The values of all columns by the names that they are logged under, less the stage.

    Args:
        columns: Values by loader and name; those of :data:`POOL` are of all loaders together.

    Example:
        >>> flat({POOL: {"AP": 0.9}})
        {'AP': 0.9}
        >>> flat({POOL: {"AP": 0.9}, 0: {"AP": 1.0}, 1: {"AP": 0.8}})
        {'pooled/AP': 0.9, 'AP/dataloader_idx_0': 1.0, 'AP/dataloader_idx_1': 0.8}
    """
    if len(columns) == 1:
        return dict(columns[POOL])
    return {_name(name, loader): value for loader, values in columns.items() for name, value in values.items()}


def _name(name: str, loader: int) -> str:
    return f"pooled/{name}" if loader == POOL else f"{name}/dataloader_idx_{loader}"


def log_columns(
    pl_module: LightningModule, stage: str, columns: Mapping[int, Mapping[str, float]], seen: Sequence[int]
) -> None:
    """Log the values of an evaluation epoch at its end, the same in every process.

    Args:
        pl_module: The module that is evaluated.
        stage: Stands before the names.
        columns: As of :func:`flat`.
        seen: Numbers of the loaders that this process had batches of, in order.
    """
    pool = columns[POOL]
    if len(columns) == 1:
        log_values(pl_module, {f"{stage}/{name}": value for name, value in pool.items()})
        return
    for loader, values in columns.items():
        if loader != POOL:
            _log_of_loader(pl_module, loader, {f"{stage}/{name}": value for name, value in values.items()}, seen)
    log_values(pl_module, {f"{stage}/{_name(name, POOL)}": value for name, value in pool.items()})
    for name, value in pool.items():  # for monitors alone: a table would show it as the value of every loader
        _log(pl_module, f"{stage}/{name}", value, logger=False)


def _log_of_loader(pl_module: LightningModule, loader: int, values: Mapping[str, float], seen: Sequence[int]) -> None:
    """Log as Lightning does at the end of a loader, whose number is then part of the names.

    Lightning has no public way to do that when the epoch is over, and processes may not wait for each other before.
    """
    trainer = pl_module.trainer
    results = trainer._results
    if results is None or not trainer.evaluating:  # before a fit
        for name, value in values.items():
            _log(pl_module, _name(name, loader), value, add_dataloader_idx=False)
        return
    results.dataloader_idx = loader
    try:
        log_values(pl_module, dict(values))
        logged = trainer._logger_connector.update_eval_epoch_metrics()
    finally:
        results.dataloader_idx = None
    # What is printed and returned: a mapping for the first loader, and for each other that had batches.
    outputs, order = trainer._evaluation_loop._logged_outputs, sorted({0, *seen})
    if loader in order and len(outputs) == len(order):
        outputs[order.index(loader)].update(logged)


def _log(
    pl_module: LightningModule, name: str, value: float, *, logger: bool = True, add_dataloader_idx: bool = True
) -> None:
    """As ``log_values``."""
    options: dict[str, Any] = {"logger": logger, "add_dataloader_idx": add_dataloader_idx}
    pl_module.log(name, value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx="max", **options)
