"""Labelled anomalies that move from a test set into training: which ones, by a seeded draw or by a list.

A data set can give samples away if it has ``labels``, ``names``, ``kinds`` (of defects, empty where they are not known), ``take`` and ``plus``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, did_you_mean
from anomaly_suite.io.rows import read_text

GIVING = ("labels", "names", "kinds", "take", "plus")
DRAW = 16  # tells this draw of a seed from others


class Pool(NamedTuple):
    """Test samples that labelled anomalies are taken from.

    Attributes:
        owner: Data module, for messages.
        labels: Of the test samples.
        names: What they are called, by which lists find them.
        kinds: Of their defects; empty where they are not known.
        blocked: Why a sample may not move, by its position.
        others: Samples of the other splits by name, and what they are.
    """

    owner: str
    labels: list[int]
    names: list[str]
    kinds: list[str]
    blocked: Mapping[int, str]
    others: Mapping[str, str]


def require_giving(dataset: Any, owner: str) -> None:
    """Check that a data set can give samples away.

    Args:
        dataset: Training or test data set.
        owner: Data module, for the message.

    Raises:
        ConfigError: it has not what that needs.
    """
    missing = [name for name in GIVING if not hasattr(dataset, name)]
    if missing:
        raise ConfigError(
            f"labelled anomalies need data sets with {', '.join(GIVING)}; {type(dataset).__name__} of {owner} has no {', '.join(missing)}. "
            "Build them as ImageSet or ImageFiles, or set num_anomalous: 0."
        )


def drawn(pool: Pool, count: int, *, seed: int, kinds: Sequence[str] | None) -> list[int]:
    """Draw anomalies, kinds of defects in turn: fewer are always among more.

    Args:
        pool: Where from.
        count: How many.
        seed: Decides which.
        kinds: Kinds that may be drawn; None for all.

    Returns:
        Positions in the order of the draw.

    Raises:
        ConfigError: a kind that is not known, or more than there are.
    """
    anomalous = [place for place, label in enumerate(pool.labels) if label]
    if not anomalous:
        raise ConfigError(
            f"num_anomalous={count} moves anomalous test images into training; {pool.owner} has none for testing. Set num_anomalous: 0."
        )
    wanted = _known_kinds(pool, anomalous, kinds)
    free = [place for place in anomalous if pool.kinds[place] in wanted and place not in pool.blocked]
    if count > len(free) or count >= len(anomalous):
        of = f" of {', '.join(map(str, kinds))}" if kinds else ""
        held = sum(pool.kinds[place] in wanted for place in anomalous) - len(free)
        why = f", {held} more are held back ({next(iter(pool.blocked.values()))})" if held else ""
        raise ConfigError(
            f"num_anomalous={count} must leave an anomalous test image; {pool.owner} has {len(anomalous)} of them, and {len(free)}{of} may move"
            f"{why}. Give fewer."
        )
    rng = np.random.default_rng((seed, DRAW))
    rows = {kind: rng.permutation([place for place in free if pool.kinds[place] == kind]) for kind in sorted(wanted)}
    order: list[int] = []
    for turn in range(max(map(len, rows.values()))):
        places = [int(each[turn]) for each in rows.values() if turn < len(each)]
        order += rng.permutation(places).tolist()
    return order[:count]


def _known_kinds(pool: Pool, anomalous: list[int], kinds: Sequence[str] | None) -> set[str]:
    found = {pool.kinds[place] for place in anomalous}
    if kinds is None:
        return found
    known = sorted(found - {""})
    for kind in map(str, kinds):
        if kind not in known:
            told = (
                f"kinds of anomalous test images: {', '.join(known)}"
                if known
                else f"none, since {pool.owner} knows no kinds"
            )
            raise ConfigError(
                f"anomalous_types must be {told}; got {kind!r}.{did_you_mean(kind, known)} Set null to draw from all."
            )
    return set(map(str, kinds))


def listed(pool: Pool, file: Path, *, root: Path | None) -> list[int]:
    """Positions of the anomalies that a file lists, one a line.

    Args:
        pool: Where from.
        file: Text; blank lines are left out. A name is that of ``image_path``, or a path relative to root or to the file.
        root: Of the data set.

    Raises:
        DatasetNotFoundError: there is no such file.
        DatasetError: it lists nothing, a name twice, or one that is not known, normal, or in another split.
        ConfigError: no anomalous test image would be left.
    """
    if not file.is_file():
        raise DatasetNotFoundError(f"anomalous_list must be a text file; '{file}' does not exist. Correct the path.")
    lines = [(number, line.strip()) for number, line in enumerate(read_text(file).splitlines(), 1) if line.strip()]
    if not lines:
        raise DatasetError(
            f"'{file}' must list anomalous test images, one a line; it is empty. Name some, or leave anomalous_list out."
        )
    place_of = {_plain(name): place for place, name in enumerate(pool.names)}
    others = {_plain(name): what for name, what in pool.others.items()}
    first: dict[int, int] = {}
    for number, line in lines:
        written = line.replace("\\", "/")
        names = [
            _plain(str(each)) for each in (written, *(folder / written for folder in (root, file.parent) if folder))
        ]
        place = next((place_of[name] for name in names if name in place_of), None)
        if place is None:
            what = next((others[name] for name in names if name in others), None)
            short = [Path(name).name for name in pool.names]
            told = (
                f"is a {what} image"
                if what
                else f"is no image of the data set.{did_you_mean(Path(written).name, short)}"
            )
            raise DatasetError(
                f"line {number} of '{file}' must name an anomalous test image; {line!r} {told}{'.' if what else ''} Correct the list."
            )
        if not pool.labels[place]:
            raise DatasetError(
                f"line {number} of '{file}' must name an anomalous test image; {line!r} is normal. Correct the list."
            )
        if place in pool.blocked:
            raise DatasetError(
                f"line {number} of '{file}' must name an image that may move; {line!r} may not: {pool.blocked[place]}. Take it out of the list."
            )
        if place in first:
            raise DatasetError(
                f"lines {first[place]} and {number} of '{file}' name the same image, {line!r}. List every image once."
            )
        first[place] = number
    if len(first) >= sum(map(bool, pool.labels)):
        raise ConfigError(
            f"'{file}' must leave an anomalous test image; it lists all {len(first)} of {pool.owner}. Take some out."
        )
    return list(first)


def _plain(name: str) -> str:
    return os.path.realpath(name) if os.path.exists(name) else os.path.normpath(name).replace("\\", "/")


def apart(names: Sequence[str], moved: Sequence[int], subject_of: Callable[[str], str | None]) -> list[int]:
    """Positions of the samples that share a patient, video or the like with those that moved, and may not stay in the test set.

    Args:
        names: Of all test samples.
        moved: Positions of those that moved.
        subject_of: Patient of a sample by its name; None where it is not known.
    """
    gone, moved_places = {subject_of(names[place]) for place in moved} - {None}, set(moved)
    if not gone:
        return []
    return [place for place, name in enumerate(names) if place not in moved_places and subject_of(name) in gone]


def count_kinds(kinds: Sequence[str]) -> dict[str, int]:
    """How many there are of each kind, those without one as ``anomaly``."""
    return dict(sorted(Counter(kind or "anomaly" for kind in kinds).items()))
