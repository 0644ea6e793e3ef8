"""Classification data sets that torchvision reads, used as one class against the rest."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from anomaly_suite.data.files import data_root, find_root
from anomaly_suite.data.memory import OneVsRest, Pool
from anomaly_suite.errors import DatasetError


class TorchvisionOneVsRest(OneVsRest):
    """Files in torchvision's own layout; ``marker`` is one of them, relative to the root.

    Args:
        root: What torchvision calls root. By default the folder ``mnist``, ``fashion_mnist`` or ``cifar10`` in
            ``$ANOMALY_SUITE_DATA``, or in ``data`` where the variable is not set.
        download: Fetch the files if they are missing.
        protocol: Options of :class:`~anomaly_suite.data.memory.OneVsRest`.

    Raises:
        DatasetNotFoundError: the files are not there.
        DatasetError: a file is damaged.
    """

    folder: ClassVar[str]
    marker: ClassVar[str]

    def __init__(self, *, root: str | None = None, download: bool = False, **protocol: Any) -> None:
        super().__init__(**protocol)
        self.root = data_root(root, self.folder)
        self.download = download

    def prepare_data(self) -> None:
        """Download, in one process."""
        if self.download:
            self._read(train=True)

    def load(self) -> Pool:
        """Read both parts."""
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
