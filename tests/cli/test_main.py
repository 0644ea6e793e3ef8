"""Verbs, help and version."""

from __future__ import annotations

import os
import sys

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


def test_a_reader_that_has_seen_enough_ends_it_quietly(monkeypatch, capsys):
    """As ``head`` does, which closes its end of the pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
    assert ended.value.code == 141
    assert not capsys.readouterr().err


def test_a_pipe_to_another_process_that_breaks_is_an_error(monkeypatch):
    def broken(verb, words):
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr(sys.modules["anomaly_suite.cli.main"], "_dispatch", broken)
    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        main(["list"])
