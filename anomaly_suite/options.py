"""Options of public constructors: a wrong keyword in Python gets the sentence that the command line gives."""

from __future__ import annotations

import inspect
from typing import Any

from typing_extensions import Self

from anomaly_suite.errors import ConfigError, did_you_mean


class UnknownOptionError(ConfigError, TypeError):
    """A constructor was given an option that it does not have; also the error that Python itself would raise."""


class ChecksOptions:
    """First base of the classes that users construct: refuses unknown options before anything is built.

    The check stands in ``__new__``, so that a subclass keeps its own signature, and ``save_hyperparameters`` finds its frame.

    Raises:
        UnknownOptionError: an option that the class does not have; the message has the nearest name.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Check the names of the options; Python checks the rest."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            known = [parameter.name for parameter in parameters][1:]
            for name in options:
                if name not in known:
                    raise UnknownOptionError(unknown_option(cls.__name__, name, known))
        return super().__new__(cls)


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
