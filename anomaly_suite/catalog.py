"""What the package offers, read from its source without importing it, so that ``list`` and error messages cost nothing."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["methods", "data", "metrics", "callbacks"]
_ROOT = Path(__file__).parent


class Entry(NamedTuple):
    """One public class: its name, dotted path, family (folder) and the first sentence of its docstring."""

    name: str
    path: str
    family: str
    summary: str


@lru_cache
def catalog(kind: Kind) -> tuple[Entry, ...]:
    """Public classes of one subpackage: those in its ``__all__``, sorted by family and name.

    Args:
        kind: The subpackage.

    Example:
        >>> "PaDiM" in [entry.name for entry in catalog("methods")]
        True
    """
    public = _exported(_ROOT / kind / "__init__.py")
    found = []
    for file in sorted((_ROOT / kind).rglob("*.py")):
        dotted = ".".join(file.relative_to(_ROOT.parent).with_suffix("").parts)
        family = file.parent.name if file.parent.name != kind else file.stem
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in public:
                summary = re.split(r"(?<=\.)\s", ast.get_docstring(node) or "", maxsplit=1)[0]
                found.append(Entry(node.name, f"{dotted}.{node.name}", family, summary))
    return tuple(sorted(found, key=lambda entry: (entry.family, entry.name)))


def _exported(init: Path) -> set[str]:
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()
