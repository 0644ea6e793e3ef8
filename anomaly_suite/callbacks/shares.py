"""EvenShare: which of many items are kept where there is room for a few, as many of every kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable


class EvenShare:
    """Keeps at most so many items, as many of every kind as of any other, the first of each.

    Kinds need not be known beforehand: where an item of a rarer kind comes and there is no room left, the last item of the most frequent kind
    makes room. At the end no kind has two items less than another one, unless it has no more. Memory grows with what is kept.

    Example:
        >>> share = EvenShare(2)
        >>> [share.offer(kind) for kind in ("good", "good", "good", "hole")]
        [(True, None), (True, None), (False, None), (True, 1)]

    Args:
        limit: Room.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._offered = self._kept = 0
        self._of: defaultdict[Hashable, list[int]] = defaultdict(list)

    def offer(self, kind: Hashable) -> tuple[bool, int | None]:
        """Whether the next item is kept, and which one makes room for it.

        Args:
            kind: Of the item.

        Returns:
            The answer, and the number of the item, counted from 0 over all that were offered, that is no longer kept, or None.
        """
        number = self._offered
        self._offered += 1
        dropped = None
        if self._kept < self.limit:
            self._kept += 1
        else:
            most = max(self._of.values(), key=len, default=[])
            if len(self._of[kind]) + 1 >= len(most):
                return False, None
            dropped = most.pop()
        self._of[kind].append(number)
        return True, dropped
