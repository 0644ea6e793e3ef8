"""What every data module does, as checks of one class. Axes: B batch, C channels, H and W pixels."""

from __future__ import annotations

import hashlib
import inspect
import io
import itertools
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, cast

import torch

from anomaly_suite.contract import AnomalyDataModule, Splits, as_batch
from anomaly_suite.testing.report import NotAsked, require, run_checks

SHOWN = ("image", "snippet_features")  # what a sample consists of
SPLITS = ("train", "val", "test")


def check_data_module(
    cls: type[AnomalyDataModule],
    init_args: Mapping[str, Any] | None = None,
    *,
    batches: int = 20,
    skip: Collection[str] = (),
) -> list[str]:
    """Check that a data module does what every data module does.

    Args:
        cls: The data module.
        init_args: Its options, such as the root of a tiny look-alike of the data set.
        batches: How many of each split are read at most.
        skip: Names of checks to leave out.

    Returns:
        Names of the checks that passed.

    Raises:
        ContractError: some failed; a line each.
        ConfigError: an unknown name in ``skip``.
    """
    run = _DataRun(cls, dict(init_args or {}), batches)
    checks: dict[str, Callable[[], None]] = {
        "options are named and typed": run.options,
        "the splits hold samples": run.filled,
        "batches have their form": run.form,
        "the test holds both labels": run.both,
        "training holds normal samples alone": run.normal,
        "no sample is in two splits": run.apart,
        "a seed gives one split": run.seeded,
        "evaluation keeps its order": run.ordered,
        "every epoch has an order of its own": run.shuffled,
        "labels of a data set are those of its batches": run.labelled,
        "data sets travel to loader processes": run.travels,
        "the state can be saved": run.state,
    }
    return run_checks(cls.__name__, checks, skip)


class _DataRun:
    """The data module that its checks share."""

    def __init__(self, cls: type[AnomalyDataModule], options: dict[str, Any], batches: int) -> None:
        self.cls, self._options, self.batches = cls, options, batches

    def made(self) -> AnomalyDataModule:
        data = self.cls(**self._options)
        data.setup()
        return data

    @cached_property
    def data(self) -> AnomalyDataModule:
        """Set up once."""
        return self.made()

    def splits(self) -> Splits:
        return self.data.require_splits()

    def read(self, split: str, data: AnomalyDataModule | None = None) -> Iterator[Any]:
        """Batches of a split; none of a validation that is not there."""
        data = data or self.data
        loader: Any = {"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}[
            split
        ]()
        return itertools.islice(iter(loader), self.batches)

    def digests(self, split: str, data: AnomalyDataModule | None = None) -> list[str]:
        """One number for the content of each sample."""
        return [
            hashlib.sha256(sample.contiguous().numpy().tobytes()).hexdigest()
            for batch in self.read(split, data)
            for sample in next(batch[key] for key in SHOWN if key in batch)
        ]

    def options(self) -> None:
        parameters = list(inspect.signature(self.cls.__init__).parameters.values())[1:]
        open_ones = [each.name for each in parameters if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        require(
            not open_ones, f"__init__ takes *{', *'.join(open_ones)}. Spell every option out, so that it is checked."
        )
        untyped = [each.name for each in parameters if each.annotation is each.empty]
        require(not untyped, f"options without a type: {', '.join(untyped)}. Annotate them for the command line.")

    def filled(self) -> None:
        for split, part in zip(SPLITS, self.splits(), strict=True):
            require(
                part is None or len(cast(Any, part)) > 0,
                f"{split} is empty. Raise a DatasetError that says what is missing.",
            )

    def form(self) -> None:
        for split in SPLITS:
            for batch in self.read(split):
                self._form(split, batch)

    def _form(self, split: str, batch: Any) -> None:
        checked: Any = as_batch(dict(batch))
        count = len(next(checked[key] for key in SHOWN if key in checked))
        if (image := checked.get("image")) is not None:
            require(image.dtype == torch.float32, f"image of {split} must be float32; got {image.dtype}.")
            low, high = float(image.min()), float(image.max())
            inside = low >= 0 and high <= 1
            require(
                inside,
                f"image of {split} must lie in [0, 1]; got {low:.3g} to {high:.3g}. Leave normalisation to the method.",
            )
        for key in ("label", "image_path", "category"):
            require(key not in checked or len(checked[key]) == count, f"{key} of {split} must have {count} entries.")

    def both(self) -> None:
        found = list(self.read("test"))
        truth = [batch[key] for batch in found for key in ("ood_mask", "label") if key in batch][: len(found)]
        require(truth, "test batches hold no label, so nothing can be measured. Give label, or mask.")
        values = torch.cat([each.flatten() for each in truth])
        require(
            {0, 1} <= set(values.tolist()),
            f"the first {self.batches} test batches hold one label only. Mix them, or raise batches=.",
        )

    def normal(self) -> None:
        found = list(self.read("train"))
        if not all("image" in batch and "label" in batch for batch in found):
            raise NotAsked
        wrong = sum(int(batch["label"].sum()) for batch in found)
        require(
            not wrong,
            f"{wrong} training samples are labelled anomalous. Leave them out, or skip this check for data with labelled anomalies.",
        )

    def apart(self) -> None:
        train, test = set(self.digests("train")), set(self.digests("test"))
        require(
            not train & test,
            f"{len(train & test)} samples are in training and in the test. Split before anything is copied.",
        )
        if self.data.validation != "test":
            shared = set(self.digests("val")) & test
            require(
                not shared, f"{len(shared)} samples are in validation and in the test, and validation is not 'test'."
            )

    def seeded(self) -> None:
        for split in SPLITS:
            require(
                self.digests(split) == self.digests(split, self.made()),
                f"{split} is another when it is built again. Draw from self.seed.",
            )

    def ordered(self) -> None:
        for split in ("val", "test"):
            require(
                self.digests(split) == self.digests(split),
                f"{split} is another when it is read again. Make it without draws.",
            )

    def shuffled(self) -> None:
        names = self._epoch(0), self._epoch(0), self._epoch(1)
        require(
            names[0] == names[1],
            "an epoch of training is another when it is read again. Draw from seed, epoch and index.",
        )
        require(
            len(names[0]) < 4 or names[0] != names[2],
            "two epochs of training have one order. Use train_dataloader of AnomalyDataModule.",
        )

    def _epoch(self, number: int) -> list[str]:
        loader: Any = self.data.train_dataloader()
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(number)
        return [
            hashlib.sha256(sample.contiguous().numpy().tobytes()).hexdigest()
            for batch in itertools.islice(iter(loader), self.batches)
            for sample in next(batch[key] for key in SHOWN if key in batch)
        ]

    def labelled(self) -> None:
        for split in ("val", "test"):
            part = getattr(self.splits(), split)
            labels = None if part is None else getattr(part, "labels", None)
            if labels is None or (split == "val" and self.data.validation == "test"):
                continue
            read = [int(label) for batch in self.read(split) if "label" in batch for label in batch["label"]]
            require(
                read == [int(label) for label in labels][: len(read)],
                f"labels of {split} differ from those in its batches.",
            )

    def travels(self) -> None:
        for split, part in zip(SPLITS, self.splits(), strict=True):
            try:
                pickle.dumps(part)
            except Exception as error:  # whatever it holds
                require(
                    False,
                    f"{split} cannot be pickled for loader processes ({error}). Open files when they are read, not before.",
                )

    def state(self) -> None:
        buffer = io.BytesIO()
        torch.save(self.data.state_dict(), buffer)
        buffer.seek(0)
        self.made().load_state_dict(torch.load(buffer, weights_only=True))
