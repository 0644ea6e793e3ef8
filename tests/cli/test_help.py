"""The help names every verb and every default callback, and nothing that a verb does not take."""

from __future__ import annotations

import re

import pytest
from cli_parts import command, one_sentence, succeed

from anomaly_suite.cli.help import HELP, help_for
from anomaly_suite.cli.help import VERBS as TOLD
from anomaly_suite.cli.lightning import LAYER
from anomaly_suite.cli.main import RUN_VERBS, VERBS
from anomaly_suite.cli.planned import plan_lightning
from anomaly_suite.errors import ConfigError

OURS = {"--run", "--output", "--on_error", "--then", "--model.OPTION", "--data.OPTION", "--model.help", "--data.help"}
OF_CLASSES = re.compile(r"--data\.\w+|--features\.\w+")


def test_every_verb_stands_in_the_help():
    assert all(f"\n  {verb} " in HELP for verb in VERBS)


def test_every_default_callback_stands_in_the_help():
    said = " ".join(HELP.partition("--disable")[2].split())
    assert said.startswith(f"[NAME, ...] leave out default callbacks: {', '.join(LAYER)} ")
    assert f"callbacks: {', '.join(LAYER)} --" in " ".join(succeed("fit", "--help").out.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # a narrower terminal wraps more lines


@pytest.fixture(scope="module")
def parsers():
    """The parser of every subcommand."""
    planned = plan_lightning("fit", ["--model", "PaDiM", "--data", "Digits"])
    return {name: planned._parser(name) for name in ("fit", "validate", "test", "predict")}


@pytest.mark.parametrize("verb", RUN_VERBS)
def test_the_short_help_is_short_and_true(verb, parsers):
    said = succeed(verb, "--help").out
    assert said.startswith(f"usage: anomaly-suite {verb} ")
    assert len(said.splitlines()) < 60
    assert f"{verb} --model.help PaDiM" in said
    assert f"{verb} --help all" in said
    named = {name for name in re.findall(r"--[\w.]+", said) if not OF_CLASSES.fullmatch(name)} - OURS - {"--help"}
    taken = {action.dest for action in parsers[{"train": "fit", "calibrate": "validate"}.get(verb, verb)]._actions}
    assert named
    assert named <= {f"--{name}" for name in taken}


def test_options_of_data_in_the_short_help_are_those_of_data_sets():
    named = set(re.findall(r"--data\.(\w+)", " ".join(succeed(verb, "--help").out for verb in TOLD)))
    assert all(f"--data.{name} " in succeed("fit", "--data.help", "MVTecAD").out for name in named - {"help", "OPTION"})


def test_the_method_and_the_data_at_hand_come_first():
    said = succeed("fit", "--config", "one_class/padim_mvtec.yaml", "--data=Folder", "-h").out
    parts = [
        said.index(part)
        for part in ("options of PaDiM:", "--model.num_channels", "options of Folder:", "method and data:")
    ]
    assert parts == sorted(parts)
    assert "D, drawn at random" in said
    assert "default imagenet" in said


def test_help_of_one_class():
    said = succeed("fit", "--model.help", "PaDiM").out
    assert (
        said == succeed("fit", "--help", "PaDiM").out == succeed("test", "--model.help=anomaly_suite.methods.PaDiM").out
    )
    assert said.startswith("usage: anomaly-suite fit --model PaDiM ")
    assert "--data.normal_class" in succeed("fit", "--data.help", "MNIST").out
    assert "no method 'PaDIM'" in one_sentence(command("fit", "--model", "PaDIM", "--help"), ConfigError)
    assert "Did you mean 'PaDiM'?" in one_sentence(command("fit", "--help", "PaDIM"), ConfigError)
    assert help_for("fit", ["--model.help", "my_method.Own"]) is None  # the parser imports it


@pytest.mark.parametrize("verb", ["export", "extract-features"])
def test_verbs_that_are_functions(verb):
    said = succeed(verb, "--help").out
    assert said.startswith(f"usage: anomaly-suite {verb} ")
    assert len(said.splitlines()) < 60
    assert ("--format" if verb == "export" else "INPUT") in said


def test_verbs_without_a_parser_have_help_too():
    for verb in ("list", "report"):
        assert succeed(verb, "--help").out.startswith(f"usage: anomaly-suite {verb} ")
