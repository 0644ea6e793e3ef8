"""Shares of a data set: even in training, exact in evaluation, repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from anomaly_suite.contract import BalancedSampler, ShardSampler
from anomaly_suite.errors import ConfigError


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


class FreshNumbers(Numbers):
    fresh_draws = True


def balanced(labels: list[int], world: int = 1, *, share: float = 0.5, epoch: int = 0) -> list[list[int]]:
    """Indices of every process."""
    samplers = [
        BalancedSampler(FreshNumbers(len(labels)), labels, share=share, world=world, rank=rank, seed=3)
        for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


class TestBalancedSampler:
    @pytest.mark.parametrize(("share", "anomalous"), [(0.5, 32), (0.25, 16), (0.75, 48), (1 / 64, 1)])
    def test_every_batch_holds_the_share_with_13250_against_10(self, share: float, anomalous: int) -> None:
        labels = [0] * 13250 + [1] * 10
        (indices,) = balanced(labels, share=share)
        whole = len(indices) // 64 * 64
        counts = (np.array(indices[:whole]).reshape(-1, 64) % len(labels) >= 13250).sum(1)
        assert set(counts.tolist()) == {anomalous}
        assert sorted(index for index in indices if index < 13250) == list(range(13250))  # every normal one, once
        drawn = np.array([index for index in indices if index >= 13250])
        assert len(set(drawn.tolist())) == len(drawn) == round(13250 * share / (1 - share) - 0.5)
        times = np.bincount(drawn % len(labels) - 13250)
        assert times.max() - times.min() <= 1  # of all ten equally often

    def test_anomalies_are_drawn_anew_in_every_round_and_epoch(self) -> None:
        labels = [0, 1] * 10 + [0] * 90
        (first,), (second,) = balanced(labels), balanced(labels, epoch=1)
        rounds = [[index % 110 for index in order if index % 110 < 20 and index % 2] for order in (first, second)]
        assert [sorted(rounds[0][start : start + 10]) for start in range(0, 100, 10)] == [list(range(1, 20, 2))] * 10
        assert rounds[0][:10] != rounds[0][10:20] != rounds[1][10:20]
        assert rounds[0][:10] != rounds[1][:10]

    @pytest.mark.parametrize("share", [0.5, 0.25, 1 / 3, 0.9])
    @pytest.mark.parametrize(("normal", "anomalous"), [(12, 3), (13, 3), (14, 3), (7, 9), (5, 1)])
    def test_two_processes_share_the_order_of_one(self, normal: int, anomalous: int, share: float) -> None:
        labels = [0] * normal + [1] * anomalous
        (one,), halves = balanced(labels, share=share), balanced(labels, 2, share=share)
        assert len({len(half) for half in halves}) == 1
        seen = [{index for index in half if index >= 0} for half in halves]
        assert not seen[0] & seen[1]
        assert sorted(seen[0] | seen[1]) == sorted(one)
        for order in halves:  # evenly spread: only at its end is one kind used up
            seen_of = np.cumsum([(index if index >= 0 else -1 - index) % len(labels) >= normal for index in order])[:-2]
            assert (np.abs(seen_of - share * np.arange(1, len(seen_of) + 1)) < 1).all()
        repeats = [-1 - index for half in halves for index in half if index < 0]
        assert set(repeats) <= set(one)
        assert len(repeats) == normal % 2 + (len(one) - normal) % 2

    @pytest.mark.parametrize("world", [2, 4])
    def test_batches_of_a_step_are_together_that_of_one_process(self, world: int) -> None:
        labels = [0] * 240 + [1] * 7
        (one,), parts = balanced(labels, share=0.25), balanced(labels, world, share=0.25)
        for step in range(len(parts[0]) // 8):
            batches = [part[step * 8 : step * 8 + 8] for part in parts]
            together = sorted(index for batch in batches for index in batch)
            assert together == sorted(one[step * 8 * world : (step + 1) * 8 * world])
            assert [sum(index % 247 >= 240 for index in batch) for batch in batches] == [2] * world

    def test_repetitions_are_told_apart_only_where_the_data_set_knows_them(self) -> None:
        sampler = BalancedSampler(Numbers(9), [0] * 8 + [1], share=0.5, world=1, rank=0, seed=0)
        assert sorted(sampler) == [*range(8), *[8] * 8]

    def test_what_was_seen_is_left_out_once(self) -> None:
        sampler = BalancedSampler(Numbers(9), [0] * 8 + [1], share=0.5, world=1, rank=0, seed=0)
        whole, sampler.skipped = list(sampler), 6
        assert [list(sampler), list(sampler)] == [whole[6:], whole]

    def test_one_kind_alone_cannot_be_balanced(self) -> None:
        for labels in ([0, 0], [1, 1]):
            with pytest.raises(ConfigError, match=r"need normal and anomalous training samples; got \d and \d"):
                balanced(labels)
        with pytest.raises(ConfigError, match=r"must be in \(0, 1\); got 1"):
            balanced([0, 1], share=1)
