"""What callbacks of several processes share: rows in the order of the data set, and whether something happened anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DistributedSampler

if TYPE_CHECKING:
    from anomaly_suite.callbacks.base import Stage

T = TypeVar("T")


def gather_rows(trainer: Trainer, stage: Stage, rows: Mapping[int, list[T]]) -> list[T]:
    """Rows of all processes, one loader after the other.

    Args:
        trainer: The trainer of the stage.
        stage: Whose loaders the rows come from.
        rows: Per loader, this process's rows in the order seen, one per sample.

    Returns:
        The same list in every process. Under a ``DistributedSampler`` that does not shuffle, such as ``ShardSampler`` and
        the one that Lightning puts in, rows are back in the order of the data set, and those of samples that it repeated
        to give every process equally many are dropped. Otherwise they stay in the order seen, process after process.
    """
    return list(itertools.chain.from_iterable(gather_by_loader(trainer, stage, rows).values()))


def gather_by_loader(trainer: Trainer, stage: Stage, rows: Mapping[int, list[T]]) -> dict[int, list[T]]:
    """As :func:`gather_rows`, the rows of each loader by its number; only loaders that gave rows in any process are there.

    Args:
        trainer: The trainer of the stage.
        stage: Whose loaders the rows come from.
        rows: Per loader, this process's rows in the order seen, one per sample.
    """
    parts: list[Mapping[int, list[T]]] = [rows]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(parts, dict(rows))
    loaders = CombinedLoader(getattr(trainer, f"{stage}_dataloaders"), "sequential").flattened
    out: dict[int, list[T]] = {}
    for index in sorted(set().union(*parts)):
        shares = [part.get(index, []) for part in parts]
        sampler = getattr(loaders[index], "sampler", None)
        if isinstance(sampler, DistributedSampler) and not sampler.shuffle:
            in_order = (row for turn in itertools.zip_longest(*shares) for row in turn if row is not None)
            out[index] = list(itertools.islice(in_order, len(cast(Sized, sampler.dataset))))
        else:
            out[index] = list(itertools.chain.from_iterable(shares))
    return out


def in_any_process(trainer: Trainer, happened: bool) -> bool:
    """Whether something happened in at least one process; all must ask."""
    return sum_over_processes(trainer, happened) > 0


def sum_over_processes(trainer: Trainer, count: float) -> float:
    """The sum of what the processes counted; all must ask."""
    device = trainer.strategy.root_device
    return float(trainer.strategy.reduce(torch.tensor(float(count), device=device), reduce_op="sum"))


def shared_by_all(trainer: Trainer, mine: list[T]) -> list[T]:
    """What any process has, sorted and without repeats, the same list in every process; all must ask.

    Args:
        trainer: Whose processes.
        mine: Sortable and hashable things that this process has.
    """
    return sorted(set(of_all(mine)))  # type: ignore[type-var] # the caller's are sortable


def of_all(mine: list[T]) -> list[T]:
    """What all processes have, one process after another, the same list in every process; all must ask."""
    parts: list[list[T]] = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(parts, mine)
    return list(itertools.chain.from_iterable(parts))
