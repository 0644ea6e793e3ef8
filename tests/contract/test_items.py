"""Ordinary data sets in a data module of ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from anomaly_suite.contract import AnomalyDataModule, Splits
from anomaly_suite.contract.items import in_batches
from anomaly_suite.errors import ConfigError, ShapeError


class Items(Dataset[Any]):
    """Images whose pixels all hold the item's number divided by 100."""

    def __init__(self, kind: str, count: int = 7) -> None:
        self.kind, self.count = kind, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        assert 0 <= index < self.count
        image, label = torch.full((3, 4, 4), index / 100), index % 2
        mask = torch.full((1, 4, 4), label)
        return {
            "mapping": {"image": image, "label": label, "image_path": f"{index}.png"},
            "pair": (image, label),
            "triple": (image, label, mask),
            "alone": image,
            "array": {"image": image.numpy(), "label": label},
            "sizes": torch.zeros(3, 4, 4 + index),
            "none": None,
        }[self.kind]


class Own(AnomalyDataModule):
    def __init__(self, dataset: Dataset[Any], workers: int = 0) -> None:
        super().__init__(train_batch_size=3, eval_batch_size=4, num_workers=workers)
        self.dataset = dataset

    def build(self) -> Splits:
        return Splits(self.dataset, self.dataset, self.dataset)


def numbers(loader: Any) -> list[int]:
    return [round(100 * float(pixel)) for batch in loader for pixel in batch["image"][:, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["mapping", "pair", "triple", "alone", "array"])
def test_items_of_any_kind_become_batches(kind: str) -> None:
    data = Own(Items(kind))
    assert numbers(data.test_dataloader()) == list(range(7))
    assert sorted(numbers(data.train_dataloader())) == list(range(7))
    first = next(iter(data.test_dataloader()))
    assert first["image"].shape == (4, 3, 4, 4)
    if kind != "alone":
        assert first["label"].tolist() == [0, 1, 0, 1]
    if kind == "triple":
        assert first["mask"].flatten(1).any(1).tolist() == [False, True, False, True]
    if kind == "mapping":
        assert first["image_path"] == ["0.png", "1.png", "2.png", "3.png"]


def test_parts_and_chains_of_data_sets() -> None:
    part: Dataset[Any] = Subset(Items("pair"), [5, 1, 3])
    assert numbers(Own(part).test_dataloader()) == [5, 1, 3]
    assert numbers(Own(ConcatDataset([part, Items("pair", 2)])).test_dataloader()) == [5, 1, 3, 0, 1]


def test_a_collate_function_of_its_own() -> None:
    dataset = Items("sizes")
    dataset.collate_fn = lambda items: torch.stack([item[..., :4] for item in items])  # type: ignore[attr-defined]
    assert next(iter(Own(dataset).test_dataloader()))["image"].shape == (4, 3, 4, 4)


def test_padding_asks_for_the_item_and_marks_it() -> None:
    for dataset in (Items("pair"), Subset(Items("pair"), list(range(7)))):
        batch = in_batches(dataset).__getitems__([2, -1 - 5])  # type: ignore[attr-defined]
        assert [round(100 * float(value)) for value in batch["image"][:, 0, 0, 0]] == [2, 5]
        assert batch["padding"].tolist() == [False, True]


def test_what_cannot_be_put_together_is_one_sentence() -> None:
    for kind in ("sizes", "none"):
        with pytest.raises(
            ShapeError, match=r"items 0 to 3 of Items cannot be put into a batch \(.*Return tensors of one size"
        ):
            next(iter(Own(Items(kind)).test_dataloader()))

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(ConfigError, match=r"a data set needs __len__ and __getitem__.*got Stream"):
        Own(Stream()).test_dataloader()
