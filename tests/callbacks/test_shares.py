"""What is kept is what knowing all kinds beforehand would keep."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from anomaly_suite.callbacks.shares import EvenShare


def wanted(kinds: list[str], limit: int) -> set[tuple[str, int]]:
    """Kind and place within the kind of what is kept: one more of each in turn, while there is room."""
    counts, kept = Counter(kinds), Counter()
    while sum(kept.values()) < min(limit, len(kinds)):
        kind = min((kind for kind in counts if kept[kind] < counts[kind]), key=lambda kind: kept[kind])
        kept[kind] += 1
    return {(kind, place) for kind in kept for place in range(kept[kind])}


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_has_an_even_share_the_first_of_each(seed: int) -> None:
    draw = random.Random(seed)
    kinds = [draw.choice("aaaaaaabbbc") for _ in range(draw.randrange(40))]
    limit = draw.randrange(15)
    share, places, seen = EvenShare(limit), [], Counter()
    kept: set[int] = set()
    for number, kind in enumerate(kinds):
        places.append((kind, seen[kind]))
        seen[kind] += 1
        is_kept, dropped = share.offer(kind)
        kept |= {number} if is_kept else set()
        kept -= {dropped}
        assert len(kept) <= limit
    found = {places[number] for number in kept}
    assert len(found) == min(limit, len(kinds))
    counts = Counter(kind for kind, _ in found)
    assert sorted(counts.values()) == sorted(Counter(kind for kind, _ in wanted(kinds, limit)).values())
    assert all(place < counts[kind] for kind, place in found)
