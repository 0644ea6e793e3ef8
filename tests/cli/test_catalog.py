"""Public classes read from the source."""

from __future__ import annotations

import importlib

import pytest

from anomaly_suite.cli.catalog import KINDS, catalog, check_class_names, options_of
from anomaly_suite.errors import ConfigError


@pytest.mark.parametrize("kind", KINDS)
def test_entries_are_the_public_classes(kind):
    package = importlib.import_module(f"anomaly_suite.{kind}")
    entries = catalog(kind)
    public = {name for name in package.__all__ if isinstance(getattr(package, name), type)}
    assert {entry.name for entry in entries} == public
    for entry in entries:
        module, _, name = entry.path.rpartition(".")
        assert getattr(importlib.import_module(module), name) is getattr(package, name)
        assert entry.summary.endswith(".")


def test_misspelt_names_are_refused_and_own_classes_are_not():
    check_class_names(["--model", "my_file.Mine", "--data=Digits", "--model"])
    with pytest.raises(ConfigError, match=r"no data module 'Digts'.* Did you mean 'Digits'"):
        check_class_names(["--data.class_path=Digts"])


def test_values_follow_their_option():
    assert options_of([]) == []
    assert options_of(["--a=", "--b"]) == [("--a", ""), ("--b", "")]
