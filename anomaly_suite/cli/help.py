"""What ``--help`` prints: of the program, of a verb, and of a class or function of this package. Nothing slow is loaded."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from anomaly_suite.cli.catalog import Entry, Kind, catalog, check_class_name, options_of
from anomaly_suite.cli.samples import find_config, read_stack
from anomaly_suite.cli.signatures import Option, signature
from anomaly_suite.errors import ConfigError, did_you_mean

HELP = """usage: anomaly-suite VERB [options]

Visual anomaly detection on PyTorch Lightning.

verbs that need a configuration (anomaly-suite VERB --help names the usual options, --help all every one):
  fit         train a method, validate and calibrate it
  train       fit, then test and report, in one
  validate    run the validation set through a checkpoint
  test        metrics, heatmaps, plots and score table on the test set
  predict     scores, decisions and heatmaps of new pictures: predict --run RUN PICTURE|FOLDER|PATTERN|VIDEO|LIST...
  calibrate   refit thresholds of a checkpoint by another rule, without training

verbs that need a run:
  export --run RUN                       one file for other programs, decisions inside: --format onnx|torch_export|torchscript

verbs for tables:
  benchmark --config GRID                methods x data x classes x seeds in one folder, with tables beside the papers' figures
  compare RUN RUN ...                    metrics of runs side by side, and the options that tell them apart

verb that needs videos:
  extract-features INPUT OUTPUT          snippet features of video files or folders of frames (--help lists the options)

verbs that answer at once:
  list methods|data|metrics|callbacks    what the package offers
  list configs [METHOD]                  sample configurations: data, device and published figure
  report RUN [--html]                    metrics of a run folder as a table, beside the published ones, or all of it as one HTML file

common options:
  --config FILE             YAML file with model, data and trainer, yours or a sample configuration such as
                            one_class/padim_mvtec.yaml; repeatable, later files win
  --model NAME --data NAME  short class name (see list), or the dotted name of your own class in the current folder
  --model.help NAME         options of a method; --data.help NAME those of a data set
  --then FILE [options]     (fit) a second stage, such as a detector after a pre-training, whose encoder it takes; options
                            after it are of that stage. A finished pre-training is not trained again
  --print_config            print the complete configuration and stop
  --run RUN                 (all but fit) configuration and checkpoint of an earlier fit; results go into its folder
  --untrained true          (validate, test, predict) score a model that has neither run nor checkpoint nor weights
  --output DIR              (predict) folder for the results; --on_error skip leaves out pictures that cannot be read
  --disable [NAME, ...]     leave out default callbacks: calibrate, metrics, segmentation, components, frames,
                            localisation, heatmaps, plots, curves, table, splits
  --version                 print the version

example:
  anomaly-suite fit --config quickstart.yaml
  anomaly-suite test --run runs/quickstart
