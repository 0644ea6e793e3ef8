"""Images held in memory as uint8, converted to float and transformed by the batch.

Axes: N images, B batch, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from anomaly_suite.contract import Batch, Listed
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.images.pseudo_anomalies import WithPseudoAnomalies
from anomaly_suite.io.seeds import derive_seed

BatchTransform = Callable[[Tensor, Generator], Tensor]
"""Random transform of a whole batch: float (B, C, H, W) in [0, 1] and a generator in, the same shape out."""


class ImageSet(BatchedDataset):
    """Images in memory; a batch is indexed, converted to float once and transformed as a whole.

    Args:
        image: uint8, shape (N, C, H, W).
        label: 0 or 1, shape (N,).
        names: What ``image_path`` says of each image.
        mask: bool, shape (N, 1, H, W).
        pseudo_class: See :class:`~anomaly_suite.contract.Batch`, shape (N,).
        transform: Applied to every batch. Its generator depends on seed, epoch and indices alone, so a resumed run
            repeats what an uninterrupted one would have drawn, with any number of workers.
        seed: See ``transform``.
        copies: How many of the images, the last ones, are copies of others, which :meth:`listed` leaves out.
        kinds: Of defects, or classes, of each image; by default not known.
    """

    fresh_draws = True

    def __init__(
        self,
        *,
        image: Tensor,
        label: Tensor,
        names: Sequence[str],
        mask: Tensor | None = None,
        pseudo_class: Tensor | None = None,
        transform: BatchTransform | None = None,
        seed: int = 0,
        copies: int = 0,
        kinds: Sequence[str] | None = None,
    ) -> None:
        self.image = image
        self.label = label
        self.names = names
        self.mask = mask
        self.pseudo_class = pseudo_class
        self.transform = transform
        self.seed = seed
        self.copies = copies
        self.epoch = 0
        self.kinds = [""] * len(names) if kinds is None else list(kinds)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def labels(self) -> Tensor:
        """Of all images, shape (N,)."""
        return self.label

    def listed(self) -> Iterator[Listed]:
        """All images, by their names."""
        count = len(self) - self.copies
        return (Listed(str(self.names[index]), int(self.label[index])) for index in range(count))

    def batch(self, indices: list[int]) -> Batch:
        """Image float32 in [0, 1], label, image_path, and mask if the set has masks."""
        rows = torch.tensor(indices) % len(self)
        image = self.image[rows].float().div_(255)
        if self.transform is not None:
            seed = derive_seed(self.seed, self.epoch, *indices)
            image = self.transform(image, Generator().manual_seed(seed))
        batch: Batch = {
            "image": image,
            "label": self.label[rows],
            "image_path": [self.names[row] for row in rows.tolist()],
        }
        if self.mask is not None:
            batch["mask"] = self.mask[rows]
        if self.pseudo_class is not None:
            batch["pseudo_class"] = self.pseudo_class[rows]
        return batch

    def take(self, rows: Sequence[int]) -> ImageSet:
        """The images at these positions, as a set of their own."""
        return self._of([(self, torch.tensor(rows, dtype=torch.long))])

    def plus(self, other: ImageSet, rows: Sequence[int]) -> ImageSet:
        """These images and those of another set at these positions, all with the steps of this set."""
        return self._of([(self, torch.arange(len(self))), (other, torch.tensor(rows, dtype=torch.long))])

    def _of(self, parts: list[tuple[ImageSet, Tensor]]) -> ImageSet:
        return ImageSet(
            image=torch.cat([each.image[rows] for each, rows in parts]),
            label=torch.cat([each.label[rows] for each, rows in parts]),
            names=[each.names[row] for each, rows in parts for row in rows.tolist()],
            mask=None
            if self.mask is None
            else torch.cat([each.mask[rows] for each, rows in parts if each.mask is not None]),
            transform=self.transform,
            seed=self.seed,
            kinds=[each.kinds[row] for each, rows in parts for row in rows.tolist()],
        )

    def with_pseudo_anomalies(self, seed: int, kind: Literal["augmented", "medmix"] = "augmented") -> ImageSet:
        """These normal images and one pseudo-anomaly of each, made once; those of ``medmix`` with masks."""
        both = WithPseudoAnomalies(self, seed=seed, kind=kind)
        batch = both.batch(list(range(len(both))))
        image = batch["image"].mul(255).round().byte()
        return ImageSet(
            image=image,
            label=batch["label"],
            names=batch["image_path"],
            mask=batch.get("mask"),
            pseudo_class=batch.get("pseudo_class"),
            copies=len(self),
        )
