"""List files of COVIDx: one radiograph a line, with patient, file, label and source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.rows import read_text

SOURCES = ("cohen", "fig1", "actmed", "sirm", "rsna", "rnsa", "ricord", "bimcv", "stonybrook")
UNKNOWN = "unnamed"  # of lists without sources
LABELS = {"normal": 0, "pneumonia": 0, "negative": 0, "COVID-19": 1, "positive": 1}
REPEATED = 0.01  # share of repeated rows above which a list is refused; list 1 has a fifth


class Row(NamedTuple):
    """One row of a list."""

    patient: str
    name: str
    label: str
    source: str


def read_list(file: Path) -> list[Row]:
    """Rows of a list: patient, file, label and, in most versions, source, separated by blanks.

    They are read from the right, for patients of one source have a blank in their number.

    Args:
        file: The list.

    Raises:
        DatasetError: a row with too few words, a label that is not known, or many files listed twice.
    """
    rows: dict[str, Row] = {}
    repeated: list[str] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        source = words.pop() if words[-1] in SOURCES else UNKNOWN
        if len(words) < 3:
            raise DatasetError(
                f"line {number} of '{file}' must have a patient, a file, a label and perhaps a source; got {line!r}. Restore the list."
            )
        *patient, name, label = words
        if label not in LABELS:
            raise DatasetError(
                f"line {number} of '{file}' has the label {label!r}; known are {', '.join(LABELS)}, and the sources {', '.join(SOURCES)} after it. "
                "Restore the list."
            )
        row = Row(" ".join(patient), name, label, "rsna" if source == "rnsa" else source)
        first = rows.setdefault(name, row)
        if first.label != label:
            raise DatasetError(
                f"'{file}' lists {name!r} as {first.label} and as {label}. Restore the list, or leave one row out."
            )
        if first is not row:
            repeated.append(name)
    if len(repeated) > REPEATED * (len(rows) + len(repeated)):
        raise DatasetError(
            f"'{file}' lists {len(repeated)} files more than once, first {repeated[0]!r}. Use another version of the lists."
        )
    if repeated:
        rank_zero_warn(
            f"'{file}' lists {len(repeated)} files more than once, first {repeated[0]!r}: each is used once."
        )
    return list(rows.values())


def count_sources(rows: list[Row]) -> str:
    """How many rows each source has, as text."""
    return ", ".join(f"{source} {count}" for source, count in sorted(Counter(row.source for row in rows).items()))
