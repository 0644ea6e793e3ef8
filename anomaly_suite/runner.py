"""LightningCLI with the package's classes and default callbacks; the slow half of the command line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import anomaly_suite.data
import anomaly_suite.methods
from anomaly_suite.callbacks import AnomalyMetrics, Calibrate, HeatmapExport, ScorePlots, ScoreTable
from anomaly_suite.cli import check_class_name, find_run
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule
from anomaly_suite.errors import CheckpointError, ConfigError, did_you_mean

LAYER = {
    "calibrate": Calibrate,
    "metrics": AnomalyMetrics,
    "heatmaps": HeatmapExport,
    "plots": ScorePlots,
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
    if verb == "calibrate":
        _save_calibration(cli)


def _expand_run(words: list[str]) -> list[str]:
    """Replace ``--run DIR`` by the run's configuration, its checkpoint and its folder for the results."""
    for position, word in enumerate(words):
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


def find_checkpoint(folder: Path) -> Path:
    """``checkpoints/model.ckpt`` of a run folder, or its newest checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    chosen = folder / "checkpoints" / "model.ckpt"
    found = [chosen] if chosen.is_file() else sorted(folder.rglob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}. Was the fit stopped early? Give one with --ckpt_path.")
    return found[-1]


class SuiteParser(LightningArgumentParser):
    """The parser of LightningCLI, with errors that name the nearest option or class."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Raise ConfigError instead of printing the usage of several hundred options."""
        raise ConfigError(explain(message, self)) from ex


def explain(message: str, parser: LightningArgumentParser) -> str:
    """Shorten a parser's message and add the nearest name where an option or a class is unknown."""
    text = " ".join(message.split())
    wrong_class = re.search(r'class_path "?(\w+)"?', text) or re.search(r"Given value: '?(\w+)'?$", text)
    for kind, option in (("methods", "model"), ("data", "data")):
        if wrong_class and f'"{option}"' in text:
            with contextlib.suppress(KeyError):
                check_class_name(wrong_class.group(1), kind)  # type: ignore[arg-type]
    return text


class SuiteCLI(LightningCLI):
    """LightningCLI with the default callback layer, its switches and effective values in the saved configuration."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callback layer and the checkpoint that ``--run`` finds again."""
        for name, callback in LAYER.items():
            parser.add_lightning_class_args(callback, name)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.filename": "model", "checkpoint.enable_version_counter": False})
        parser.add_argument("--disable", type=list[str], default=[], help=f"Callbacks to leave out: {', '.join(LAYER)}.")

    def before_instantiate_classes(self) -> None:
        """Apply ``disable`` and make ``max_epochs`` say what will happen."""
        assert self.subcommand is not None
        config, parser = self.config[self.subcommand], self._parser(self.subcommand)
        for name in config.disable:
            if name not in LAYER:
                raise ConfigError(f"disable knows {', '.join(LAYER)}; got {name!r}.{did_you_mean(name, LAYER)}")
        parser.callback_keys = [key for key in parser.callback_keys if key not in config.disable]
        if self.subcommand == "fit" and _is_single_pass(config.model.class_path) and config.trainer.max_epochs != 1:
            if config.trainer.max_epochs is not None:
                print(f"{config.model.class_path} is fitted in one pass: max_epochs is 1, not {config.trainer.max_epochs}.")
            config.trainer.max_epochs = 1

    def _prepare_subcommand_parser(self, klass: Any, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # never unpickle a stranger's checkpoint
        if subcommand == "predict":  # results go to files; keeping every map would fill the memory
            parser.set_defaults({"return_predictions": False})
        return parser


def _is_single_pass(class_path: str) -> bool:
    from jsonargparse import import_object

    found = import_object(class_path)
    return isinstance(found, type) and issubclass(found, AnomalyModule) and found.single_pass


class RunConfig(SaveConfigCallback):
    """Save ``config.yaml`` with the values in effect: devices, precision and epochs as resolved by the trainer."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace what was left to the trainer by what it chose, then save."""
        self.config = Namespace(**vars(self.config)) if not isinstance(self.config, Namespace) else self.config.clone()
        settings = self.config.trainer
        settings.accelerator = trainer.accelerator.name() if hasattr(trainer.accelerator, "name") else settings.accelerator
        settings.devices = trainer.num_devices
        settings.max_epochs = trainer.max_epochs
        settings.precision = trainer.precision
        super().setup(trainer, pl_module, stage)


def _save_calibration(cli: LightningCLI) -> None:
    """Write a copy of the checkpoint with the new thresholds beside it."""
    source = Path(str(cli.config["validate"].ckpt_path))
    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    fitted = {f"calibration.{key}": value for key, value in cli.model.calibration.state_dict().items()}
    checkpoint["state_dict"].update({key: v.cpu() if isinstance(v, torch.Tensor) else v for key, v in fitted.items()})
    target = source.with_name(f"{source.stem}-calibrated.ckpt")
    with tempfile.NamedTemporaryFile(dir=source.parent, suffix=".tmp", delete=False) as file:
        torch.save(checkpoint, file)
    os.replace(file.name, target)
    print(f"calibrated checkpoint: {target}")
