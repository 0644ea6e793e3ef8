"""LightningCLI with the package's classes, its default callback layer and a saved configuration that says what was in effect."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser

import anomaly_suite.adapters
import anomaly_suite.data
import anomaly_suite.methods  # noqa: F401 - the parser then knows the classes of all by their short names
from anomaly_suite.callbacks import (
    AnomalyMetrics,
    Calibrate,
    ComponentMetrics,
    FrameMetrics,
    HeatmapExport,
    LocalisationMetrics,
    ScoreCurves,
    ScorePlots,
    ScoreTable,
    SegmentationMetrics,
    SplitTable,
    TiledPrediction,
)
from anomaly_suite.callbacks.tiles import keep_size
from anomaly_suite.cli.catalog import options_of
from anomaly_suite.cli.parser_errors import SuiteParser, is_of_libraries, own_error, reason_of, whole_sentence
from anomaly_suite.cli.placed import PlacedCLI
from anomaly_suite.cli.plugins import load_plugins
from anomaly_suite.cli.run_config import RunConfig
from anomaly_suite.cli.samples import check_config
from anomaly_suite.cli.trainer_options import check_trainer, require_end, require_mapping
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.contract.checkpoint_file import read_checkpoint, use_checkpoint_files
from anomaly_suite.errors import CheckpointError, ConfigError, did_you_mean
from anomaly_suite.tensor_files import numpy_numbers

Started = TypeVar("Started", bound="SuiteCLI")

LAYER = {
    "calibrate": Calibrate,
    "metrics": AnomalyMetrics,
    "segmentation": SegmentationMetrics,
    "components": ComponentMetrics,
    "frames": FrameMetrics,
    "localisation": LocalisationMetrics,
    "heatmaps": HeatmapExport,
    "plots": ScorePlots,
    "curves": ScoreCurves,
    "table": ScoreTable,
    "splits": SplitTable,
}


def run_lightning(subcommand: str, words: list[str]) -> SuiteCLI:
    """Parse the words, build model, data and trainer, and run one of Lightning's subcommands.

    Args:
        subcommand: fit, validate, test or predict.
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, classes or devices, in one sentence.
        CheckpointError: there is no such checkpoint.
    """
    with telling(subcommand):
        done = start(SuiteCLI, subcommand, words)
        _require_validation(done)
        if subcommand != "validate":
            done.say_where()
        return done


def start(kind: type[Started], subcommand: str, words: list[str]) -> Started:
    """Parse the words, and do what such a command line does with them.

    Args:
        kind: Of command line.
        subcommand: fit, validate, test or predict.
        words: The rest of the command line.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_tip)
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="lightning")  # Lightning's own business
    warnings.filterwarnings(
        "ignore", message="The dirpath has changed"
    )  # results of a prediction have their own folder
    warnings.filterwarnings("ignore", message="Experiment logs directory")  # what else a run's folder holds stays
    if sys.path[:1] != [os.getcwd()]:  # once for all cells of a grid
        sys.path.insert(0, os.getcwd())  # an installed script does not see the user's own files otherwise
    load_plugins(words)
    return kind(
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=RunConfig if subcommand == "fit" else None,
        save_config_kwargs={"save_to_log_dir": False},  # RunConfig writes it itself
        seed_everything_default=0,
        trainer_defaults={"enable_model_summary": False},
        parser_class=SuiteParser,
        args=[subcommand, *words],
    )


