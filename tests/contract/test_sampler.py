"""Shares of a data set: even in training, exact in evaluation, repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from anomaly_suite.contract import ShardSampler


class Numbers(Dataset[Any]):
    epoch = 0

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


class TestShardSampler:
    @pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
    @pytest.mark.parametrize("world", [1, 2, 3])
    def test_evaluation_gives_every_image_once(self, count: int, world: int) -> None:
        shares = [list(ShardSampler(Numbers(count), world=world, rank=r, shuffle=False, seed=0)) for r in range(world)]
        assert sorted(item for share in shares for item in share) == list(range(count))
        assert [len(share) for share in shares] == [
            len(ShardSampler(Numbers(count), world=world, rank=r, shuffle=False, seed=0)) for r in range(world)
        ]

    @pytest.mark.parametrize("count", [1, 7, 8, 9])
    @pytest.mark.parametrize("world", [1, 2, 3])
    def test_training_shares_are_even_and_repeats_are_marked(self, count: int, world: int) -> None:
        shares = [list(ShardSampler(Numbers(count), world=world, rank=r, shuffle=True, seed=0)) for r in range(world)]
        assert len({len(share) for share in shares}) == 1
        everything = [item for share in shares for item in share]
        assert sorted(index for index in everything if index >= 0) == list(range(count))
        assert sum(index < 0 for index in everything) == -count % world

    def test_order_depends_on_seed_and_epoch_alone(self) -> None:
        data = Numbers(50)
        sampler = ShardSampler(data, world=1, rank=0, shuffle=True, seed=3)
        first = list(sampler)
        np.random.default_rng(0).random()
        torch.rand(3)
        assert list(sampler) == first
        sampler.set_epoch(4)
        assert list(sampler) != first
        assert data.epoch == 4
        again = ShardSampler(Numbers(50), world=1, rank=0, shuffle=True, seed=3)
        again.set_epoch(4)
        assert list(again) == list(sampler)
