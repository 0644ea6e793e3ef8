"""A trainer and its data as modules of anomalib expect them: loaders that yield their batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from anomaly_suite.contract import as_batch

Convert = Callable[[Any], Any]


class LoaderView:
    """One loader, or several one after another, with converted batches.

    Args:
        loader: A loader, a list of loaders, or none.
        convert: Makes a batch of ours one of theirs.
    """

    def __init__(self, loader: Any, convert: Convert) -> None:
        self._loaders = CombinedLoader(loader if loader is not None else [], "sequential").flattened
        self._convert = convert

    def __len__(self) -> int:
        return sum(map(len, self._loaders))

    def __iter__(self) -> Iterator[Any]:
        for loader in self._loaders:
            for batch in loader:
                yield self._convert(as_batch(batch))


class DataView:
    """A data module, or the loaders that a trainer was given.

    Args:
        trainer: The trainer.
        convert: See :class:`LoaderView`.
    """

    def __init__(self, trainer: Trainer, convert: Convert) -> None:
        self._trainer, self._convert = trainer, convert

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer.datamodule, name)  # type: ignore[attr-defined]

    @property
    def train_batch_size(self) -> Any:
        """Of the data module, or else of the training loader."""
        own = getattr(self._trainer.datamodule, "train_batch_size", None)  # type: ignore[attr-defined]
        return own if own is not None else getattr(self._trainer.train_dataloader, "batch_size", None)

    def train_dataloader(self) -> LoaderView:
        """What is trained on; read when the trainer has not done so yet."""
        if self._trainer.train_dataloader is None:
            self._trainer.fit_loop.setup_data()
        return LoaderView(self._trainer.train_dataloader, self._convert)

    def val_dataloader(self) -> LoaderView:
        """What is validated on."""
        return LoaderView(self._trainer.val_dataloaders, self._convert)


class TrainerView:
    """A trainer with such loaders; everything else is its own.

    Args:
        trainer: The trainer.
        convert: See :class:`LoaderView`.
    """

    def __init__(self, trainer: Trainer, convert: Convert) -> None:
        self._trainer = trainer
        self._convert = convert

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_trainer":
            raise AttributeError(name)
        return getattr(self._trainer, name)

    @property
    def datamodule(self) -> DataView:
        """The data."""
        return DataView(self._trainer, self._convert)

    @property
    def train_dataloader(self) -> LoaderView:
        """What is trained on."""
        return self.datamodule.train_dataloader()
