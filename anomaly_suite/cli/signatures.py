"""Options of classes and functions of this package, read from their source without importing it."""

from __future__ import annotations

import ast
import re
import textwrap
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parents[1]


class Option(NamedTuple):
    """One parameter: its name, what it takes and its default as they are written, and what the docstring says of it."""

    name: str
    kind: str
    default: str | None
    """None where it must be given."""
    text: str
    """Without marks."""


class Signature(NamedTuple):
    """What a class or function says of itself: the first paragraph of its docstring, and its options in their order."""

    summary: str
    options: tuple[Option, ...]


@lru_cache
def signature(path: str) -> Signature:
    """What the source says of a class or a function.

    Args:
        path: Its dotted name, ``anomaly_suite.methods.one_class.padim.PaDiM``.

    Example:
        >>> signature("anomaly_suite.methods.one_class.padim.PaDiM").options[0][:3]
        ('backbone', 'str', "'resnet18'")
    """
    module, _, name = path.rpartition(".")
    file = _file_of(module)
    node: Any = next(each for each in _parsed(file).body if getattr(each, "name", None) == name)
    texts: dict[str, str] = {}
    owner = node
    while isinstance(owner, ast.ClassDef):  # up to the class that says what is taken
        texts = _arguments(ast.get_docstring(owner) or "") | texts
        made = [each for each in owner.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        owner, file = (made[0], file) if made else _base(owner, file)
    if owner is node:
        texts = _arguments(ast.get_docstring(owner) or "")
    options = []
    for argument, default in _parameters(owner.args) if owner is not None else []:
        kind = "" if argument.annotation is None else _kind(argument.annotation, file)
        given = None if default is None else _value(default, file)
        options.append(Option(argument.arg, kind, given, texts.get(argument.arg, "")))
    docstring = ast.get_docstring(node) or ""
    return Signature(" ".join(docstring.split("\n\n")[0].split()), tuple(options))


def _base(node: ast.ClassDef, file: Path) -> tuple[Any, Path]:
    """The first base class that is of this package, and its file; None for none."""
    for base in node.bases:
        known = _defined(base.id, file) if isinstance(base, ast.Name) else None
        if known is not None and isinstance(known[0], ast.ClassDef):
            return known
    return None, file


def _parameters(arguments: ast.arguments) -> list[tuple[ast.arg, ast.expr | None]]:
    positional = [each for each in (*arguments.posonlyargs, *arguments.args) if each.arg != "self"]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    return [
        *zip(positional, [*missing, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]


def _arguments(docstring: str) -> dict[str, str]:
    """The section Args of a docstring: text by name."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    found = re.findall(r"^(\w+):\s*(.*?)(?=^\w+:|\Z)", textwrap.dedent(section[1]), re.DOTALL | re.MULTILINE)
    plain = {name: re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"\1", text.replace("``", "")) for name, text in found}
    return {name: " ".join(text.split()) for name, text in plain.items()}


def _kind(annotation: ast.expr, file: Path) -> str:
    """What an annotation takes: names of choices and of other types are looked up where they are defined."""
    if isinstance(annotation, ast.BinOp):
        return f"{_kind(annotation.left, file)} | {_kind(annotation.right, file)}"
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return "null"
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        choices = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return " | ".join(str(ast.literal_eval(choice)) for choice in choices)
    if isinstance(annotation, ast.Name) and (known := _defined(annotation.id, file)) is not None:
        return annotation.id if isinstance(known[0], ast.ClassDef) else _kind(*known)
    return ast.unparse(annotation)


def _value(default: ast.expr, file: Path) -> str:
    """A default as it is written; a name as what it stands for."""
    if isinstance(default, ast.Name) and (known := _defined(default.id, file)) is not None:
        return _value(*known)
    text = ast.unparse(default)
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)


def _defined(name: str, file: Path) -> tuple[Any, Path] | None:
    """What a name of a module stands for, and where; names from other modules of this package are followed."""
    for node in _parsed(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, file
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(getattr(target, "id", None) == name for target in targets):
            value = getattr(node, "value", None)
            return None if value is None else (value, file)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE.name}."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _defined(alias.name, _file_of(str(node.module)))
    return None


def _file_of(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
