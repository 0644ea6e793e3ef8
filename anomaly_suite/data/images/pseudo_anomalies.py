"""Pseudo-anomalies for validation: structure-breaking copies of normal images, or copies with lesions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.medmix import medmix
from anomaly_suite.augment.structural import pseudo_anomaly
from anomaly_suite.contract import Batch, Listed
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.io.seeds import derive_seed

MOST_LESIONS = 3  # of a copy; PMSACL's classes


class WithPseudoAnomalies(BatchedDataset):
    """Normal images followed by one copy of each, labelled anomalous.

    A copy depends on the seed and its image alone (and on the one that lesions are cut from): it is the same in every epoch, run,
    process and batch size. Masks, and the number of lesions as ``pseudo_class``, come with lesions alone: a structure-breaking copy has no
    known region.

    Args:
        normals: Normal images; square, unless ``kind`` is ``medmix``.
        seed: Decides the operation of every copy.
        kind: ``augmented`` breaks the structure of an image, ``medmix`` pastes 1 to 3 lesions into it.
    """

    def __init__(
        self, normals: BatchedDataset, *, seed: int, kind: Literal["augmented", "medmix"] = "augmented"
    ) -> None:
        self.normals = normals
        self.seed = seed
        self.kind = kind

    def __len__(self) -> int:
        return 2 * len(self.normals)

    @property
    def labels(self) -> list[int]:
        """Of all images and copies."""
        return [0] * len(self.normals) + [1] * len(self.normals)

    def listed(self) -> Iterator[Listed]:
        """The normal images, where they can be listed."""
        return self.normals.listed() if hasattr(self.normals, "listed") else iter(())

    @property
    def names(self) -> list[str]:
        """Of the normal images."""
        return list(getattr(self.normals, "names", ()))

    def batch(self, indices: list[int]) -> Batch:
        """Images and copies; a copy's file name has ``#pseudo`` before the suffix."""
        count = len(self.normals)
        batch = self.normals.batch([index % count for index in indices])
        batch.pop("mask", None)
        image = batch["image"]
        mask = torch.zeros(len(image), 1, *image.shape[2:], dtype=torch.bool)
        lesions = torch.zeros(len(image), dtype=torch.long)
        for row, index in enumerate(indices):
            if index >= count:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, index))
                image[row], mask[row], lesions[row] = self._copy(image[row : row + 1], index % count, generator)
                path = Path(batch["image_path"][row])
                batch["image_path"][row] = str(path.with_stem(f"{path.stem}#pseudo"))
        batch["label"] = torch.tensor([int(index >= count) for index in indices])
        if self.kind == "medmix":
            batch |= {"mask": mask, "pseudo_class": lesions}
        return batch

    def _copy(self, image: Tensor, index: int, generator: Generator) -> tuple[Tensor, Tensor, int]:
        """The copy (C, H, W) of an image (1, C, H, W), its mask (1, H, W), and how many lesions it has."""
        if self.kind == "augmented":
            return pseudo_anomaly(image, generator)[0], torch.zeros(1, *image.shape[2:], dtype=torch.bool), 0
        number, other = (int(torch.randint(most, (1,), generator=generator)) for most in (MOST_LESIONS, 2**31 - 1))
        choices = max(1, len(self.normals) - 1)
        pool = self.normals.batch([(index + 1 + other % choices) % len(self.normals)])["image"]
        lesions = medmix(image, torch.tensor([1 + number]), GeneratorDraws(generator), pool=pool)
        return lesions.image[0], lesions.mask[0], 1 + number
