"""Options of public constructors: a wrong keyword or an impossible value gets one sentence before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from typing_extensions import Self

from anomaly_suite.annotations import annotations_of, check_kinds, fits
from anomaly_suite.errors import ConfigError, did_you_mean
from anomaly_suite.ranges import EVERYWHERE, check_values


class UnknownOptionError(ConfigError, TypeError):
    """A constructor was given an option that it does not have; also the error that Python itself would raise."""


class ChecksOptions:
    """First base of the classes that users construct: refuses unknown options and impossible values before anything is built.

    The check stands in ``__new__``, so that a subclass keeps its own signature, and ``save_hyperparameters`` finds its frame.

    Raises:
        UnknownOptionError: an option that the class does not have, with the nearest name; or one without its name.
        ConfigError: a value out of the range that its name has, see :mod:`anomaly_suite.ranges`, or of another kind than its
            annotation, see :mod:`anomaly_suite.annotations`.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Check names and values of the options; Python checks the rest."""
        types, in_order, is_open = _signature(cast(Any, cls))
        require_options(cls, options)
        owner, inherited = _inherited(cast(Any, cls))
        if len(args) > len(in_order) and not is_open and _is_ours(owner) and inherited == types.keys():
            written = f"{next(iter(types))}=..." if types else ""
            raise UnknownOptionError(
                f"{cls.__name__} takes its options by name; got {len(args)} without. Write {cls.__name__}({written})."
            )
        placed = dict(zip(in_order, args, strict=False)) if len(args) <= len(in_order) else {}
        given = {**placed, **options}
        ours = {key: each for key, each in given.items() if key in inherited}
        others = {key: each for key, each in given.items() if key in EVERYWHERE and key not in inherited}
        check_values(cls.__name__, ours, _signature(cast(Any, owner))[0])
        check_values(cls.__name__, others, types)
        check_kinds(cast(Any, owner), ours, name=cls.__name__)
        return super().__new__(cls)


@lru_cache(maxsize=1024)
def _signature(cls: type) -> tuple[dict[str, str], list[str], bool]:
    """Of a constructor: annotations of all options as they are written, the options in order, and whether it takes any other."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    types = {each.name: each.annotation if isinstance(each.annotation, str) else "" for each in named}
    in_order = [each.name for each in named if each.kind is not each.KEYWORD_ONLY]
    return types, in_order, any(each.kind is each.VAR_KEYWORD for each in parameters)


@lru_cache(maxsize=1024)
def _inherited(cls: type) -> tuple[type, frozenset[str]]:
    """The class of this package whose constructor a class has or calls, and the options that mean there what they mean in the class.

    A class of one's own may take an option of the same name for something else: its annotation or its default then says so.
    """
    own: dict[str, inspect.Parameter] = {}
    kinds: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        known = annotations_of(base)
        if _is_ours(base):
            other = {name for name, kind in kinds.items() if kind != known.get(name)}
            other |= {name for name, each in own.items() if not _may_be(each.default, known.get(name, Any))}
            return base, frozenset(_signature(cast(Any, base))[0].keys() - other)
        for name, each in inspect.signature(base.__init__).parameters.items():  # type: ignore[misc]
            if name not in own and each.annotation is not each.empty:
                kinds[name] = known.get(name, "unread")
            own.setdefault(name, each)
    return cls, frozenset()


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("anomaly_suite.")


def _may_be(default: Any, kind: Any) -> bool:
    return default is inspect.Parameter.empty or fits(default, kind)


def require_options(cls: type, names: Iterable[str]) -> None:
    """Refuse names that are no options of a class.

    Args:
        cls: The class.
        names: Of options.

    Raises:
        UnknownOptionError: with the nearest name.
    """
    types, _, is_open = _signature(cast(Any, cls))
    for name in names:
        if not is_open and name not in types:
            raise UnknownOptionError(unknown_option(cls.__name__, name, list(types)))


def unknown_option(owner: str, name: str, known: list[str]) -> str:
    """The sentence about an option that does not exist.

    Args:
        owner: Class or verb that was given the option.
        name: The option.
        known: Every option there is.

    Example:
        >>> unknown_option("PEBAL", "backbne", ["backbone", "lr"])
        "PEBAL has no option 'backbne'. Did you mean 'backbone'?"
    """
    return f"{owner} has no option {name!r}.{did_you_mean(name, known) or ' It takes ' + (', '.join(known) or 'none') + '.'}"
