"""The parser of every verb, whose errors are one sentence with the nearest name."""

from __future__ import annotations

import functools
import inspect
import operator
import re
import traceback
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, NoReturn, Union, get_args, get_origin

from lightning.pytorch.cli import LightningArgumentParser

from anomaly_suite.cli.catalog import check_class_name
from anomaly_suite.errors import AnomalySuiteError, ConfigError, did_you_mean
from anomaly_suite.options import UnknownOptionError, unknown_option


class SuiteParser(LightningArgumentParser):
    """The parser of LightningCLI, with errors that name the nearest option or class."""

    known: ClassVar[set[str]] = set()  # options of all verbs' parsers, for the nearest name
    described: type | None = None  # the class whose options this parser holds, where it is one class's

    def add_class_arguments(self, class_type: type, nested_key: str | None = None, *args: Any, **options: Any) -> Any:
        """Add the options of a class, and remember it if they are all that this parser holds."""
        if nested_key is None:
            self.described = class_type
        added = super().add_class_arguments(class_type, nested_key, *args, **options)
        for action in self._actions:
            if hint := getattr(action, "_typehint", None):
                action._typehint = whole_first(hint)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one sentence instead of printing the usage of several hundred options.

        Raises:
            ConfigError: always.
        """
        raise (own_error(ex) if ex else None) or ConfigError(explain(message, self)) from ex


def whole_first(hint: Any) -> Any:
    """A type hint in which ``int`` stands before ``float``, so that 1 stays 1: as a float it would be all batches.

    Lightning's hints say so, but ``typing`` keeps one object for both orders of ``Optional[Union[int, float]]``: that of the library
    that was imported first, scikit-learn for example.

    Args:
        hint: Any type hint.
    """
    kinds = list(get_args(hint))
    if get_origin(hint) not in (Union, UnionType) or not {int, float} <= set(kinds):
        return hint
    first, second = sorted((kinds.index(int), kinds.index(float)))
    kinds[first], kinds[second] = int, float
    return functools.reduce(operator.or_, kinds)


def option_names(owner: type, parser: SuiteParser) -> list[str]:
    """Options of a class: its signature, or what the parser found where the signature leaves them open.

    Args:
        owner: The class.
        parser: The parser that holds its options.
    """
    parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]  # type: ignore[misc]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return [action.dest for action in parser._actions if action.dest != "help"]
    return [parameter.name for parameter in parameters]


def explain(message: str, parser: SuiteParser) -> str:
    """Shorten a parser's message to what is wrong, and add the nearest name where a class or an option is unknown.

    Args:
        message: What jsonargparse says, several lines long for a wrong model or data option.
        parser: The parser that says it; its options are the known ones.

    Raises:
        ConfigError: at once, for an unknown class and for an option that a class does not have.
    """
    text = " ".join(in_one_order(message).split())
    if told := re.search(r"Errors: - (\w+ has no option '.*?) - Expected a <class 'NoneType'>", text):
        raise UnknownOptionError(told[1])
    inner = re.search(
        r'key "([\w.]+)": .*? Errors: - (.*?) - Expected a <class \'NoneType\'>.*? Given value: (.*)', text
    )
    part, reason, given = inner.groups() if inner else ("", text, "")
    wrong_class = re.search(r"Expected a dot import path string: (\w+)", reason)
    if wrong_class and part in ("model", "data"):
        check_class_name(wrong_class[1], "methods" if part == "model" else "data")
    if wrong := re.search(r"(?:Option|option|arguments:) '?-*([\w.]+)", reason):
        if parser.described is not None:
            names = option_names(parser.described, parser)
            raise UnknownOptionError(unknown_option(parser.described.__name__, wrong[1], names))
        known = {option for option in parser.known if option.count(".") == wrong[1].count(".")}
        near = did_you_mean(wrong[1], known | {option.split(".")[0] for option in known})
        return f"no option {wrong[1]!r}.{near or ' --help after the verb lists them.'}"
    if reason.startswith("Unexpected config"):
        return f"a configuration must be a mapping with model, data and trainer; got {reason.partition(': ')[2] or 'nothing'}. Write one key a line."
    got = f"; got {given}" if given and given not in reason and part not in ("model", "data") else ""
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", f"{part}: {reason}{got}" if part else reason)


def in_one_order(message: str) -> str:
    """A parser's message as its newer versions write it: before 4.52 the reason why a value is not None stands before the one that matters.

    Args:
        message: Of any version.
    """
    none = r"( +- Expected a <class 'NoneType'>\n)"
    text = re.sub(rf"(Errors:\n){none}((?: .*\n)+?)(?= *Given value)", r"\1\3\2", message)
    return re.sub(
        r"Option '([\w.]+)' is required but not provided.*", r"the following arguments are required: \1", text
    )


def own_error(error: BaseException) -> AnomalySuiteError | None:
    """The error of this package behind a parser's error, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AnomalySuiteError):
        cause = cause.__cause__
    return cause


def reason_of(error: BaseException) -> str:
    """What an error of another package says, as the end of a sentence: of a parser's list of reasons, the first.

    Args:
        error: Of any class.
    """
    text = in_one_order(str(error)) or type(error).__name__
    _, listed, reasons = text.partition("Errors:\n")
    if listed:
        kind = re.search(r"class_path='([\w.]+)'", text)
        first = re.split(r"\n  - ", f"\n{reasons}".partition("\nGiven value")[0])[1]
        text = f"{kind[1].rpartition('.')[2]}: {first}" if kind else first
    return " ".join(text.split()).rstrip(".") + "."


def whole_sentence(reason: str) -> str | None:
    """What this package said, where a parser kept no more of its error than the text; None if it is not whole without more words.

    Args:
        reason: As :func:`reason_of` returns it.

    Example:
        >>> whole_sentence("DAE: lr must be above 0; got -1.0. Give DAE such a value."), whole_sentence("DAE: no such thing.")
        ('lr must be above 0; got -1.0. Give DAE such a value.', None)
    """
    found = re.fullmatch(r"(?:\w+: )?([\w.]+ must .+?; got .+?\. .+)", reason)
    return found[1] if found else None


LIBRARIES = ("lightning", "jsonargparse", "torch/optim")


def is_of_libraries(error: BaseException) -> bool:
    """Whether an error was raised by what checks a user's options: Lightning, the parser, an optimiser.

    Args:
        error: As it was caught.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(f"site-packages/{name}/" in Path(frames[-1].filename).as_posix() for name in LIBRARIES)
