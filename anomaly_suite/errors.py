"""What a user can get wrong, one class per kind; each is also the built-in error a caller would expect.

The message always has three parts: what was expected, what arrived, what to do next. The command line prints these
errors as one sentence without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AnomalySuiteError(Exception):
    """Base of every error this package raises on purpose.

    A loader worker's error is raised again by torch with the worker's whole traceback for a message; of that only the sentence is kept.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_sentence(type(self), args[0]) if len(args) == 1 else arg for arg in args))


class ConfigError(AnomalySuiteError, ValueError):
    """An option has a value that cannot work."""


class DatasetNotFoundError(AnomalySuiteError, FileNotFoundError):
    """A folder or file of a data set is not where it was said to be."""


class DatasetError(AnomalySuiteError, ValueError):
    """A data set is there, but its content breaks its own layout."""


class ImageReadError(AnomalySuiteError, OSError):
    """An image file cannot be decoded."""


class ShapeError(AnomalySuiteError, ValueError):
    """A tensor has the wrong shape or type."""


class NotFiniteError(AnomalySuiteError, ValueError):
    """Scores or features hold NaN or infinity."""


class LabelError(AnomalySuiteError, ValueError):
    """Labels, decisions, scores or probabilities hold values that they cannot have."""


class NotFittedError(AnomalySuiteError, RuntimeError):
    """A method was asked to predict before it was fitted."""


class MetricUndefinedError(AnomalySuiteError, ValueError):
    """A metric has no value on this data, for example an AUROC on one label only."""


class CheckpointError(AnomalySuiteError, ValueError):
    """A checkpoint does not fit the class that loads it."""


class MissingCheckpointError(CheckpointError, FileNotFoundError):
    """There is no checkpoint where it was said to be; also the error that Python itself would raise."""


class StateDictError(CheckpointError, RuntimeError):
    """Tensors do not fit the module that loads them; also the error that torch itself would raise."""


class WeightsError(AnomalySuiteError, ValueError):
    """A file of pretrained weights does not fit the network."""


class FileWriteError(AnomalySuiteError, OSError):
    """A file could not be written whole; an older one of its name is as it was."""


def _sentence(error: type[AnomalySuiteError], message: object) -> object:
    """What an error said before torch put the traceback of the process or thread that raised it in front."""
    if not isinstance(message, str) or not message.startswith(f"Caught {error.__name__} in "):
        return message
    # A traceback ends in the error itself; one of the main program is written without its module.
    ends = [message.rfind(f"\n{name}: ") for name in (f"{error.__module__}.{error.__qualname__}", error.__qualname__)]
    return message[max(ends) :].partition(": ")[2].rstrip("\n") if max(ends) >= 0 else message


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of an error message.

    Args:
        name: What the user wrote.
        known: Every name that would have worked.

    Returns:
        ``" Did you mean 'x'?"`` for the nearest name (case is ignored), or ``""`` when nothing is near.

    Example:
        >>> did_you_mean("botle", ["bottle", "cable"])
        " Did you mean 'bottle'?"
    """
    folded = {item.lower(): item for item in known}
    near = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""
