"""What callbacks read of a step: its prediction and its batch under our names, and which names an epoch had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

from anomaly_suite.callbacks.processes import shared_by_all
from anomaly_suite.contract import (
    Batch,
    KeyMap,
    Prediction,
    as_batch,
    as_prediction,
    check_key_map,
    have_scored,
    highest_scored,
)
from anomaly_suite.contract.batch import SCORES, names_in

POOL = -1
"""In place of the number of a loader: all of them together."""


def read_step(
    outputs: Any, batch: Any, key_map: KeyMap | None = None, *, reads: Sequence[str] = SCORES
) -> tuple[Prediction, Batch] | None:
    """Prediction and batch of one evaluation step of any module.

    What the step returned is looked at first: where it holds nothing to score, as the ``{"loss": ...}`` of somebody's classifier, its
    batch may be anything and is not touched. Scenes are scored by their scored pixels alone.

    Args:
        outputs: What the step returned.
        batch: What it was given.
        key_map: Our names of keys, and what they are called here.
        reads: Keys of which one must be in a prediction.

    Returns:
        Both under our names, the batch checked, of scenes with ``scored``; None where there is no prediction.

    Raises:
        ShapeError: the batch is wrong, see :func:`~anomaly_suite.contract.as_batch`.
    """
    prediction = as_prediction(outputs, key_map)
    if not any(name in prediction for name in reads):
        return None
    checked = as_batch(batch, key_map=key_map, needs_image=False)
    if "ood_mask" in checked:
        checked = {**checked, "scored": have_scored(checked["ood_mask"])}
        if "anomaly_map" in prediction:
            prediction["anomaly_score"] = highest_scored(prediction["anomaly_map"].detach(), checked["ood_mask"])
    return prediction, checked


def loader_of(place: Sequence[Any]) -> int:
    """Number of the loader from what Lightning's hooks have after the batch; :data:`POOL` where there is one loader."""
    return int(place[1]) if len(place) > 1 else POOL


class Found(NamedTuple):
    """Keys that the batches and the outputs of an epoch had, as they are called there, and those of ours that were read."""

    batch: list[str]
    outputs: list[str]
    read: list[str]

    def lacks(self, score: str, truth: str) -> str | None:
        """Sentence about what a comparison of two keys did not have; None if nothing was missing, or no batch came.

        Args:
            score: Key of the prediction that is wanted.
            truth: Key of the batch that is wanted.

        Example:
            >>> Found(["image", "gt"], ["anomaly_score"], ["image", "anomaly_score"]).lacks("anomaly_score", "label")
            "needs anomaly_score of the step and label of the batch; label was in none. Found anomaly_score in what the step returned and \
image, gt in the batch. Rename the key, or give key_map={'label': its name}."
        """
        missing = [name for name in (score, truth) if name not in self.read]
        if not missing or not (self.batch or self.outputs):
            return None
        were = f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} in none"
        return (
            f"needs {score} of the step and {truth} of the batch; {were}. Found {', '.join(self.outputs)} in what the step returned and "
            f"{', '.join(self.batch)} in the batch. Rename the key, or give key_map={{'{missing[-1]}': its name}}."
        )


class Reader:
    """Reads the steps of an epoch, and keeps which keys there were.

    Args:
        key_map: Our names of keys, and what others call them.

    Raises:
        ConfigError: a ``key_map`` that cannot be.
    """

    def __init__(self, key_map: KeyMap | None = None) -> None:
        self.key_map = check_key_map(key_map)
        self.begin()

    def begin(self) -> None:
        """Forget the last epoch."""
        self._seen: dict[tuple[int, str, str], None] = {}  # by loader, kind and name, in the order seen

    def read(self, outputs: Any, batch: Any, loader: int = POOL) -> tuple[Prediction, Batch] | None:
        """See :func:`read_step`.

        Args:
            outputs: What the step returned.
            batch: What it was given.
            loader: Where from, see :func:`loader_of`.
        """
        step = read_step(outputs, batch, self.key_map)
        read: list[str] = [] if step is None else [*step[0], *step[1]]
        for kind, names in (("batch", names_in(batch)), ("outputs", names_in(outputs)), ("read", read)):
            self._seen |= dict.fromkeys((loader, kind, name) for name in names)
        return step

    @property
    def loaders(self) -> list[int]:
        """Numbers of the loaders that gave this process a batch; empty where there is one loader."""
        return sorted({loader for loader, _, _ in self._seen} - {POOL})

    def found(self, trainer: Trainer) -> dict[int, Found]:
        """What there was in any process, which all must ask: of all loaders together (:data:`POOL`), and of each where there are several."""
        seen = dict.fromkeys(
            [*self._seen, *shared_by_all(trainer, list(self._seen))]
        )  # sorted, but for this process's own
        loaders = sorted({loader for loader, _, _ in seen} | {POOL})

        def names(wanted: int, kind: str) -> list[str]:
            return list(dict.fromkeys(name for loader, of, name in seen if of == kind and wanted in (POOL, loader)))

        return {loader: Found(*(names(loader, kind) for kind in Found._fields)) for loader in loaders}
