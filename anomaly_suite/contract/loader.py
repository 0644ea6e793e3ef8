"""TrainingLoader: batches of training samples that a resumed run takes up inside an epoch.

Lightning asks the loaders of a fit for their state when it writes a checkpoint, and gives it back to a run that goes on inside
an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

from torch.utils.data import DataLoader

from anomaly_suite.contract.sampler import BalancedSampler, ShardSampler
from anomaly_suite.errors import CheckpointError


class TrainingLoader(DataLoader[Any]):
    """A loader whose state is the number of batches that the epoch has had; after ``load_state_dict`` it goes on with the next.

    Nothing is read, and no worker starts, before the first batch is asked for: Lightning makes the iterator of a resumed run
    before it tells the sampler the epoch.
    """

    _had = 0
    """Batches of this epoch that were handed out, those before a checkpoint among them."""

    _skipped = 0
    """Batches that the next pass leaves out."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch's iterator, begun later
        skipped, self._skipped = self._skipped, 0
        return _Pass(self, skipped)

    def begin(self, skipped: int) -> Iterator[Any]:
        """Start workers, if any, and read on behind the first ``skipped`` batches."""
        self._had = skipped
        if not isinstance(self.sampler, ShardSampler):  # Lightning's, under overfit_batches
            return islice(super().__iter__(), skipped, None)
        self.sampler.skipped = skipped * cast(int, self.batch_size)  # of samples, which are then not even read
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Place in the epoch, and what decides the order of its samples."""
        return {"had": self._had, "order": self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass begin behind the batches that a checkpoint counts.

        Raises:
            CheckpointError: inside an epoch, other samples, or another order or size of batches than when it was saved.
        """
        if state["had"] and state["order"] != self._order():
            raise CheckpointError(
                f"the checkpoint was saved inside an epoch with {_listed(state['order'])}; this run has {_listed(self._order())}. "
                "Resume with the same data and options, or from a checkpoint of an epoch's end."
            )
        self._skipped = state["had"]

    def _order(self) -> dict[str, Any]:
        sampler = self.sampler
        return {
            "samples": len(cast(Any, self.dataset)),
            "train_batch_size": cast(int, self.batch_size),
            "processes": getattr(sampler, "num_replicas", 1),
            "seed": getattr(sampler, "seed", 0),
            **({"balanced": sampler.share} if isinstance(sampler, BalancedSampler) else {}),
        }


class _Pass(Iterator[Any]):
    """One pass over a loader, which begins with the first batch asked for."""

    def __init__(self, loader: TrainingLoader, skipped: int) -> None:
        self._loader = loader
        self._skipped = skipped
        self._batches: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self._batches is None:
            self._batches = self._loader.begin(self._skipped)
        batch = next(self._batches)
        self._loader._had += 1
        return batch


def _listed(order: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in order.items())
