"""LightningCLI with the package's classes and default callbacks; the slow half of the command line."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import anomaly_suite.data
import anomaly_suite.methods
from anomaly_suite.callbacks import (
    AnomalyMetrics,
    Calibrate,
    ComponentMetrics,
    HeatmapExport,
    ScoreCurves,
    ScorePlots,
    ScoreTable,
    SegmentationMetrics,
)
from anomaly_suite.callbacks.files import replacing
from anomaly_suite.cli import check_class_name
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule
from anomaly_suite.errors import AnomalySuiteError, CheckpointError, ConfigError, did_you_mean
from anomaly_suite.extraction import extract
from anomaly_suite.run_folders import find_checkpoint, find_run

LAYER = {
    "calibrate": Calibrate,
    "metrics": AnomalyMetrics,
    "segmentation": SegmentationMetrics,
    "components": ComponentMetrics,
    "heatmaps": HeatmapExport,
    "plots": ScorePlots,
    "curves": ScoreCurves,
    "table": ScoreTable,
}


def run(verb: str, words: list[str]) -> None:
    """Run one verb that needs a trainer.

    Args:
        verb: fit, validate, test, predict or calibrate.
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, classes or devices, in one sentence.
    """
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="lightning")  # Lightning's own business
    sys.path.insert(0, os.getcwd())  # an installed script does not see the user's own files otherwise
    words = _expand_run(words) if verb != "fit" else words
    try:
        cli = SuiteCLI(
            model_class=AnomalyModule,
            datamodule_class=AnomalyDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfig if verb == "fit" else None,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"default_root_dir": "runs"},
            parser_class=SuiteParser,
            args=["validate" if verb == "calibrate" else verb, *words],
        )
    except MisconfigurationException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except ValueError as error:
        raise _own_error(error) or error from None
    except FileNotFoundError as error:
        if not str(error).startswith("Checkpoint file not found"):
            raise
        raise CheckpointError(f"{error}. Give a file that exists with --ckpt_path.") from error
    if verb == "calibrate":
        _save_calibration(cli)


def extract_features(words: list[str]) -> None:
    """Run the verb ``extract-features``.

    Args:
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, in one sentence.
        DatasetError: some videos cannot be read. All others are written.
    """
    parser = SuiteParser(prog="anomaly-suite extract-features", description="Extract snippet features of videos.")
    parser.add_function_arguments(extract, as_group=False, as_positional=True)
    SuiteParser.known |= {action.dest for action in parser._actions}
    options = parser.parse_args(words)
    done = extract(**vars(options))
    frames, snippets = (sum(column) for column in zip((0, 0), *done.written.values(), strict=True))
    print(
        f"{len(done.written)} videos written to {options.output} ({frames} frames, {snippets} snippets), "
        f"{len(done.skipped)} were there."
    )


def _expand_run(words: list[str]) -> list[str]:
    """Replace ``--run DIR`` by the run's configuration, its checkpoint and its folder for the results."""
    for position, word in enumerate(words):  # noqa: B007 - both are read after the loop
        option, equals, value = word.partition("=")
        if option == "--run":
            break
    else:
        return words
    if not equals:
        if position + 1 == len(words):
            raise ConfigError("--run needs the folder of an earlier fit.")
        value = words[position + 1]
    folder = find_run(value)
    rest = words[:position] + words[position + (1 if equals else 2) :]
    expanded = ["--config", str(folder / "config.yaml"), "--trainer.default_root_dir", str(folder)]
    expanded += ["--trainer.logger", "false"]
    if not any(item.split("=")[0] == "--ckpt_path" for item in rest):
        expanded += ["--ckpt_path", str(find_checkpoint(folder))]
    return expanded + rest


class SuiteParser(LightningArgumentParser):
    """The parser of LightningCLI, with errors that name the nearest option or class."""

    known: ClassVar[set[str]] = set()  # every option, for the nearest name

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise one sentence instead of printing the usage of several hundred options."""
        raise (_own_error(ex) if ex else None) or ConfigError(explain(message, self)) from ex


def explain(message: str, parser: SuiteParser) -> str:
    """Shorten a parser's message to what is wrong, and add the nearest name where a class or an option is unknown.

    Args:
        message: What jsonargparse says, several lines long for a wrong model or data option.
        parser: The parser that says it; its options are the known ones.

    Raises:
        ConfigError: at once, for an unknown class.
    """
    text = " ".join(message.split())
    inner = re.search(
        r'key "([\w.]+)": .*? Errors: - (.*?) - Expected a <class \'NoneType\'>.*? Given value: (.*)', text
    )
    part, reason, given = inner.groups() if inner else ("", text, "")
    wrong_class = re.search(r"Expected a dot import path string: (\w+)", reason)
    if wrong_class and part in ("model", "data"):
        check_class_name(wrong_class[1], "methods" if part == "model" else "data")
    if wrong := re.search(r"(?:Option|option|arguments:) '?-*([\w.]+)", reason):
        known = {option for option in parser.known if option.count(".") == wrong[1].count(".")}
        return f"no option {wrong[1]!r}.{did_you_mean(wrong[1], known | {option.split('.')[0] for option in known})}"
    got = f"; got {given}" if given and given not in reason and part not in ("model", "data") else ""
    return re.sub(r'Parser key "([\w.]+)":', r"\1:", f"{part}: {reason}{got}" if part else reason)


def _option_names(package: ModuleType) -> set[str]:
    """Options of all public classes of a package."""
    classes = {base for name in package.__all__ for base in getattr(package, name).__mro__}
    return {name for cls in classes for name in inspect.signature(cls.__init__).parameters} - {"self", "args", "kwargs"}


def _own_error(error: BaseException) -> AnomalySuiteError | None:
    """The error of this package behind a parser's error, if there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AnomalySuiteError):
        cause = cause.__cause__
    return cause