def is_no_tip(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning is about the run, and not about other products."""
    return "Tip:" not in str(record.msg)


@contextmanager
def telling(subcommand: str) -> Iterator[None]:
    """Errors of the user's options in one sentence.

    Args:
        subcommand: Which to name.

    Raises:
        ConfigError: wrong options, classes or devices.
        CheckpointError: there is no such checkpoint.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not str(error).startswith("Checkpoint file not found"):
            raise
        raise CheckpointError(f"{error}. Give a file that exists with --ckpt_path.") from error
    except Exception as error:
        own = own_error(error)
        if own is error or (own is None and not is_of_libraries(error)):
            raise
        reason = reason_of(error)
        said = whole_sentence(reason) or f"{subcommand}: {reason} Change the option that it names."
        raise own or ConfigError(said) from error


def _require_validation(done: SuiteCLI) -> None:
    """Refuse a validation of nothing.

    Raises:
        ConfigError: the data module has no validation data.
    """
    if done.subcommand == "validate" and not sum(done.trainer.num_val_batches):
        how = getattr(done.datamodule, "validation", "unknown")
        raise ConfigError(
            f"validate and calibrate need validation data; {type(done.datamodule).__name__} with validation: {how} gave none. Choose "
            "another --data.validation, and leave --trainer.limit_val_batches above 0."
        )


class SuiteCLI(PlacedCLI):
    """LightningCLI with the default callback layer, its switches and effective values in the saved configuration."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words given; LightningCLI would warn that they are also in ``sys.argv``."""
        self.words = list(args)
        known = {action.dest.partition(".")[0] for action in self._parser(self.words[0])._actions}
        for option, value in options_of(self.words):
            if option == "--config":
                check_config(Path(value), known - {"help", "print_config", "config"})
        self.config = parser.parse_args(self.words)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callback layer and the checkpoint that ``--run`` finds again."""
        for name, callback in LAYER.items():
            parser.add_lightning_class_args(callback, name)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.filename": "model", "checkpoint.enable_version_counter": False})
        parser.add_argument(
            "--disable", type=list[str] | str, default=[], help=f"Callbacks to leave out: {', '.join(LAYER)}."
        )

    def before_instantiate_classes(self) -> None:
        """Apply ``disable``, keep the end of every run, and make ``max_epochs`` say what will happen.

        Raises:
            ConfigError: ``disable`` names what is no default callback.
            RuntimeError: the command line has no subcommand, which ``main`` rules out.
        """
        if self.subcommand is None:
            raise RuntimeError("SuiteCLI needs a subcommand of Lightning; got none. Start it with run_lightning.")
        config, parser = self.config[self.subcommand], self._parser(self.subcommand)
        for name in (*LAYER, "checkpoint"):
            require_mapping(name, config[name])
        if isinstance(config.disable, str):  # one name, or several with commas
            config.disable = [name.strip() for name in config.disable.strip("[]").split(",") if name.strip()]
        for name in config.disable:
            if name not in LAYER:
                raise ConfigError(f"disable knows {', '.join(LAYER)}; got {name!r}.{did_you_mean(name, LAYER)}")
        parser.callback_keys = [key for key in parser.callback_keys if key not in config.disable]
        if config.checkpoint.monitor is None and config.checkpoint.save_on_train_epoch_end is None:
            # By default Lightning saves after a validation where there is not one in every epoch; a run that ends between two
            # would lose its last epochs.
            config.checkpoint.save_on_train_epoch_end = True
        check_trainer(config.trainer)
        if self.subcommand == "fit":
            require_end(config.trainer, single_pass=is_single_pass(config.model.class_path))
        if config.ckpt_path == "best" or (self.subcommand != "fit" and config.ckpt_path in ("last", "hpc")):
            raise ConfigError(
                f"ckpt_path must be the file of a checkpoint; got {config.ckpt_path!r}, which only the process of the fit knows. Give "
                "--run RUN, or a file of its folder checkpoints."
            )
        if self.subcommand != "fit" and config.ckpt_path is None:
            self._require_weights(self.subcommand, config)
        if self.subcommand == "fit" and is_single_pass(config.model.class_path) and config.trainer.max_epochs != 1:
            if config.trainer.max_epochs is not None:
                print(
                    f"{config.model.class_path} is fitted in one pass: max_epochs is 1, not {config.trainer.max_epochs}."
                )
            config.trainer.max_epochs = 1

    def _require_weights(self, verb: str, config: Any) -> None:
        """Refuse to score an untrained network, unless that is asked for."""
        known = getattr(class_of(config.model.class_path), "whole_weights", ())
        options = config.model.get("init_args") or {}
        if any(options.get(name) is not None for name in known):
            return
        if not config.untrained:
            also = f", or --model.{known[0]} FILE" if known else ""
            raise ConfigError(
                f"{verb} needs a trained model; got neither a run nor a checkpoint{' nor weights of the whole network' if known else ''}. "
                f"Give --run RUN or --ckpt_path FILE{also}; --untrained true scores the network as a fit would begin with it."
            )
        print(f"{verb} --untrained: the scores are those of an untrained network.", file=sys.stderr)

    def _set_seed(self) -> None:
        """Seed the run.

        Raises:
            ConfigError: a seed that NumPy cannot take.
        """
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            raise ConfigError(f"seed_everything must be between 0 and {2**32 - 1}; got {seed}. Give another seed.")
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; an untrained model gets the pretrained weights that a fit would begin with.

        Raises:
            FileWriteError: the verb writes files, and its folder cannot be written to.
        """
        super().instantiate_classes()
        use_checkpoint_files(self.trainer)
        tile = self.config[self.subcommand].get("tile") if self.subcommand else None
        if tile is not None and tile.size is not None:
            self._cut_into_tiles(tile.size, tile.overlap)
        if (
            self.subcommand != "fit"
            and self.config[self.subcommand].get("untrained")
            and self._get(self.config, "ckpt_path") is None
            and isinstance(self.model, AnomalyModule)  # a LightningModule of one's own is as its constructor leaves it
        ):
            self.model.load_pretrained()

    def _cut_into_tiles(self, size: int | tuple[int, int], overlap: float) -> None:
        """Let images keep their size, one a batch, and the stage cut them into tiles."""
        self.trainer.callbacks.append(TiledPrediction(size=size, overlap=overlap))  # type: ignore[attr-defined]
        keep_size(self.datamodule)

    def _parse_ckpt_path(self) -> None:
        """Take the options of the checkpoint.

        Raises:
            CheckpointError: it cannot be read.
            ConfigError: the command line gives weights of pre-training that the checkpoint was not made with.
        """
        if not self.config.get("subcommand"):
            return
        config = self.config[self.config.subcommand]
        path, given = config.get("ckpt_path"), weights_of(config)
        try:
            with numpy_numbers():
                super()._parse_ckpt_path()
        except Exception:  # whatever a damaged file leads to
            if path and Path(path).is_file():
                read_checkpoint(path)
            raise
        if path and Path(path).is_file():
            self._require_read(path)
        used = weights_of(self.config[self.config.subcommand])
        for name, value in given.items():
            if self.config.subcommand != "fit" and value not in (None, "imagenet", used.get(name)):
                raise ConfigError(
                    f"the checkpoint '{path}' holds its own weights, so --model.{name} {value} would not be read. Leave one of the two out."
                )

    def _require_read(self, path: Any) -> None:
        """Refuse words of the command line that the options of the checkpoint have replaced.

        Raises:
            ConfigError: another class, or an option with another value.
        """
        model = self.config[self.config.subcommand].model
        made = vars(model.get("init_args") or Namespace())
        short = str(model.class_path).rpartition(".")[2]
        for option, value in options_of(self.words):
            name = option.removeprefix("--model.").removeprefix("init_args.")
            known = f"the checkpoint '{path}' holds a {short}"
            if option in ("--model", "--model.class_path"):
                if value.rpartition(".")[2] != short and not value.endswith((".yaml", ".yml")):
                    raise ConfigError(
                        f"{known}, so {option} {value} would not be read. Leave it out, or give another checkpoint."
                    )
            elif (
                option.startswith("--model.")
                and name in made
                and not (name.endswith("weights") or same_value(value, made[name]))
            ):
                raise ConfigError(
                    f"{known} with {name}={made[name]!r}, so {option} {value} would not be read. Leave it out, or fit with it."
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer.

        Raises:
            ConfigError: devices that are not there, or options that do not fit, in one sentence.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except Exception as error:  # whatever its options lead to
            given = self.config[self.subcommand].trainer if self.subcommand else {}
            got = "; ".join(
                f"trainer.{name}: {given.get(name)}" for name in ("accelerator", "devices", "strategy", "precision")
            )
            advice = f"Got {got}. Change the option that it names, trainer.accelerator or trainer.devices."
            raise own_error(error) or ConfigError(f"trainer: {reason_of(error)} {advice}") from error

    def _prepare_subcommand_parser(self, klass: Any, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        SuiteParser.known |= {action.dest for action in parser._actions}
        parser.set_defaults({"weights_only": True})  # never unpickle a stranger's checkpoint
        if subcommand != "fit":
            text = "Score a model without a checkpoint or weights, as a fit would begin with it."
            parser.add_argument("--untrained", type=bool, default=False, help=text)
        if subcommand in ("test", "predict"):
            text = "Score images in their own size, in tiles of so many pixels (height and width): those of the images that were trained on."
            parser.add_argument("--tile.size", type=int | tuple[int, int] | None, default=None, help=text)
            parser.add_argument(
                "--tile.overlap", type=float, default=0.25, help="Share of a tile that the next one covers again."
            )
        if subcommand == "predict":  # results go to files; keeping every map would fill the memory
            parser.set_defaults({"return_predictions": False})
        return parser


def same_value(word: str, value: Any) -> bool:
    """Whether a word of the command line means a value, which may be text or anything that YAML has."""
    try:
        meant = yaml.safe_load(word)
    except yaml.YAMLError:
        meant = word
    listed = list(value) if isinstance(value, tuple) else value
    return str(value) == word or bool(meant == listed)


def class_of(class_path: str) -> Any:
    """The class of a dotted name, which can be imported."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def weights_of(config: Any) -> dict[str, Any]:
    """The options of a configured model that name weights, such as ``segmenter_weights``.

    Args:
        config: Configuration of one verb.
    """
    options = (config.get("model") or {}).get("init_args") or {}
    return {name: value for name, value in vars(options).items() if name.endswith("weights")} if options else {}


def is_single_pass(class_path: str) -> bool:
    """Whether a class is a method that is fitted in one pass over the training set.

    Args:
        class_path: Dotted name of the class, which can be imported.
    """
    found = class_of(class_path)
    return isinstance(found, type) and issubclass(found, AnomalyModule) and found.single_pass
