"""Data sets of any kind as those that hand out batches: samples one by one, or lists of them, are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.utils.data import Dataset, default_collate

from anomaly_suite.contract.batch import as_batch
from anomaly_suite.errors import ConfigError, ShapeError


class CollatedItems(Dataset[Any]):
    """An ordinary data set, with ``__len__`` and ``__getitem__``, as one that gives batches for lists of indices.

    Its items are what :func:`~anomaly_suite.contract.as_batch` reads, without the first axis: mappings, ``(image, label)``, ``(image, label, mask)``
    or images alone. They are put together by its own ``collate_fn``, if it has one, and else by torch's. A negative index ``-1 - i`` asks for
    item ``i`` as padding. ``Subset``, ``ConcatDataset`` and others with ``__getitems__`` are read by it.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(cast(Any, self.dataset))

    def __getitems__(self, indices: Sequence[int]) -> Any:
        rows = [index if index >= 0 else -1 - index for index in indices]
        dataset: Any = self.dataset
        found = dataset.__getitems__(rows) if hasattr(dataset, "__getitems__") else [dataset[row] for row in rows]
        batch = self._collated(found, rows) if isinstance(found, list) else found
        if min(indices) < 0 and "padding" not in (batch := as_batch(batch)):
            batch["padding"] = torch.tensor([index < 0 for index in indices])
        return batch

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])

    def _collated(self, items: list[Any], rows: list[int]) -> Any:
        try:
            return getattr(self.dataset, "collate_fn", default_collate)(items)
        except (TypeError, RuntimeError, KeyError, ValueError) as error:
            raise ShapeError(
                f"items {rows[0]} to {rows[-1]} of {type(self.dataset).__name__} cannot be put into a batch ({_first_line(error)}). Return tensors of "
                "one size, numbers and names from __getitem__ (images as float tensors in [0, 1]), or give the data set a collate_fn."
            ) from error


def in_batches(dataset: Dataset[Any]) -> Dataset[Any]:
    """A data set that hands out batches: as it is, if it does.

    Args:
        dataset: With a length; ``batch(indices)`` and ``__getitems__`` say that it hands out batches.

    Raises:
        ConfigError: it has no length, or nothing that gives items.
    """
    if not hasattr(dataset, "__len__") or not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__getitems__")):
        raise ConfigError(
            f"a data set needs __len__ and __getitem__, so that it can be split and shuffled; got {type(dataset).__name__}. Define them; a stream "
            "goes into a LightningDataModule of your own."
        )
    own = callable(getattr(dataset, "batch", None)) and hasattr(dataset, "__getitems__")
    return dataset if own else CollatedItems(dataset)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
