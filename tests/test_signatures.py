"""Every public constructor spells its options out, typed, and the command line takes exactly these."""

from __future__ import annotations

import inspect

import pytest

import anomaly_suite.callbacks
import anomaly_suite.data
import anomaly_suite.methods
import anomaly_suite.metrics
from anomaly_suite.cli.parser_errors import SuiteParser

PACKAGES = (anomaly_suite.methods, anomaly_suite.data, anomaly_suite.callbacks, anomaly_suite.metrics)
PUBLIC = [getattr(package, name) for package in PACKAGES for name in package.__all__]
CLASSES = [item for item in PUBLIC if isinstance(item, type)]


def options(owner: type) -> list[inspect.Parameter]:
    return list(inspect.signature(owner.__init__).parameters.values())[1:]


@pytest.mark.parametrize("owner", CLASSES, ids=lambda owner: owner.__name__)
def test_a_signature_is_complete_and_typed(owner: type) -> None:
    if owner.__init__ is object.__init__:
        return
    for option in options(owner):
        assert option.kind is inspect.Parameter.KEYWORD_ONLY, f"{option.name} is not keyword-only"
        assert option.annotation is not inspect.Parameter.empty, f"{option.name} has no type"


@pytest.mark.parametrize("owner", CLASSES, ids=lambda owner: owner.__name__)
def test_the_command_line_takes_what_python_takes(owner: type) -> None:
    parser = SuiteParser()
    parser.add_class_arguments(owner, fail_untyped=False)
    accepted = [
        action.dest for action in parser._actions if action.dest != "help" and not action.dest.endswith(".help")
    ]
    named = [option.name for option in options(owner) if option.kind is not inspect.Parameter.VAR_KEYWORD]
    assert accepted == named
