"""ImageDataModule: what data modules of images share: labelled anomalies that move into training, and balanced batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import Dataset

from anomaly_suite.contract import AnomalyDataModule, BalancedSampler, ShardSampler, Splits, Validation
from anomaly_suite.data.images.labelled import Pool, apart, count_kinds, drawn, listed, require_giving
from anomaly_suite.errors import CheckpointError, ConfigError


class ImageDataModule(AnomalyDataModule):
    """Data module of images; a data set writes ``__init__`` and ``build``.

    After ``build``, labelled anomalies move from the test set into training; nothing is ever in both. What may not move: images that
    validation has too, and those of groups for localisation. Where the data set knows patients or videos (:meth:`subject_of`), the other
    test images of those that moved are left out of the test set.

    Args:
        train_batch_size: Images per training step and process.
        eval_batch_size: Images per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every split and the order of training images.
        num_anomalous: Anomalous test images that move into training, labelled 1, kinds of defects in turn; fewer are always among more.
            Methods that train on normal images alone leave them out.
        anomalous_list: File that names them, one a line, in place of ``num_anomalous``.
        anomalous_types: Kinds of defects that they are drawn from; null for all.
        anomalous_seed: Decides which are drawn, and nothing else.
        balanced: Training batches of as many anomalous as normal images, the anomalous ones drawn again and again; a number in (0, 1) is another
            share of anomalous images.
        validation: ``holdout`` keeps ``val_size`` training normals, and anomalies that are labelled but not for testing;
            ``augmented`` keeps the normals and adds a pseudo-anomaly of each, ``medmix`` a copy with lesions and their mask; ``test``
            validates on the test set; ``none``.
        val_size: Training normals held out for validation: a fraction, or a count if an integer.

    Raises:
        ConfigError: options that cannot work, alone or together.
    """

    _done: Splits | None = None  # splits that are as the options say

    def __init__(
        self,
        *,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        num_anomalous: int = 0,
        anomalous_list: str | None = None,
        anomalous_types: list[str | int] | None = None,
        anomalous_seed: int = 0,
        balanced: bool | float = False,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            validation=validation,
            val_size=val_size,
        )
        if anomalous_list is not None and (num_anomalous or anomalous_types is not None):
            given = f"num_anomalous={num_anomalous}" if num_anomalous else f"anomalous_types={anomalous_types}"
            raise ConfigError(
                f"anomalous_list says which anomalies are trained on; got {given} besides, which draws them. Give one of the two."
            )
        self.num_anomalous = num_anomalous
        self.anomalous_list = anomalous_list
        self.anomalous_types = anomalous_types
        self.anomalous_seed = anomalous_seed
        self.balanced = balanced

    def subject_of(self, name: str) -> str | None:
        """Patient, video or other group of an image whose members may not be in training and test; None where it is not known.

        Args:
            name: What ``image_path`` says.
        """
        return None

    def setup(self, stage: str | None = None) -> None:
        """Build the splits once, and move labelled anomalies."""
        super().setup(stage)
        self._move()

    def require_splits(self) -> Splits:
        """The splits, built if need be; a ``setup`` of another class has not moved anything yet."""
        splits = super().require_splits()
        self._move()
        return self._done or splits

    def training_set(self) -> Dataset[Any]:
        """What the method at hand trains on: a method that does not read labels gets the normal images alone."""
        train: Any = super().training_set()
        labels = [bool(label) for label in getattr(train, "labels", ())]
        if not any(labels) or self.gives_labels:
            return super().training_set()
        require_giving(train, type(self).__name__)
        normal = [place for place, label in enumerate(labels) if not label]
        module = self.trainer.lightning_module  # type: ignore[union-attr] # or gives_labels were true
        unsaid = " Say reads_labels = True in the class if it learns from them." * (module.reads_labels is None)
        rank_zero_info(
            f"{type(module).__name__} trains on normal images alone: {len(labels) - len(normal)} labelled anomalies are left out of training; "
            f"they are not tested either.{unsaid}"
        )
        chosen: Dataset[Any] = train.take(normal)
        return chosen

    @property
    def gives_labels(self) -> bool:
        """Whether labelled anomalies reach the method at hand: an ``AnomalyModule`` that says ``reads_labels``, or any other module."""
        module = None if self.trainer is None else self.trainer.lightning_module
        return bool(getattr(module, "reads_labels", True))

    def _sampler(self, dataset: Dataset[Any], *, world: int, rank: int, shuffle: bool) -> ShardSampler:
        if not shuffle or not self.balanced or not self.gives_labels:
            return super()._sampler(dataset, world=world, rank=rank, shuffle=shuffle)
        share = 0.5 if self.balanced is True else self.balanced
        labels = getattr(dataset, "labels", [])
        return BalancedSampler(dataset, labels, share=share, world=world, rank=rank, seed=self.seed)

    # Labelled anomalies ----------------------------------------------------------------------------------------------

    def _move(self) -> None:
        if self.splits is None or self.splits is self._done:
            return
        if self.num_anomalous or self.anomalous_list is not None:
            self.splits = self._with_labelled(self.splits)
        self._done = self.splits

    def _with_labelled(self, splits: Splits) -> Splits:
        train: Any = splits.train
        test: Any = splits.test
        for dataset in (train, test):
            require_giving(dataset, type(self).__name__)
        pool = self._pool(splits)
        if self.anomalous_list is not None:
            root = None if self.root is None else Path(self.root)
            moved = listed(pool, Path(self.anomalous_list).expanduser(), root=root)
        else:
            kinds = None if self.anomalous_types is None else [self._kind(each) for each in self.anomalous_types]
            moved = drawn(pool, self.num_anomalous, seed=self.anomalous_seed, kinds=kinds)
        gone = apart(pool.names, moved, self.subject_of)
        left = sorted(set(range(len(pool.names))) - {*moved, *gone})
        if len({bool(pool.labels[place]) for place in left}) < 2:
            raise ConfigError(
                f"normal and anomalous test images must be left; all of one kind went with the {len(moved)} labelled anomalies and {len(gone)} "
                "images of their patients. Give a smaller num_anomalous."
            )
        self.check_moved([pool.names[place] for place in moved], [pool.names[place] for place in left])
        self.labelled_anomalies = {
            "count": len(moved),
            **({"seed": self.anomalous_seed} if self.anomalous_list is None else {"list": self.anomalous_list}),
            "types": count_kinds([pool.kinds[place] for place in moved]),
            "left_out": len(gone),
            "images": [self._shown(pool.names[place]) for place in moved],
        }
        train, test = train.plus(test, moved), test.take(left)
        seen = {pool.kinds[place] for place in moved}
        anomalous = [kind for kind, label in zip(test.kinds, test.labels, strict=True) if label]
        if not {"", *seen}.issuperset(anomalous):  # or nothing could be told apart
            test.seen_types = [
                bool(label) and kind in seen for kind, label in zip(test.kinds, test.labels, strict=True)
            ]
        return splits._replace(train=train, test=test)

    def _pool(self, splits: Splits) -> Pool:
        train: Any = splits.train
        test: Any = splits.test
        labels = [int(label) for label in test.labels]
        names = list(test.names)
        held = set(getattr(splits.val, "names", ()))
        patients = {patient for name in held if (patient := self.subject_of(name)) is not None}
        blocked = {}
        for place, (label, name) in enumerate(zip(labels, names, strict=True)):
            if label and name in held:
                blocked[place] = "validation has it, too"
            elif label and self.subject_of(name) in patients:
                blocked[place] = "validation has its patient, too"
            elif label and getattr(test, "groups", {}).get(place):
                blocked[place] = "it is in a group for localisation"
        others = {**dict.fromkeys(held, "validation"), **dict.fromkeys(train.names, "training")}
        return Pool(type(self).__name__, labels, names, list(test.kinds), blocked, others)

    def _kind(self, wanted: str | int) -> str:
        """A kind of defect by its name; of classes also by its number."""
        by_number = isinstance(wanted, int) and 0 <= wanted < len(self.classes)
        return self.classes[int(wanted)] if by_number else str(wanted)

    def check_moved(self, moved: Sequence[str], left: Sequence[str]) -> None:
        """Look for what moved and what is left for testing being one picture; data sets of files do.

        Args:
            moved: Names of the images that moved.
            left: Names of the images that are left for testing.
        """

    def _shown(self, name: str) -> str:
        """A name that is the same on another machine: relative to root, if it lies below it."""
        path = Path(name)
        return path.relative_to(self.root).as_posix() if self.root and path.is_relative_to(self.root) else name

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was trained on with labels, for checkpoints."""
        record = self.labelled_anomalies if self.gives_labels else None
        return {} if record is None else {"labelled_anomalies": list(record["images"])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to test on what a checkpoint was trained on, and to go on training with other anomalies.

        Raises:
            CheckpointError: other labelled anomalies than those of the checkpoint.
        """
        trained = set(state_dict.get("labelled_anomalies", ()))
        if not trained and self.labelled_anomalies is None:
            return
        tested = [
            name for name in map(self._shown, getattr(self.require_splits().test, "names", ())) if name in trained
        ]
        own = self.labelled_anomalies or {"images": []}
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING and self.gives_labels
        if tested or (fitting and set(own["images"]) != trained):
            told = (
                f"{len(tested)} of them, first {tested[0]!r}, are test images here"
                if tested
                else f"this run has {len(own['images'])} others"
            )
            raise CheckpointError(
                f"the checkpoint was trained on {len(trained)} labelled anomalies; {told}. "
                "Give num_anomalous, anomalous_types and anomalous_seed, or anomalous_list, of its run."
            )
