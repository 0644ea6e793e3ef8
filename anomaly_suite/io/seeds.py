"""One way to make a seed from several numbers, for data sets and training steps alike."""

from __future__ import annotations

import numpy as np


def derive_seed(*parts: int) -> int:
    """One well-mixed 63-bit seed from several non-negative numbers.

    Other numbers, another order or another count of them give an unrelated seed.

    Args:
        parts: The seed parts, such as seed, epoch and index.

    Returns:
        A number in [0, 2**63), which the generators of torch and NumPy take.

    Raises:
        ValueError: a part is negative.

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    return (
        int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
    )  # numpy 1 cannot shift its own uint64
