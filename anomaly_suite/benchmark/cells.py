"""A cell of a grid: one fit, and the test of what it fitted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

BEFORE = "{before}"
"""In an option: the run of the stage before."""

_NO_NAME = re.compile(r"[^A-Za-z0-9.]+")
_LONGEST = 100  # characters of a name before its digest; file systems take 255


@dataclass(frozen=True)
class Cell:
    """One fit with its test.

    Args:
        row: What makes the row of a table: ``method``, ``data`` and varied options, with their values.
        classes: Options that are averaged over, with their values.
        subsets: Options that draw labelled anomalies, with their values.
        seed: Of weights, splits and order.
        configs: Configurations in their order, as the command line takes them.
        options: Further options of the command line by dotted name; later ones win.
        content: Fingerprint of what the configurations say.
        before: Names of the cells whose runs this one takes over.
        takes: Options that take them, one for each; empty for those that the command line finds itself.
        tested: Whether the test set is scored; a pre-training only hands over.
        published: Sample configuration whose published figures stand beside this cell; empty for the one that fits.
        hands_over: Whether other cells take over its run.
    """

    row: Mapping[str, Any]
    classes: Mapping[str, Any]
    subsets: Mapping[str, Any]
    seed: int
    configs: tuple[str, ...]
    options: Mapping[str, Any]
    content: str
    before: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    tested: bool = True
    published: str = ""
    hands_over: bool = False

    @property
    def digest(self) -> str:
        """Short fingerprint of what the run does, whatever it is called."""
        what = [self.content, self.options, self.seed, self.before, self.takes]
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """Of the cell's folder: readable, different for different runs, and the same whatever the row is called."""
        parts = [PurePath(self.configs[-1]).stem, *([str(self.row["data"])] if "data" in self.row else [])]
        axes = {key: value for key, value in self.row.items() if key not in ("method", "data")}
        axes |= {**self.classes, **self.subsets, "seed": self.seed}
        parts += [f"{short(key)} {text(value)}" for key, value in axes.items()]
        return f"{_NO_NAME.sub('_', '-'.join(parts)).strip('_')[:_LONGEST]}-{self.digest}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the name."""
        return {"name": self.name, **asdict(self)}


def short(option: str) -> str:
    """The last part of an option's name.

    Example:
        >>> short("data.init_args.normal_class")
        'normal_class'
    """
    return option.rpartition(".")[2]


def text(value: Any) -> str:
    """A value as it stands in a name or a table.

    Example:
        >>> text(["a", 1]), text("tile"), text(0.05)
        ('["a", 1]', 'tile', '0.05')
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)


def label(row: Mapping[str, Any], *, data: bool) -> str:
    """A row in words.

    Args:
        row: Of a cell.
        data: Whether to name the data.

    Example:
        >>> label({"method": "PaDiM", "data": "MNIST", "data.contamination": 0.1}, data=True)
        'PaDiM, MNIST, contamination 0.1'
    """
    parts = [str(row["method"])] + ([str(row["data"])] if data and row.get("data") else [])
    varied = {key: value for key, value in row.items() if key not in ("method", "data")}
    return ", ".join(parts + [f"{short(key)} {text(value)}" for key, value in varied.items()])