class SuiteCLI(LightningCLI):
    """LightningCLI with the default callback layer, its switches and effective values in the saved configuration."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words given; LightningCLI would warn that they are also in ``sys.argv``."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callback layer and the checkpoint that ``--run`` finds again."""
        for name, callback in LAYER.items():
            parser.add_lightning_class_args(callback, name)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.filename": "model", "checkpoint.enable_version_counter": False})
        parser.add_argument(
            "--disable", type=list[str], default=[], help=f"Callbacks to leave out: {', '.join(LAYER)}."
        )

    def before_instantiate_classes(self) -> None:
        """Apply ``disable``, keep the end of every run, and make ``max_epochs`` say what will happen."""
        assert self.subcommand is not None
        config, parser = self.config[self.subcommand], self._parser(self.subcommand)
        for name in config.disable:
            if name not in LAYER:
                raise ConfigError(f"disable knows {', '.join(LAYER)}; got {name!r}.{did_you_mean(name, LAYER)}")
        parser.callback_keys = [key for key in parser.callback_keys if key not in config.disable]
        if config.checkpoint.monitor is None and config.checkpoint.save_on_train_epoch_end is None:
            # By default Lightning saves after a validation where there is not one in every epoch; a run that ends between two
            # would lose its last epochs.
            config.checkpoint.save_on_train_epoch_end = True
        if self.subcommand != "fit" and config.ckpt_path is None:
            print(f"{self.subcommand} without --run or --ckpt_path: the model is untrained.", file=sys.stderr)
        if self.subcommand == "fit" and _is_single_pass(config.model.class_path) and config.trainer.max_epochs != 1:
            if config.trainer.max_epochs is not None:
                print(
                    f"{config.model.class_path} is fitted in one pass: max_epochs is 1, not {config.trainer.max_epochs}."
                )
            config.trainer.max_epochs = 1

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; devices that are not there end in one sentence."""
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, MisconfigurationException) as error:
            advice = "Change the option that it names, trainer.accelerator or trainer.devices."
            raise _own_error(error) or ConfigError(f"trainer: {' '.join(str(error).split())} {advice}") from error

    def _prepare_subcommand_parser(self, klass: Any, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        SuiteParser.known |= {action.dest for action in parser._actions}
        SuiteParser.known |= _option_names(anomaly_suite.methods) | _option_names(anomaly_suite.data)
        parser.set_defaults({"weights_only": True})  # never unpickle a stranger's checkpoint
        if subcommand == "predict":  # results go to files; keeping every map would fill the memory
            parser.set_defaults({"return_predictions": False})
        return parser


def _is_single_pass(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    return isinstance(found, type) and issubclass(found, AnomalyModule) and found.single_pass


class RunConfig(SaveConfigCallback):
    """Save ``config.yaml`` with the values in effect: devices, precision and epochs as resolved by the trainer."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace what was left to the trainer by what it chose, then save."""
        self.config = self.config.clone()
        settings = self.config.trainer
        settings.accelerator = trainer.accelerator.name()
        settings.devices = trainer.num_devices
        settings.max_epochs = trainer.max_epochs
        settings.precision = trainer.precision
        super().setup(trainer, pl_module, stage)


def _save_calibration(cli: LightningCLI) -> None:
    """Write a copy of the checkpoint with the new thresholds beside it."""
    if cli.config["validate"].ckpt_path is None:
        raise ConfigError("calibrate has no checkpoint to copy. Give --run RUN or --ckpt_path FILE.")
    source = Path(cli.config["validate"].ckpt_path)
    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    checkpoint["state_dict"]["calibration._extra_state"] = cli.model.calibration.get_extra_state()
    target = source.with_name(f"{source.stem}-calibrated.ckpt")
    with replacing(target) as file:
        torch.save(checkpoint, file)
    print(f"calibrated checkpoint: {target}")
