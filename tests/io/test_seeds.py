"""Seeds from several numbers."""

from __future__ import annotations

import pytest

from anomaly_suite.io.seeds import derive_seed


def test_seeds_differ_in_every_part_and_order() -> None:
    parts = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0), (0, 0, 0, 1)]
    seeds = {derive_seed(*item) for item in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_those_of_all_earlier_versions() -> None:
    assert derive_seed(0, 0, 0, 0) == 7896617691693857887
    assert derive_seed(3, 1, 7) == 2219947408961387175


def test_a_seed_part_is_not_negative() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        derive_seed(0, -1)
