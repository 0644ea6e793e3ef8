"""Benchmarks of image files with published counts: subsets, drawn parts, threshold images, groups for localisation, patients.

A data set writes ``find``; everything here is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from anomaly_suite.contract import Splits, Validation
from anomaly_suite.data.images.bit_depth import Bits
from anomaly_suite.data.images.image_files import Found, ImageFileModule, Item
from anomaly_suite.errors import ConfigError, DatasetError, did_you_mean
from anomaly_suite.io.folders import require_files
from anomaly_suite.io.image_headers import Exif

ThresholdSet = Literal["apart", "leaky", "none"]


class BenchmarkImages(ImageFileModule):
    """Data module on the image files of a published benchmark; a data set writes ``find``.

    Args:
        subset: Use a copy with other counts than the published ones, and say so; otherwise that is an error.
        threshold_set: Validation images of ``holdout``, drawn from the test part by the seed: ``apart`` takes them out of it; ``leaky`` leaves
            them in it, as the thesis does, which every result file then says; ``none`` draws none and holds out training normals.
        threshold_images: How many of them of each label.
        localisation_groups: Random groups of anomalous test images that ``LocalisationMetrics`` compares, 5 in the thesis; 0 for none.
        localisation_size: Anomalous images of a group; no image is in two groups.
        image_size: Height and width in pixels after resizing, one number for both; None keeps the size.
        center_crop: Height and width cut out after resizing.
        channels: 3 for RGB, 1 for grey.
        bit_depth: How many bits the values of images of more than 8 bits use, 8 to 16; ``auto`` takes as many as the
            brightest training pixel needs. The number is kept in checkpoints.
        exif: ``apply`` turns pictures with a rotation mark (EXIF) upright; ``ignore`` takes them as they are stored.
        transform: Steps of albumentations or torchvision v2 for all images after resizing, such as ``{class: Equalize, p: 1}``.
        train_transform: Further steps for training images alone.
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
        ConfigError: an option is not known or does not fit the images.
    """

    takes_less = "subset: true"
    """Option by which other counts than the published ones are taken, for messages."""

    def __init__(
        self,
        *,
        subset: bool = False,
        threshold_set: ThresholdSet = "none",
        threshold_images: int = 50,
        localisation_groups: int = 0,
        localisation_size: int = 100,
        image_size: int | tuple[int, int] | None = 256,
        center_crop: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] = 3,
        bit_depth: Bits = "auto",
        exif: Exif = "apply",
        transform: list[Any] | None = None,
        train_transform: list[Any] | None = None,
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
            image_size=image_size, center_crop=center_crop, channels=channels, bit_depth=bit_depth, exif=exif,
            transform=transform, train_transform=train_transform, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, num_anomalous=num_anomalous,
            anomalous_list=anomalous_list, anomalous_types=anomalous_types, anomalous_seed=anomalous_seed,
            balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        self.subset = subset
        self.threshold_set = threshold_set
        self.threshold_images = threshold_images
        self.localisation_groups = localisation_groups
        self.localisation_size = localisation_size
        self._said: list[str] = []

    def find(self) -> Found:
        """Find all images, masks and labels of the published parts.

        Raises:
            NotImplementedError: the data set does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define find().")

    def build(self) -> Splits:
        """Check the files and split them; ``dataset_version`` then says by which protocol."""
        self._said, self.validated_on = [], None
        splits = super().build()
        self.dataset_version = "; ".join(self._said) or None
        return splits

    def read(self) -> Found:
        """What was found, threshold images taken apart and groups drawn.

        Raises:
            ConfigError: there are too few test images for that.
        """
        found = self.find()
        if self._draws(found):
            self.validated_on = f"{self.validation}, test images {self.threshold_set}"
        if self._draws(found) and self.threshold_set == "apart":
            taken = set(self._drawn(found.test))
            val = found.val + [found.test[index] for index in sorted(taken)]
            found = found._replace(val=val, test=[item for index, item in enumerate(found.test) if index not in taken])
            count = self.threshold_images
            self.say(f"threshold images apart ({count} normal and {count} anomalous are taken out of the test set)")
        return found._replace(test=self._grouped(found.test))

    def say(self, note: str) -> None:
        """Add a note on the protocol to ``dataset_version``, which every result file has."""
        self._said.append(note)

    def require_counts(self, found: Mapping[str, int], published: Mapping[str, int]) -> None:
        """Check the counts of parts or classes.

        Args:
            found: How many images there are, by part.
            published: How many there should be; parts that are not in it are not compared.

        Raises:
            DatasetError: they differ, and a subset was not asked for.
        """
        wrong = [part for part, count in published.items() if found.get(part, 0) != count]
        if not wrong:
            return
        told = ", ".join(f"{part} {found.get(part, 0):,} of {published[part]:,}" for part in wrong)
        if not self.subset:
            raise DatasetError(
                f"{type(self).__name__} expects the published number of images in '{self.root}'; found {told}. "
                f"Complete the data set, or set {self.takes_less} to use what is there."
            )
        rank_zero_warn(
            f"{type(self).__name__} in '{self.root}' is not the published set: {told}. Its figures do not stand beside published ones."
        )
        self.say(f"subset ({told})")

    def listed(self, names: Sequence[str], files: Mapping[str, Path], *, source: str) -> list[Path]:
        """Files of listed names, in the order of the list; a subset has those that are there.

        Args:
            names: What the list says.
            files: The files that are there, by name.
            source: What the list is, for the message.

        Raises:
            DatasetNotFoundError: some are missing, and a subset was not asked for.
        """
        if not self.subset:
            require_files((files.get(name, Path(self.root or "") / name) for name in names), source=source)
        return [files[name] for name in names if name in files]

    def drawn_parts(self, items: Sequence[Item], sizes: Sequence[int], *, total: int) -> list[list[Item]]:
        """Disjoint parts of items that are shuffled by the seed, each in the order of the items.

        Args:
            items: In an order that does not depend on the disk.
            sizes: Images of each part.
            total: How many items the sizes are meant for; of fewer items the parts are smaller in proportion.

        Raises:
            DatasetError: there are too few items for a part.
        """
        if len(items) < total:
            sizes = [size * len(items) // total for size in sizes]
        if min(sizes) == 0:
            raise DatasetError(
                f"{type(self).__name__} splits the normal images in '{self.root}' into a training and a test part; found {len(items)}. "
                "Complete the data set."
            )
        order = np.random.default_rng(self.seed).permutation(len(items))
        ends = np.cumsum([0, *sizes])
        return [[items[index] for index in np.sort(order[start:end])] for start, end in pairwise(ends)]

    def _draws(self, found: Found) -> bool:
        """Whether threshold images are drawn: not where the data set has anomalies for validation."""
        return (
            self.validation == "holdout" and self.threshold_set != "none" and not any(item.label for item in found.val)
        )

    def _drawn(self, test: Sequence[Item]) -> list[int]:
        """Positions of threshold images in the test part."""
        rng = np.random.default_rng((self.seed, 50))
        labels = np.array([item.label for item in test])
        pools = [np.flatnonzero(labels == label) for label in (0, 1)]
        if min(map(len, pools)) <= self.threshold_images:
            raise ConfigError(
                f"threshold_images={self.threshold_images} takes as many normal and as many anomalous images out of the test part, which has "
                f"{len(pools[0])} and {len(pools[1])}. Give a smaller threshold_images, or threshold_set: none."
            )
        return [int(index) for pool in pools for index in np.sort(rng.permutation(pool)[: self.threshold_images])]

    def _hold_out(self, found: Found) -> tuple[list[Item], list[Item]]:
        if self._draws(found) and self.threshold_set == "leaky":
            count = self.threshold_images
            note = (
                f"leaky: the threshold is set on {count} normal and {count} anomalous test images, which are scored too"
            )
            rank_zero_warn(f"{type(self).__name__} is {note}. Set threshold_set: apart for figures without that.")
            self.say(note)
            found = found._replace(val=found.val + [found.test[index] for index in self._drawn(found.test)])
        return super()._hold_out(found)

    def _grouped(self, test: list[Item]) -> list[Item]:
        """The test part with the numbers of the groups, from 1; none is in two groups."""
        if not self.localisation_groups:
            return test
        masked = [index for index, item in enumerate(test) if item.label and item.mask is not None]
        wanted = self.localisation_groups * self.localisation_size
        if wanted > len(masked):
            raise ConfigError(
                f"localisation_groups={self.localisation_groups} of localisation_size={self.localisation_size} need {wanted} anomalous test "
                f"images with masks; there are {len(masked)}. {'Give smaller or fewer groups' if masked else 'Give masks, or no groups'}."
            )
        drawn = np.random.default_rng((self.seed, 5)).permutation(masked)[:wanted].tolist()
        groups = {index: 1 + place // self.localisation_size for place, index in enumerate(drawn)}
        return [item._replace(group=groups.get(index, 0)) for index, item in enumerate(test)]


def require_known(names: Iterable[str], known: Iterable[str], *, what: str) -> None:
    """Check that all names of folders or labels are known.

    Args:
        names: Those found.
        known: All there can be.
        what: What they are and where, for the message.

    Raises:
        DatasetError: one is not; names the nearest.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise DatasetError(
                f"{what} must be one of {', '.join(known)}; got {name!r}.{did_you_mean(name, known)} Restore the published names."
            )


def shared_patients(parts: Mapping[str, Iterable[Item]], patient_of: Callable[[Path], str | None]) -> list[str]:
    """What is to be said of patients with images in two parts.

    Args:
        parts: Items by the name of their part.
        patient_of: Patient of a file; None where its name does not say.

    Returns:
        One sentence for each such patient, ``patient '7' has 'a.png' in the training part and 'b.png' in the test part``.
    """
    first: dict[str, tuple[str, Path]] = {}
    shared: dict[str, str] = {}
    for part, items in parts.items():
        for item in items:
            patient = patient_of(item.path)
            if patient is None:
                continue
            other, path = first.setdefault(patient, (part, item.path))
            if other != part:
                told = f"patient {patient!r} has '{path}' in the {other} part and '{item.path}' in the {part} part"
                shared.setdefault(patient, told)
    return list(shared.values())
