"""What the package offers, read from its source without importing it, so that ``list`` and error messages cost nothing."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from anomaly_suite.errors import ConfigError, did_you_mean

Kind = Literal["methods", "data", "metrics", "callbacks"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_ROOT = Path(__file__).parents[1]
_OPTIONS: dict[str, Kind] = {
    "--model": "methods",
    "--model.class_path": "methods",
    "--data": "data",
    "--data.class_path": "data",
}


class Entry(NamedTuple):
    """One public class: its name, dotted path, family (folder; the package of a plugin) and the first sentence of its docstring."""

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
    return _classes_in(kind)


@lru_cache
def adapters() -> tuple[Entry, ...]:
    """Methods that run models of other packages, which may not be installed."""
    return _classes_in("adapters")


def _classes_in(folder: str) -> tuple[Entry, ...]:
    public = _exported(_ROOT / folder / "__init__.py")
    found = []
    for file in sorted((_ROOT / folder).rglob("*.py")):
        dotted = ".".join(file.relative_to(_ROOT.parent).with_suffix("").parts)
        family = file.parent.name if file.parent.name != folder else file.stem
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in public:
                found.append(Entry(node.name, f"{dotted}.{node.name}", family, summary_of(node)))
    return tuple(sorted(found, key=lambda entry: (entry.family, entry.name)))


def summary_of(node: ast.ClassDef) -> str:
    """The first sentence of a class's docstring; empty where there is none."""
    return re.split(r"(?<=\.)\s", ast.get_docstring(node) or "", maxsplit=1)[0]


def _exported(init: Path) -> set[str]:
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def check_class_names(words: list[str]) -> None:
    """Refuse a misspelt short class name on the command line, naming the nearest one.

    Args:
        words: Command-line words. ``--model NAME``, ``--data NAME`` and their ``=`` and ``.class_path`` forms are
            checked; dotted names are the user's own classes.

    Raises:
        ConfigError: no public class has this name.
    """
    for option, value in options_of(words):
        if kind := _OPTIONS.get(option):
            check_class_name(value, kind)


def options_of(words: list[str]) -> list[tuple[str, str]]:
    """Every word of a command line with the value that follows it, joined by ``=`` or not.

    Example:
        >>> options_of(["--model=PaDiM", "--data", "Digits"])
        [('--model', 'PaDiM'), ('--data', 'Digits'), ('Digits', '')]
    """
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        found.append((option, value if equals else after))
    return found


def check_class_name(name: str, kind: Kind) -> None:
    """Refuse a short name that is no public class of its kind.

    Raises:
        ConfigError: no public class has this name.
    """
    if not name or not name.isidentifier() or any(entry.name == name for entry in catalog(kind)):
        return
    from anomaly_suite.cli.plugins import broken, offered

    names = [entry.name for entry in offered(kind)]
    if name not in names:
        lost = "".join(f" The {sentence}" for sentence in broken())
        raise ConfigError(
            f"no {'method' if kind == 'methods' else 'data module'} {name!r}; known are {', '.join(names)}. "
            f"Your own class needs its dotted name (my_file.{name}).{did_you_mean(name, names)}{lost}"
        )
