"""Other people's data modules, made of ours: plain tensors without file paths, as mappings, pairs or triples."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from anomaly_suite.contract import AnomalyDataModule

Kind = Literal["mapping", "pair", "triple"]


class ForeignData(LightningDataModule):
    """Somebody else's images.

    Args:
        data: Data module that they are taken from.
        kind: Of items: mappings, ``(image, label)``, or ``(image, label, mask)`` with a float mask.
    """

    def __init__(self, data: AnomalyDataModule, kind: Kind) -> None:
        super().__init__()
        self.data, self.kind = data, kind

    def train_dataloader(self) -> DataLoader[Any]:
        """Some training samples."""
        return self._loader(self.data.train_dataloader(), self.data.train_batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Some test samples."""
        return self._loader(self.data.test_dataloader(), 8)

    def test_dataloader(self) -> DataLoader[Any]:
        """Some test samples."""
        return self._loader(self.data.test_dataloader(), 8)

    def predict_dataloader(self) -> DataLoader[Any]:
        """The same."""
        return self.test_dataloader()

    def _loader(self, source: DataLoader[Any], batch_size: int) -> DataLoader[Any]:
        items: list[Any] = []
        for batch in source:
            height, width = batch["image"].shape[2:]
            masks = batch.get("mask", torch.zeros(len(batch["image"]), 1, height, width, dtype=torch.uint8))
            for image, label, mask in zip(batch["image"], batch["label"], masks, strict=True):
                if self.kind == "mapping":
                    items.append({"image": image, "label": int(label), "extra": "kept"})
                else:
                    items.append((image, int(label), mask.float())[: 2 if self.kind == "pair" else 3])
            if len(items) > 4 * batch_size:
                break
        return DataLoader(Items(items), batch_size=batch_size)


class ForeignVideos(ForeignData):
    """Somebody else's videos: as mappings with ``bag_label``, one crop without an axis of its own, whole in training too."""

    def _loader(self, source: DataLoader[Any], batch_size: int) -> DataLoader[Any]:
        batch = next(iter(source))
        rows = torch.stack([batch["label"].eq(0).nonzero()[:4, 0], batch["label"].eq(1).nonzero()[:4, 0]], 1).flatten()
        items = [
            {"snippet_features": batch["snippet_features"][row, 0, :32], "bag_label": int(batch["label"][row])}
            for row in rows
        ]
        return DataLoader(Items(items), batch_size=4)


class ForeignScenes(ForeignData):
    """Somebody else's street scenes: mappings of images and labels of their pixels."""

    def _loader(self, source: DataLoader[Any], batch_size: int) -> DataLoader[Any]:
        batch = next(iter(source))
        names = [name for name in ("image", "target", "ood_mask") if name in batch]
        items = [{name: batch[name][row] for name in names} for row in range(len(batch["image"]))]
        return DataLoader(Items(items), batch_size=batch_size)


class Items(Dataset[Any]):
    """A list as a data set.

    Args:
        items: Its items.
    """

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def foreign_to(batch: Any) -> type[ForeignData]:
    """The class for samples of such a kind.

    Args:
        batch: Of our own.
    """
    if "snippet_features" in batch:
        return ForeignVideos
    return ForeignScenes if "ood_mask" in batch else ForeignData
