"""Classification data sets that torchvision reads, used as one class against the rest."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.image_set import BatchTransform
from anomaly_suite.data.images.one_vs_rest import OneVsRest, Pool, Protocol
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.folders import data_root, find_root


class TorchvisionOneVsRest(OneVsRest):
    """Files in torchvision's own layout; ``marker`` is one of them, relative to the root.

    Args:
        root: What torchvision calls root. By default the folder ``mnist``, ``fashion_mnist`` or ``cifar10`` in
            ``$ANOMALY_SUITE_DATA``, or in ``data`` where the variable is not set.
        download: Fetch the files if they are missing.
        normal_class: Index or name of the normal class.
        protocol: ``official``: the class's training part against the whole test part; ``pooled_2to1``: 2/3 of all its
            images against the rest and 10,000 others.
        train_fraction: Seeded share of the training normals that is used, in (0, 1]; smaller shares lie inside larger
            ones. Validation images are held out of it.
        contamination: Share of the training set, in [0, 1), that is anomalous images labelled normal. They come from
            outside the test set; if all others are in it, they leave it. The held-out normals stay clean.
        image_size: Side of the images in pixels; None keeps the original.
        pad: Reach ``image_size`` by a black margin instead of bilinear interpolation.
        train_transform: Random transform of training batches, ``(image, generator) -> image``.
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
        ConfigError: an option is out of range or the class is not known.
        DatasetNotFoundError: the files are not there.
        DatasetError: a file is damaged.
    """

    root: Path
    folder: ClassVar[str]
    marker: ClassVar[str]

    def __init__(
        self,
        *,
        root: str | None = None,
        download: bool = False,
        normal_class: int | str = 0,
        protocol: Protocol = "official",
        train_fraction: float = 1.0,
        contamination: float = 0.0,
        image_size: int | None = None,
        pad: bool = False,
        train_transform: BatchTransform | None = None,
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
            normal_class=normal_class, protocol=protocol, train_fraction=train_fraction, contamination=contamination,
            image_size=image_size, pad=pad, train_transform=train_transform, train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed, num_anomalous=num_anomalous,
            anomalous_list=anomalous_list, anomalous_types=anomalous_types, anomalous_seed=anomalous_seed,
            balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip
        self.root = data_root(root, self.folder)
        self.download = download

    def prepare_data(self) -> None:
        """Download, in one process."""
        if self.download:
            self._read(train=True)

    def load(self) -> Pool:
        """Read both parts.

        Raises:
            DatasetNotFoundError: the files are not there.
            DatasetError: a file is damaged.
        """
        if not self.download:
            find_root(
                self.root,
                dataset=type(self).__name__,
                is_root=lambda folder: (folder / self.marker).is_file(),
                layout=f"the file {self.marker}",
                obtain="Set download: true, or point root or ANOMALY_SUITE_DATA to where the files are.",
            )
        parts = [self._read(train=True), self._read(train=False)]
        image, target = zip(*parts, strict=True)
        is_train = np.repeat([True, False], [len(part) for part in target])
        return Pool(torch.cat(image), np.concatenate(target), is_train)

    def _read(self, *, train: bool) -> tuple[torch.Tensor, np.ndarray[Any, np.dtype[np.int64]]]:
        from torchvision import datasets  # slow to import

        try:
            source = getattr(datasets, type(self).__name__)(str(self.root), train=train, download=self.download)
        except (RuntimeError, ValueError, AssertionError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise DatasetError(f"{self._damaged()} (torchvision: {error})") from error
        image, target = torch.as_tensor(source.data), np.asarray(source.targets, dtype=np.int64)
        if len(image) != len(target) or not np.isin(target, range(len(self.classes))).all():
            raise DatasetError(
                f"{self._damaged()} ({len(image)} images, {len(target)} labels of {target.min()} to {target.max()})"
            )
        return (image.unsqueeze(1) if image.ndim == 3 else image.permute(0, 3, 1, 2)).contiguous(), target

    def _damaged(self) -> str:
        where = self.root / Path(self.marker).parent
        return f"a {type(self).__name__} file in '{where}' is missing or damaged. Delete that folder and fetch it again (download: true)."
