"""One mixing function for every random draw that must be repeatable."""

from __future__ import annotations

import numpy as np


def derive_seed(*parts: int) -> int:
    """One well-mixed 63-bit seed.

    Args:
        parts: Seed parts, non-negative numbers such as seed, epoch and index.

    Example:
        >>> derive_seed(0, 1) != derive_seed(1, 0)
        True
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
