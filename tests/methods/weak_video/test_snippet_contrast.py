"""Which snippets are easy and hard, and their contrast: the checks of the method's card, against slow loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_suite.methods.weak_video.snippet_contrast import (
    Mined,
    contrast,
    edge_snippets,
    hard_mask,
    mine,
    mining_mask,
    missed_snippets,
    nce,
)


def mask(text: str, *, before: int = 0, total: int | None = None) -> Tensor:
    """``"101"`` to True, False, True, inside zeros."""
    row = "0" * before + text
    return torch.tensor([[character == "1" for character in row.ljust(total or len(row), "0")]])


def indices(flags: Tensor) -> list[int]:
    return flags[0].nonzero().flatten().tolist()


class TestMining:
    def test_missed_snippets_of_the_card(self) -> None:
        assert indices(missed_snippets(mask("1111101111", before=3, total=32))) == [8]
        assert indices(missed_snippets(mask("1110001111", before=3, total=32))) == []

    def test_the_last_window_is_searched(self) -> None:
        assert indices(missed_snippets(mask("1111101111", before=22, total=32))) == [27]
        assert indices(missed_snippets(mask("1111101111", before=0, total=32))) == [5]

    def test_missed_snippets_of_a_video_shorter_than_a_window(self) -> None:
        assert not missed_snippets(mask("111101111")).any()
        assert indices(missed_snippets(mask("1111011111"))) == [4]

    @pytest.mark.parametrize(
        ("run", "width3", "released"),
        [
            ("1", [5], []),
            ("11", [5, 6], [6]),
            ("111", [5, 7], [6, 7]),
            ("1111111", [5, 11], [6, 11]),
            ("110111", [5, 6, 8, 10], [6, 9, 10]),
        ],
    )
    def test_edges_of_runs(self, run: str, width3: list[int], released: list[int]) -> None:
        active = mask(run, before=5, total=32)
        assert indices(edge_snippets(active)) == width3
        assert indices(edge_snippets(active, kind="released")) == released

    def test_runs_at_the_ends_of_a_video(self) -> None:
        active = mask("1111", before=0, total=9) | mask("111", before=6, total=9)
        assert indices(edge_snippets(active)) == [0, 3, 6, 8]
        assert indices(edge_snippets(active, kind="released")) == [1, 3, 7, 8]

    @pytest.mark.parametrize("edge", ["width3", "released"])
    def test_constant_scores_give_no_hard_snippets(self, edge: Any) -> None:
        assert not hard_mask(torch.full((3, 32), 0.5), edge=edge).any()

    def test_half_of_the_snippets_are_above_the_median(self) -> None:
        score = torch.cat([torch.linspace(0, 0.4, 16), torch.linspace(0.6, 1, 16)]).unsqueeze(0)
        assert indices(hard_mask(score)) == [15, 16, 31]  # 15 to 24 are a window with nine above the median

    @pytest.mark.parametrize("edge", ["width3", "released"])
    @pytest.mark.parametrize("snippets", [32, 48, 20, 7])
    def test_equals_a_slow_loop(self, edge: Any, snippets: int) -> None:
        # Few levels and slow changes, so that runs with gaps occur.
        anomalous = torch.randn(40, snippets).cumsum(1).sigmoid().mul(12).round() / 12
        anomalous[:, ::7] = 0
        normal = torch.rand(40, snippets)
        normal_mask, anomalous_mask = (
            mining_mask(normal, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
        )
        mined = mine(normal, anomalous, normal_mask, anomalous_mask, edge=edge)
        gaps = 0
        easy, hard = max(1, snippets // 8), max(1, snippets // 16)
        for video in range(40):
            row = anomalous[video].tolist()
            median = sorted(row)[(snippets - 1) // 2]
            active = {t for t in range(snippets) if row[t] > median}
            missed: set[int] = set()
            for start in range(snippets - 10 + 1):
                window = set(range(start, start + 10))
                if len(window & active) >= 9:
                    missed |= window - active
            if edge == "width3":
                edges = {t for t in active if not {t - 1, t + 1} <= active}
            else:
                edges = {
                    t for t in range(snippets)
                    if {t - 1, t} <= active and not {t - 2, t - 1, t, t + 1} <= active
                }  # fmt: skip
            gaps += len(missed)
            suspects = sorted(missed | edges, key=lambda t: -row[t])
            chosen = mined.hard_anomalous[video][mined.found[video]].tolist()
            assert len(chosen) == min(hard, len(suspects))
            assert set(chosen) <= set(suspects)
            assert [row[t] for t in chosen] == [row[t] for t in suspects[:hard]]
            for found, value in (
                (mined.easy_normal, (normal[video].max() - normal[video]) * normal_mask[video]),
                (mined.easy_anomalous, anomalous[video] * anomalous_mask[video]),
            ):
                assert value[found[video]].tolist() == sorted(value.tolist(), reverse=True)[:easy]
                assert len(set(found[video].tolist())) == easy
            value = normal[video] * normal_mask[video]
            assert value[mined.hard_normal[video]].tolist() == sorted(value.tolist(), reverse=True)[:hard]
        assert gaps > 0 or snippets in (7, 20)

    def test_without_dropout_easy_are_the_extremes(self) -> None:
        normal, anomalous, ones = torch.rand(6, 32), torch.rand(6, 32), torch.ones(6, 32)
        mined = mine(normal, anomalous, ones, ones)
        for video in range(6):
            assert set(mined.easy_normal[video].tolist()) == set(normal[video].argsort()[:4].tolist())
            assert set(mined.hard_normal[video].tolist()) == set(normal[video].argsort()[-2:].tolist())
            assert set(mined.easy_anomalous[video].tolist()) == set(anomalous[video].argsort()[-4:].tolist())

    def test_hard_anomalous_snippets_ignore_the_mask(self) -> None:
        anomalous, ones = torch.rand(6, 32), torch.ones(6, 32)
        random = mining_mask(ones, generator=torch.Generator().manual_seed(1))
        first, second = mine(anomalous, anomalous, ones, ones), mine(anomalous, anomalous, random, random)
        assert torch.equal(first.hard_anomalous, second.hard_anomalous)
        assert not torch.equal(first.easy_anomalous, second.easy_anomalous)

    def test_one_hit_is_used_alone(self) -> None:
        score = torch.zeros(1, 32)
        score[0, 9] = 1
        mined = mine(score, score, torch.ones(1, 32), torch.ones(1, 32))
        assert mined.hard_anomalous[mined.found].tolist() == [9]

    def test_no_gradient_through_the_choice(self) -> None:
        score = torch.rand(2, 32, requires_grad=True)
        mined = mine(score, score, torch.ones(2, 32), torch.ones(2, 32))
        assert not any(part.is_floating_point() or part.requires_grad for part in mined)

    def test_mask_keeps_two_in_five(self) -> None:
        drawn = mining_mask(torch.zeros(400, 100), generator=torch.Generator().manual_seed(0))
        assert set(drawn.unique().tolist()) == {0, 2.5}
        assert float((drawn > 0).float().mean()) == pytest.approx(0.4, abs=0.01)
        assert len({tuple(row) for row in (drawn > 0).tolist()}) == 400  # another one for every video


class TestContrast:
    def test_values_of_the_card(self) -> None:
        axes = torch.eye(5)
        assert float(nce(axes[:1], axes[:1], axes[None, 1:])) == pytest.approx(
            math.log1p(4 * math.exp(-1 / 0.07)), rel=1e-5
        )
        equal = torch.ones(1, 5)
        assert float(nce(equal, equal, torch.ones(1, 4, 5))) == pytest.approx(math.log(5), rel=1e-6)

    def test_lengths_do_not_matter(self) -> None:
        query, positive, negatives = torch.randn(3, 6), torch.randn(3, 6), torch.randn(3, 4, 6)
        value = nce(query, positive, negatives)
        scaled = negatives.clone()
        scaled[:, 2] *= 7
        assert torch.allclose(nce(5 * query, 0.1 * positive, scaled), value, rtol=1e-4)
        assert not torch.allclose(nce(query, positive, -negatives), value, rtol=0.1)

    def test_half_precision_embeddings_are_compared_in_float32(self) -> None:
        query, positive, negatives = (
            torch.randn(3, 6).bfloat16(),
            torch.randn(3, 6).bfloat16(),
            torch.randn(3, 4, 6).bfloat16(),
        )
        with torch.autocast("cpu", torch.bfloat16):
            value = nce(query, positive, negatives)
        assert torch.equal(value, nce(query.float(), positive.float(), negatives.float()))

    def test_equals_a_slow_loop(self) -> None:
        normal, anomalous = torch.randn(3, 16, 5, dtype=torch.float64), torch.randn(3, 16, 5, dtype=torch.float64)
        mined = Mined(
            easy_normal=torch.tensor([[0, 1], [4, 2], [15, 3]]),
            hard_normal=torch.tensor([[7, 8], [9, 1], [2, 3]]),
            easy_anomalous=torch.tensor([[5, 6], [7, 0], [1, 2]]),
            hard_anomalous=torch.tensor([[9, 2], [3, 11], [4, 6]]),
            found=torch.tensor([[True, True], [True, False], [False, False]]),
        )

        def unit(vector: Tensor) -> Tensor:
            return vector / vector.norm()

        def slow(query: Tensor, positive: Tensor, negatives: list[Tensor]) -> float:
            up = math.exp(float(unit(query) @ unit(positive)) / 0.07)
            return -math.log(up / (up + sum(math.exp(float(unit(query) @ unit(one)) / 0.07) for one in negatives)))

        expected_anomalous = expected_normal = 0.0
        for pair in range(3):
            easy_normal = [normal[pair, index] for index in mined.easy_normal[pair]]
            easy_anomalous = [anomalous[pair, index] for index in mined.easy_anomalous[pair]]
            hard_normal = [normal[pair, index] for index in mined.hard_normal[pair]]
            hard_anomalous = [
                anomalous[pair, index]
                for index, one in zip(mined.hard_anomalous[pair], mined.found[pair], strict=True)
                if one
            ]
            if hard_anomalous:  # a pair without any adds nothing
                expected_anomalous += (
                    slow(sum(hard_anomalous) / len(hard_anomalous), sum(easy_anomalous), easy_normal) / 3
                )
            expected_normal += slow(sum(hard_normal), sum(easy_normal), easy_anomalous) / 3
        found = contrast(normal, anomalous, mined)
        assert [float(one) for one in found] == pytest.approx([expected_anomalous, expected_normal], rel=1e-5)

    def test_no_hard_snippets_at_all(self) -> None:
        normal, anomalous = torch.randn(2, 32, 5, requires_grad=True), torch.randn(2, 32, 5, requires_grad=True)
        constant, ones = torch.full((2, 32), 0.5), torch.ones(2, 32)
        mined = mine(constant, constant, ones, ones)
        hard_anomalous, hard_normal = contrast(normal, anomalous, mined)
        assert not mined.found.any()
        assert hard_anomalous.item() == 0
        (hard_anomalous + hard_normal).backward()
        assert normal.grad.isfinite().all()
        assert anomalous.grad.isfinite().all()
