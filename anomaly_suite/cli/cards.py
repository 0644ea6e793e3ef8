"""What stands on the card of a method: family, task, paper and year, read from its source without importing it."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from anomaly_suite.cli.catalog import Entry, catalog

_ROOT = Path(__file__).parents[2]
_PAPERS = re.compile(r"^Papers?: (.*(?:\n[ \t]+.*)*)", re.MULTILINE)
_YEAR = re.compile(r"(?<![:./\d])(?:19|20)\d\d(?!\.?\d)")
_TITLE = re.compile(r',? "[^"]*",?')
_ASIDE = re.compile(r" \([^)]*\)|\(")
TASKS = {
    "anomalib_model": "images, normal only",
    "few_shot": "images, a few labelled",
    "one_class": "images, normal only",
    "pixel_ood": "scenes, unknown objects",
    "pretraining": "encoders of images",
    "reconstruction": "images, normal only",
    "weak_video": "videos, labelled as a whole",
}
"""By family: what is looked at, and what training knows."""


class Card(NamedTuple):
    """A method's name, family, task, paper and year.

    ``paper`` is short, ``citation`` all that its file says. What is not known, of a plugin's method, is ``""``.
    """

    name: str
    family: str
    task: str
    paper: str
    year: str
    citation: str


@lru_cache
def cards() -> tuple[Card, ...]:
    """Cards of all methods of this package, in the order of the catalogue.

    Example:
        >>> next(card.year for card in cards() if card.name == "PaDiM")
        '2021'
    """
    return tuple(card(entry) for entry in catalog("methods"))


def card(entry: Entry) -> Card:
    """The card of one method.

    Args:
        entry: As the catalogue has it.
    """
    file = _ROOT.joinpath(*entry.path.split(".")[:-1]).with_suffix(".py")
    citation = _citation(file) if file.is_file() else ""
    paper, year = _short(citation, entry.name)
    return Card(entry.name, entry.family, TASKS.get(entry.family, ""), paper, year, citation)


def _citation(file: Path) -> str:
    """The paragraph ``Paper:`` or ``Papers:`` of a module's docstring, in one line."""
    found = _PAPERS.search(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
    return " ".join(found[1].split()) if found else ""


def _short(citation: str, name: str) -> tuple[str, str]:
    """Authors, where and when, without the title; and the year alone.

    Of several papers that one which names the class in brackets, else the first with a year.
    """
    parts = [part for part in re.split(r"; (?=[^)]*(?:\(|$))", citation) if _YEAR.search(part)]
    for part in sorted(parts, key=lambda part: f"({name})" not in part):
        bare = _TITLE.sub(",", part)
        if found := _YEAR.search(bare):
            return re.sub(r"[\s,]*,\s*", ", ", _ASIDE.sub("", bare[: found.end()])).strip(), found[0]
    return "", ""
