"""Errors of the command line: one sentence, the nearest name, and the exit code."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Optional, Union

import pytest
from cli_parts import DIGITS, FAST, MODEL, command, matches, one_sentence

import anomaly_suite.callbacks
import anomaly_suite.data
import anomaly_suite.methods
import anomaly_suite.metrics
from anomaly_suite.cli.parser_errors import SuiteParser, option_names
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import ADACL
from anomaly_suite.options import UnknownOptionError

WRONG_WORDS = {
    "verb": (["fitt"], "unknown verb 'fitt'; known are fit, .* Did you mean 'fit'?"),
    "list": (["list", "method"], "list needs one of methods, data, metrics, callbacks, configs, runs; got method."),
    "list_nothing": (["list"], "got nothing."),
    "report": (["report"], "report needs one run folder; got nothing."),
    "method": (["fit", "--model", "ADCL", "--data", "Digits"], "no method 'ADCL'.* Did you mean 'ADACL'?"),
    "method_joined": (["fit", "--model=Padim", "--data=Digits"], "no method 'Padim'.* Did you mean 'PaDiM'?"),
    "data": (["fit", "--model", "ADACL", "--data", "Digts"], "no data module 'Digts'.* Did you mean 'Digits'?"),
    "own_class_without_file": (["fit", "--model", "Mine"], r"Your own class needs its dotted name (my_file.Mine)"),
    "own_file": (["fit", "--model", "my_methd.Mine", *DIGITS], "model: .* No module named 'my_methd'"),
    "no_data": (["fit", *MODEL], "arguments are required: fit.data"),
    "model_option": (["fit", *FAST, "--model.hiden", "3"], "ADACL has no option 'hiden'. Did you mean 'hidden'?"),
    "data_option": (["fit", *FAST, "--data.normal_clas", "3"], "Digits has no option 'normal_clas'. Did you mean 'normal_class'?"),
    "trainer_option": (["fit", *FAST, "--trainer.max_epohs", "3"], "no option 'trainer.max_epohs'. Did you mean 'trainer.max_epochs'?"),
    "group": (["fit", *FAST, "--trainr.max_epochs", "3"], "no option 'trainr.max_epochs'. Did you mean 'trainer.max_epochs'?"),
    "callback_option": (["fit", *FAST, "--calibrate.rlue", "auto"], "Did you mean 'calibrate.rule'?"),
    "model_value": (["fit", *FAST, "--model.hidden", "many"], "hidden: Expected a <class 'int'>.* many"),
    "model_choice": (["fit", *FAST, "--model.labels", "continous"], "labels: .*'continuous', 'discrete'.* continous"),
    "data_value": (["fit", *FAST, "--data.val_size", "5.5"], "val_size must be a fraction .* got 5.5"),
    "data_choice": (["fit", *FAST, "--data.validation", "tset"], "validation: .*'holdout', 'augmented', 'medmix', 'test', 'none'.* tset"),
    "trainer_value": (["fit", *FAST, "--trainer.max_epochs", "many"], "trainer.max_epochs: Expected a <class 'int'>; got many"),
    "callback_choice": (["fit", *FAST, "--calibrate.rule", "autoo"], "calibrate.rule: .*'auto', 'max_f1'.* autoo"),
    "metric": (["fit", *FAST, "--metrics.image", "[AUROK]"], "no metric 'AUROK'.* Did you mean 'AUROC'?"),
    "optimizer": (["fit", *FAST, "--optimizer", "Adamm"], "optimizer: .*Adamm"),
    "disable": (["fit", *FAST, "--disable", "[heatmap]"], "got 'heatmap'. Did you mean 'heatmaps'?"),
    "config": (["fit", "--config", "missing.yaml"], "no configuration 'missing.yaml': .* anomaly-suite list configs"),
    "accelerator": (["fit", *FAST, "--trainer.accelerator", "gpux"], "trainer: .*'gpux'.* trainer.accelerator"),
    "run_without_folder": (["test", "--run"], "--run needs the folder of an earlier fit."),
    "run_for_fit": (["fit", "--run", "runs"], "no option 'run'"),
}  # fmt: skip  # fmt: skip


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_wrong_words_end_in_one_sentence(case, cwd):
    words, pattern = WRONG_WORDS[case]
    done = command(*words)
    assert done.code == 2
    sentence = one_sentence(done, UnknownOptionError if " has no option" in pattern else ConfigError)
    assert matches(pattern, sentence), sentence
    assert not Path("runs").exists()


WRONG_FILES = {
    "method": ("model: {class_path: ADACLL}", "no method 'ADACLL'.* Did you mean 'ADACL'?"),
    "data": ("data: {class_path: Digitz}", "no data module 'Digitz'.* Did you mean 'Digits'?"),
    "model_option": (
        "model: {class_path: ADACL, init_args: {hiden: 3}}",
        "ADACL has no option 'hiden'. Did you mean 'hidden'?",
    ),
    "data_option": (
        "data: {class_path: Digits, init_args: {normal_clas: 3}}",
        "Digits has no option 'normal_clas'. Did you mean 'normal_class'?",
    ),
    "trainer_option": ("trainer: {max_epoch: 3}", "no option 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?"),
    "group": (
        "trainr: {max_epochs: 3}",
        "'second.yaml' has 'trainr', which is no part of a configuration. Did you mean 'trainer'?",
    ),
    "value": ("model: {class_path: ADACL, init_args: {hidden: many}}", "hidden: Expected a <class 'int'>.* many"),
    "callback": ("trainer: {callbacks: [{class_path: EarlyStoping}]}", "trainer.callbacks: .*EarlyStoping"),
    "yaml": ("model: [}", "'second.yaml', line 1, column 9 is no YAML: expected"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_end_in_one_sentence(case, cwd):
    text, pattern = WRONG_FILES[case]
    Path("first.yaml").write_text("model: {class_path: ADACL}\ndata: {class_path: Digits}\n", encoding="utf-8")
    Path("second.yaml").write_text(f"{text}\n", encoding="utf-8")
    done = command("fit", "--config", "first.yaml", "--config", "second.yaml")
    assert done.code == 2
    sentence = one_sentence(done, UnknownOptionError if " has no option" in pattern else ConfigError)
    assert matches(pattern, sentence), sentence


@pytest.mark.parametrize("words", [["--model", "ADACL", "--model.hiden", "3", *DIGITS], ["--config", "wrong.yaml"]])
def test_a_wrong_option_gets_the_sentence_of_python(words, cwd):
    Path("wrong.yaml").write_text(
        "model: {class_path: ADACL, init_args: {hiden: 3}}\ndata: {class_path: Digits}\n", encoding="utf-8"
    )
    with pytest.raises(UnknownOptionError) as raised:
        ADACL(hiden=3)  # type: ignore[call-arg]
    assert one_sentence(command("fit", *words), UnknownOptionError) == str(raised.value)


def test_a_wrong_option_of_another_package_names_its_class(cwd):
    done = command("fit", *FAST, "--optimizer", "Adam", "--optimizer.betaz", "3")
    assert one_sentence(done, UnknownOptionError) == "Adam has no option 'betaz'. Did you mean 'betas'?"


def test_options_that_a_signature_leaves_open_are_the_parsers():
    class Open:
        def __init__(self, side: int = 1, **more: int) -> None: ...

    parser = SuiteParser()
    parser.add_class_arguments(Open)
    assert option_names(Open, parser) == ["side"]


# Signatures of public constructors, and what the command line takes -----------------------------------------------------

PACKAGES = (anomaly_suite.methods, anomaly_suite.data, anomaly_suite.callbacks, anomaly_suite.metrics)
PUBLIC = [getattr(package, name) for package in PACKAGES for name in package.__all__]
CLASSES = [
    item for item in PUBLIC if isinstance(item, type) and item.__init__ is not object.__init__
]  # neither records nor bases


def options(owner: type) -> list[inspect.Parameter]:
    return list(inspect.signature(owner.__init__).parameters.values())[1:]


@pytest.mark.parametrize("owner", CLASSES, ids=lambda owner: owner.__name__)
def test_a_signature_is_complete_and_typed(owner: type) -> None:
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


class Batches:
    def __init__(self, share: Optional[Union[float, int]] = None, both: Union[float, int] = 1) -> None: ...  # noqa: UP007, UP045


@pytest.mark.parametrize(("word", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None)])
def test_whole_numbers_stay_whole_in_whichever_order_a_library_made_the_hint(word: str, value: Any) -> None:
    parser = SuiteParser()
    parser.add_class_arguments(Batches, "trainer")
    found = parser.parse_args([f"--trainer.share={word}"]).trainer.share
    assert (found, type(found)) == (value, type(value))
    if value is not None:
        found = parser.parse_args([f"--trainer.both={word}"]).trainer.both
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--trainer.devices", "4.5"], "should be an int > 0. Got .* trainer.devices: 4.5.* Change the option"),
        (["--trainer.accelerator", "tpu"], "trainer: .* trainer.accelerator: tpu"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches must be at least 1; got 0."),
        (
            ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration", "x"],
            "Timer: .*duration='x'.* not a valid duration",
        ),
        (["--optimizer", "Adam", "--optimizer.lr", "-1"], "Invalid learning rate: -1.0. Change the option"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_other_packages_refuse_is_one_sentence(words, sentence, cwd):
    done = command("fit", *FAST, *words)
    assert done.code == 2
    said = one_sentence(done, ConfigError)
    assert matches(sentence, said), said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x80\x02", "a configuration must be a text in UTF-8; wrong.yaml is not"),
        (b"trainer: {max_epochs: 1, max_epochs: 2}", "wrong.yaml has 'max_epochs' twice below line 1"),
        (b"just a text", "a configuration must be a mapping with model, data and trainer; got just a text"),
        (b"trainer: 3", "trainer must be a mapping of options to values; got 3"),
    ],
)
def test_files_that_are_no_configuration(content, sentence, cwd):
    Path("wrong.yaml").write_bytes(content)
    assert sentence in one_sentence(command("fit", *FAST, "--config", "wrong.yaml"), ConfigError)