"""

Rows = tuple[tuple[str, str], ...]
METHOD: Rows = (
    (
        "--config FILE",
        "model, data and trainer in YAML, yours or a sample configuration (list configs); later files win",
    ),
    ("--model NAME", "method (list methods), or the dotted name of your own class in the current folder"),
    ("--model.OPTION VALUE", "an option of the method: --model.help PaDiM lists those of PaDiM"),
    ("--data NAME", "data set (list data), or your own class; Folder takes any folder of images"),
    ("--data.OPTION VALUE", "an option of the data set: --data.help MVTecAD lists those of MVTecAD"),
    ("--data.root DIR", "where its files lie"),
    ("--data.image_size N", "height and width of the images; --data.eval_batch_size N how many are scored at once"),
)
TRAINING: Rows = (
    ("--data.validation WORD", "holdout, augmented, medmix, test or none: what thresholds are chosen on"),
    ("--data.train_batch_size N", "samples of a training step"),
    ("--trainer.max_epochs N", "when to end; also --trainer.max_steps N, --trainer.max_time HH:MM:SS"),
    ("--seed_everything N", "seed of the run (0)"),
    (
        "--checkpoint.monitor NAME",
        "keep the epoch where this is best, such as val/image_AUROC with --checkpoint.mode max; the last one by default",
    ),
    ("--ckpt_path FILE", "go on from this checkpoint"),
    ("--then FILE [options]", "a second stage that takes the encoder of this pre-training"),
)
OF_RUN: Rows = (
    ("--run RUN", "configuration and checkpoint of an earlier fit; results go into its folder"),
    ("--ckpt_path FILE", "another checkpoint of it"),
)
MACHINE: Rows = (
    ("--trainer.accelerator WORD", "auto, cpu, gpu; --trainer.devices N, --trainer.precision bf16-mixed"),
    ("--trainer.default_root_dir DIR", "folder for the run (runs)"),
    ("--trainer.logger NAME", "TensorBoardLogger, CSVLogger, WandbLogger, MLFlowLogger; false for none"),
)
RESULTS: Rows = (
    (
        "--disable NAME,NAME",
        "leave out callbacks: calibrate, metrics, segmentation, components, frames, localisation, heatmaps, plots, curves, table, splits",
    ),
    ("--metrics.image LIST", "metrics of images; --metrics.pixel of pixels (list metrics)"),
    ("--heatmaps.max_images N", "panels that are written; null for all; --heatmaps.raw npy also writes the maps"),
    ("--table.format parquet", "score table as Parquet in place of CSV"),
)
RULE: Rows = (
    ("--calibrate.rule RULE", "auto, max_f1, youden, quantile, gumbel or fixed"),
    ("--calibrate.quantile SHARE", "share of normal images that stay unflagged, for the rule quantile"),
)
TILES: Rows = (("--tile.size N", "score images in their own size, in tiles of so many pixels; --tile.overlap SHARE"),)
UNTRAINED: Rows = (("--untrained true", "score a model that has neither run nor checkpoint nor weights"),)
ANY: Rows = (("--print_config", "print the complete configuration and stop"),)


class Verb(NamedTuple):
    """Help of a verb: the rest of its usage line, what it does, and its usual options by group."""

    usage: str
    summary: str
    groups: dict[str, Rows]
    example: str = ""


_FIT = {"method and data": METHOD, "training": TRAINING, "machine and folder": MACHINE}
_FIT |= {"thresholds": RULE, "results": RESULTS, "other": ANY}
_TEST = {"run": OF_RUN, "method and data": METHOD, "machine": MACHINE[:1], "results": RESULTS}
VERBS = {
    "fit": Verb(
        "(--config FILE | --model NAME --data NAME) [options]",
        "Train a method, validate and calibrate it.",
        _FIT,
        "anomaly-suite fit --model PaDiM --data MVTecAD --data.root data/mvtec_ad --data.category bottle",
    ),
    "train": Verb(
        "(--config FILE | --model NAME --data NAME) [options]",
        "Fit, test what was fitted, and print the report. It takes the options of fit.",
        _FIT,
        "anomaly-suite train --config one_class/padim_mvtec.yaml --data.category bottle",
    ),
    "validate": Verb(
        "--run RUN [options]",
        "Run the validation set through a checkpoint.",
        {**_TEST, "other": UNTRAINED + ANY},
        "anomaly-suite validate --run runs/quickstart",
    ),
    "test": Verb(
        "--run RUN [options]",
        "Metrics, heatmaps, plots and score table on the test set.",
        {**_TEST, "large images": TILES, "other": UNTRAINED + ANY},
        "anomaly-suite test --run runs/quickstart",
    ),
    "predict": Verb(
        "--run RUN [PICTURE | FOLDER | PATTERN | VIDEO | LIST ...] [options]",
        "Scores, decisions and heatmaps of new pictures; of the run's test set where none is named. A run on snippet features of videos "
        "takes video files and folders of frames.",
        {
            "new pictures": (
                ("--run RUN", "configuration and checkpoint of an earlier fit"),
                ("--output DIR", "folder for the results; RUN/predictions/NAME by default"),
                ("--on_error skip", "leave out what cannot be read; raise stops at it"),
                ("--ckpt_path FILE", "another checkpoint of the run"),
                ("--data.eval_batch_size N", "pictures scored at once"),
            ),
            "videos of weakly supervised methods": (
                ("--features.network NAME", "network of the snippet features, where the run's own settings are not recorded (extract-features --help)"),
                ("--features.weights FILE", "its weights, where the file of the run's extraction is not found"),
            ),
            "large pictures": TILES,
            "machine": MACHINE[:1],
            "results": RESULTS,
            "other": UNTRAINED + ANY,
        },
        'anomaly-suite predict --run runs/quickstart "new/**/*.png" --on_error skip',
    ),
    "calibrate": Verb(
        "--run RUN [options]",
        "Refit the thresholds of a checkpoint by another rule, from a pass over validation data, without training.",
        {"run": OF_RUN, "thresholds": RULE, "data": METHOD[-3:], "machine": MACHINE[:1], "other": ANY},
        "anomaly-suite calibrate --run runs/quickstart --calibrate.rule quantile --calibrate.quantile 0.95",
    ),
}  # fmt: skip
FUNCTIONS = {
    "export": ("anomaly_suite.cli.verbs.export.export_run", "--run RUN [options]", ()),
    "extract-features": ("anomaly_suite.features.extract.extract", "INPUT OUTPUT [options]", ("input", "output")),
}
"""Verbs whose options are those of a function: its name, the usage, and which options stand without their names."""
ALL = "all"
ASKS = ("-h", "--help")
QUOTES = "'"


def help_for(verb: str, words: list[str]) -> str | None:
    """What a command line asks to be told; None where it asks nothing, or for every option, which the parser knows.

    Args:
        verb: Of the command line.
        words: After the verb.

    Raises:
        ConfigError: ``--help`` with a word that is neither ``all`` nor a public class.
    """
    for option, value in options_of(words):
        if option in ("--model.help", "--data.help") and (known := _known(value)):
            return class_help(known, option.removesuffix(".help"))
        if option in ASKS and value and not value.startswith("-"):
            if value == ALL:
                return None
            if (known := _known(value)) is None:
                names = [ALL, *(entry.name for kind in _KINDS for entry in catalog(kind))]
                raise ConfigError(
                    f"--help takes nothing, {ALL}, or a method or data set; got {value!r}.{did_you_mean(value, names)}"
                )
            return class_help(known, "--model" if ".methods." in known.path else "--data")
    if not set(ASKS) & {word.partition("=")[0] for word in words}:
        return None
    return function_help(verb) if verb in FUNCTIONS else verb_help(verb, words)


def without_all(words: list[str]) -> list[str]:
    """A command line that asks for every option, as the parser of the verb takes it: with ``--help`` alone.

    Example:
        >>> without_all(["--model", "PaDiM", "--help", "all"])
        ['--help']
    """
    return ["--help"] if any(option in ASKS and value == ALL for option, value in options_of(words)) else words


def verb_help(verb: str, words: list[str]) -> str:
    """The usual options of a verb, after those of the method and data set that the words name.

    Args:
        verb: One of :data:`VERBS`.
        words: Of the command line.
    """
    known = VERBS[verb]
    lines = [f"usage: anomaly-suite {verb} {known.usage}", "", *_wrapped(known.summary)]
    for option, entry in _chosen(words):
        lines += ["", f"options of {entry.name}:", *_class_rows(entry, option)]
    for title, rows in known.groups.items():
        lines += ["", f"{title}:", *_rows(rows)]
    lines += ["", "more:"]
    lines += _rows(
        [
            (f"{verb} --model.help PaDiM", "options of a method"),
            (f"{verb} --data.help MVTecAD", "options of a data set"),
            (f"{verb} --help {ALL}", "every option, of the trainer and all callbacks, too"),
        ]
    )
    return "\n".join([*lines, "", "example:", f"  {known.example}", ""])


def class_help(entry: Entry, option: str) -> str:
    """What a class of this package is, and its options.

    Args:
        entry: The class.
        option: What stands before its options, ``--model`` or ``--data``.
    """
    lines = [f"usage: anomaly-suite fit {option} {entry.name} [{option}.OPTION VALUE ...]", ""]
    lines += _wrapped(signature(entry.path).summary)
    return "\n".join([*lines, "", "options:", *_class_rows(entry, option), ""])


def function_help(verb: str) -> str:
    """Options of a verb that is one function.

    Args:
        verb: One of :data:`FUNCTIONS`.
    """
    path, usage, plain = FUNCTIONS[verb]
    said = signature(path)
    rows = [
        _row(option, option.name.upper() if option.name in plain else f"--{option.name}") for option in said.options
    ]
    return "\n".join(
        [f"usage: anomaly-suite {verb} {usage}", "", *_wrapped(said.summary), "", "options:", *_rows(rows), ""]
    )


_KINDS: tuple[Kind, ...] = ("methods", "data")


def _known(name: str) -> Entry | None:
    """The public method or data set of a name, short or dotted."""
    short = name.rpartition(".")[2] if name.startswith("anomaly_suite.") else name
    return next((entry for kind in _KINDS for entry in catalog(kind) if entry.name == short), None)


def _chosen(words: list[str]) -> Iterator[tuple[str, Entry]]:
    """The method and the data set that a command line names, in its options or its configurations."""
    names: dict[str, str] = {}
    for option, value in options_of(words):
        part = option.removesuffix(".class_path")
        if option == "--config" and value:
            names |= _classes(value)
        elif part in ("--model", "--data"):
            check_class_name(value, "methods" if part == "--model" else "data")
            names[part] = value
    for part in ("--model", "--data"):
        if entry := _known(names.get(part, "")):
            yield part, entry


def _classes(config: str) -> dict[str, str]:
    try:
        content = read_stack(Path(find_config(config)))
        return {f"--{part}": str(content[part]["class_path"]) for part in ("model", "data") if part in content}
    except (OSError, yaml.YAMLError, TypeError, KeyError, UnicodeDecodeError):
        return {}  # help is not the place to say what is wrong with it


def _class_rows(entry: Entry, before: str) -> Iterator[str]:
    return _rows(_row(option, f"{before}.{option.name}") for option in signature(entry.path).options)


def _row(option: Option, name: str) -> tuple[str, str]:
    default = None if option.default is None else f"default {option.default.strip(QUOTES) or QUOTES * 2}"
    what = "; ".join(filter(None, [option.kind, default]))
    return name, f"{option.text} ({what})"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _width())


def _rows(rows: Iterable[tuple[str, str]], column: int = 34) -> Iterator[str]:
    """Rows of two columns; a long name has a line of its own."""
    for name, text in rows:
        lines = textwrap.wrap(text, max(30, _width() - column)) or [""]
        first = f"  {name}".ljust(column)
        yield first + lines.pop(0) if len(first) <= column else first
        yield from (" " * column + line for line in lines)


def _width() -> int:
    return min(shutil.get_terminal_size((120, 24)).columns, 130)
