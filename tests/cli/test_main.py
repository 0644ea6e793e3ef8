"""Verbs, help and version."""

from __future__ import annotations

import pytest
from cli_parts import command

import anomaly_suite
from anomaly_suite.cli import main
from anomaly_suite.errors import ConfigError


def test_the_traceback_can_be_had(monkeypatch):
    monkeypatch.setenv("ANOMALY_SUITE_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="unknown verb 'fitt'"):
        main(["fitt"])


def test_help_and_version_answer():
    assert command().out == command("--help").out == command("-h").out
    assert command("--version").out == f"anomaly-suite {anomaly_suite.__version__}\n"
