"""Which kinds of values an option takes, by its annotation: choices, texts, switches, lists of a length.

Numbers in their ranges are the business of :mod:`anomaly_suite.ranges`. An annotation of another kind takes anything.
"""

from __future__ import annotations

import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from anomaly_suite.errors import ConfigError, did_you_mean

PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str, os.PathLike), "a text"),
    bool: ((bool, np.bool_, int), "true or false"),
    int: ((numbers.Integral,), "a whole number"),
    float: ((numbers.Real,), "a number"),
    type(None): ((type(None),), "null"),
}
"""What values of simple annotations are, and what they are called."""


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of the kind that an annotation asks for; lists pass for tuples, as YAML has no other.

    Example:
        >>> fits([1, 2], tuple[int, int]), fits((1, 2, 3), tuple[int, int]), fits("b", Literal["a"]), fits(None, int | None)
        (True, False, False, True)
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if annotation in PLAIN:
        return isinstance(value, PLAIN[annotation][0])
    if origin in (list, tuple, Sequence):
        return _fits_list(value, origin, parts)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin is Callable:
        return callable(value)
    return not isinstance(annotation, type) or annotation is Any or isinstance(value, annotation)


def _fits_list(value: Any, origin: Any, parts: tuple[Any, ...]) -> bool:
    if isinstance(value, str | Mapping) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return False
    if origin is tuple and parts[-1:] != (Ellipsis,):
        return len(value) == len(parts) and all(map(fits, value, parts))
    return all(fits(part, parts[0]) for part in value) if parts else True


def describe(annotation: Any) -> str:
    """What a value has to be, in words.

    Example:
        >>> describe(Literal["a", "b"] | None), describe(tuple[int, int])
        ("'a', 'b' or null", 'a list of 2 (a whole number)')
    """
    words = list(dict.fromkeys(_words(annotation)))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _words(annotation: Any) -> list[str]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in PLAIN:
        return [PLAIN[annotation][1]]
    if origin is Literal:
        return list(map(repr, parts))
    if origin in (Union, types.UnionType):
        return [word for part in parts for word in _words(part)]
    if origin in (list, tuple, Sequence) and parts:
        count = f" of {len(parts)}" if origin is tuple and parts[-1] is not Ellipsis else ""
        return [f"a list{count} ({describe(parts[0])})"]
    named = {dict: "a mapping", Mapping: "a mapping", Callable: "a function"}
    return [named.get(origin, getattr(annotation, "__name__", str(annotation)))]


@lru_cache(maxsize=1024)
def annotations_of(cls: type) -> Mapping[str, Any]:
    """Annotations of a constructor's options by name; those that cannot be read, such as names known to type checkers alone, are left out."""
    try:
        return typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        return {}


def check_kinds(cls: type, options: Mapping[str, Any], *, name: str = "") -> None:
    """Refuse values of another kind than the options of a class take.

    Args:
        cls: The class.
        options: Values by name.
        name: What the class is called in messages; by default its name.

    Raises:
        ConfigError: the message has the name, what it must be, the value, and the nearest choice.
    """
    known = annotations_of(cls)
    for key, value in options.items():
        if key in known and not fits(value, known[key]):
            near = did_you_mean(value, _choices(known[key])) if isinstance(value, str) else ""
            raise ConfigError(
                f"{key} must be {describe(known[key])}; got {value!r}.{near or f' Give {name or cls.__name__} such a value.'}"
            )


def _choices(annotation: Any) -> list[str]:
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [part for part in parts if isinstance(part, str)]
    return [choice for part in parts for choice in _choices(part)]
