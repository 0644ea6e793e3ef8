"""The help text names every verb and every default callback."""

from __future__ import annotations

from anomaly_suite.cli.help import HELP
from anomaly_suite.cli.lightning import LAYER
from anomaly_suite.cli.main import VERBS


def test_every_verb_stands_in_the_help():
    assert all(f"\n  {verb} " in HELP for verb in VERBS)


def test_every_default_callback_stands_in_the_help():
    said = " ".join(HELP.partition("--disable")[2].split())
    assert said.startswith(f"[NAME, ...] leave out default callbacks: {', '.join(LAYER)} ")
