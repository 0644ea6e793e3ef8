"""Padding rows of finished batches."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from anomaly_suite.contract import Batch, ShardSampler, as_batch
from anomaly_suite.data.batched_dataset import BatchedDataset


class Counting(BatchedDataset):
    def __len__(self) -> int:
        return 5

    def batch(self, indices: list[int]) -> Batch:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(5, 1, 8, 8, generator=generator)[indices]
        return {
            "image": image,
            "label": torch.zeros(len(indices)),
            "mask": torch.zeros(len(indices), 1, 8, 8, dtype=torch.bool),
            "image_path": [f"a/{index}.png" for index in indices],
        }


def test_every_process_gets_equally_many_and_repeats_are_marked() -> None:
    data = Counting()
    rows: list[tuple[str, bool]] = []
    for rank in (0, 1):
        sampler = ShardSampler(data, world=2, rank=rank, shuffle=True, seed=3)
        batches = list(DataLoader(data, batch_size=2, sampler=sampler, collate_fn=as_batch))
        assert sum(len(batch["image"]) for batch in batches) == 3
        for batch in batches:
            padding = batch.get("padding", torch.zeros(len(batch["image"]), dtype=torch.bool))
            rows += zip(batch["image_path"], padding.tolist(), strict=True)
            assert ("padding" in batch) == bool(padding.any())
    assert sorted(path for path, padding in rows if not padding) == [f"a/{index}.png" for index in range(5)]
    assert [padding for _, padding in rows].count(True) == 1


def test_a_padding_row_holds_the_item_it_repeats() -> None:
    batch = Counting().__getitems__([4, -1 - 2])
    assert batch["padding"].tolist() == [False, True]
    assert batch["image_path"] == ["a/4.png", "a/2.png"]
    assert torch.equal(batch["image"][1:], Counting()[2]["image"])
