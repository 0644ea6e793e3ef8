"""Options of public constructors: a wrong keyword or an impossible value gets one sentence before anything is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

from typing_extensions import Self

from anomaly_suite.annotations import check_kinds
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
        if len(args) > len(in_order) and not is_open and cls.__module__.startswith("anomaly_suite."):
            written = f"{next(iter(types))}=..." if types else ""
            raise UnknownOptionError(
                f"{cls.__name__} takes its options by name; got {len(args)} without. Write {cls.__name__}({written})."
            )
        placed = dict(zip(in_order, args, strict=False)) if len(args) <= len(in_order) else {}
        given = {**placed, **options}
        ours = cls.__module__.startswith("anomaly_suite.")
        check_values(cls.__name__, {key: each for key, each in given.items() if ours or key in EVERYWHERE}, types)
        if ours:
            check_kinds(cast(Any, cls), given)
        return super().__new__(cls)


@lru_cache(maxsize=1024)
def _signature(cls: type) -> tuple[dict[str, str], list[str], bool]:
    """Of a constructor: annotations of all options as they are written, the options in order, and whether it takes any other."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    types = {each.name: each.annotation if isinstance(each.annotation, str) else "" for each in named}
    in_order = [each.name for each in named if each.kind is not each.KEYWORD_ONLY]
    return types, in_order, any(each.kind is each.VAR_KEYWORD for each in parameters)


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
