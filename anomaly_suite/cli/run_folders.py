"""Which folder a run gets, and what its loggers are told of it.

A fit without ``trainer.default_root_dir`` gets ``runs/<Method>/<Data>/<category or class>/<number>``. With one it lies there if it has no
logger, else in ``lightning_logs/version_<number>`` there, whatever the logger. Where a TensorBoardLogger or CSVLogger has a ``save_dir`` of its own,
the run is in the folder that it makes there. Results of other verbs go straight into ``default_root_dir``, which ``--run`` makes that of the run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from anomaly_suite.callbacks.run_folder import RunFolder
from anomaly_suite.contract.checkpoint_file import is_local
from anomaly_suite.io.atomic import try_folder
from anomaly_suite.io.runs import CONFIG, data_name, new_folder, read_record, remove_if_empty

ROOT = "runs"
VERSIONS = "lightning_logs"
WHOLE = "all"  # in place of a category or class, where a data set has none
IN_FOLDERS = ("TensorBoardLogger", "CSVLogger")  # loggers that make a folder for each run


PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


class Place(NamedTuple):
    """Where a verb writes."""

    run: Path
    results: Path
    """Tables and pictures of a test or prediction; ``run`` but for another data set than that of the run."""
    data_set: str
    """What the data set is called."""
    is_new: bool
    """Whether the folder was made for this command."""
    is_linked: bool
    """Whether ``latest`` beside it leads to the newest."""

    def callback(self) -> RunFolder:
        """What tells the trainer."""
        return RunFolder(folder=str(self.run), results=str(self.results), data_set=self.data_set, linked=self.is_linked)

    def release(self) -> None:
        """Remove what was made for a command that did not begin."""
        if self.is_new:
            remove_if_empty(self.run, above=Path())


def parent_of(config: Any) -> Path:
    """The folder of all runs of a method on a data set.

    Args:
        config: Configuration of one verb.
    """
    given = config.trainer.default_root_dir
    method = str(config.model.class_path).rpartition(".")[2]
    data = data_set_in(config)
    return Path(ROOT, method, data if "/" in data else f"{data}/{WHOLE}") if given is None else Path(given)


def data_set_in(config: Any) -> str:
    """What the data set of a configuration is called.

    Args:
        config: Configuration of one verb.
    """
    data = config.get("data")
    if data is None:
        return "unknown"
    return data_name(str(data.class_path).rpartition(".")[2], vars(data.get("init_args") or Namespace()))


def choose_place(verb: str, config: Any) -> Place | None:
    """Choose the folder of a command, make it if it is a new one, and let the loggers of the configuration write there.

    Args:
        verb: Of Lightning.
        config: Of the verb; its loggers are changed.

    Returns:
        None where nothing is written: a fit of a few batches (``fast_dev_run``), a remote folder.

    Raises:
        FileWriteError: the folder cannot be written to.
    """
    trainer = config.trainer
    root = trainer.default_root_dir
    if trainer.fast_dev_run or (root is not None and not is_local(root)):
        trainer.default_root_dir = root or ROOT
        return None
    loggers = [each for each in listed(trainer.logger) if isinstance(each, Namespace)]
    name = data_set_in(config)
    if verb != "fit" and root is not None:
        place = (
            _of_run(Path(root), name, config)
            if (Path(root) / CONFIG).is_file()
            else Place(Path(root), Path(root), name, False, False)
        )
    elif verb == "validate" and trainer.logger is False:
        return None
    else:
        place = _new(config, loggers, name)
    trainer.logger = _told(trainer.logger, place, goes_on=verb != "fit")
    return place


def _new(config: Any, loggers: list[Namespace], name: str) -> Place:
    """The folder of a new run."""
    trainer = config.trainer
    root, own = trainer.default_root_dir, next((each for each in loggers if _kind(each) in IN_FOLDERS), None)
    if own is not None:
        options = own.init_args
        parent = Path(str(options.save_dir), str(options.get("name") or ""))
        if options.get("version") is not None:
            version = options.version
            folder = parent / (version if isinstance(version, str) else f"version_{version}")
            return Place(folder, folder, name, False, False)
        folder = _numbered(parent, prefix="version_", first=0)
        for each in loggers:  # those of one place share a folder
            same = [each.init_args.get(key) == options.get(key) for key in ("save_dir", "name")]
            if _kind(each) in IN_FOLDERS and all(same) and each.init_args.get("version") is None:
                each.init_args.version = folder.name
        return Place(folder, folder, name, True, False)
    if root is not None and trainer.logger is False:
        return Place(Path(root), Path(root), name, False, False)
    if root is not None:
        try_folder(Path(root))
        folder = _numbered(Path(root) / VERSIONS, prefix="version_", first=0)
        return Place(folder, folder, name, True, False)
    folder = _numbered(parent_of(config), prefix="", first=1)
    return Place(folder, folder, name, True, True)


def _numbered(parent: Path, *, prefix: str, first: int) -> Path:
    """A new folder in the first process; others are told of it in the setup of :class:`RunFolder`."""
    if getattr(rank_zero_only, "rank", 0) != 0:
        return parent
    try_folder(parent)
    return new_folder(parent, prefix=prefix, first=first)


def _of_run(run: Path, name: str, config: Any) -> Place:
    """Results of a run: in its folder, or below ``data_sets`` there for another data set."""
    own = read_record(run).get("data")
    options = _data_of(run)
    if own is None and options is not None:
        own = data_name(*options)
    if own is None or own == name:
        given = (config.get("data") or Namespace()).get("init_args") or Namespace()
        if own is None or "Folder" not in name or options is None or _root(options[1]) == _root(vars(given)):
            return Place(run, run, name, False, False)
        name = f"{name}_in_{_root(vars(given)).parent.name}"  # another folder of one's own, of the same name
    return Place(run, run / "data_sets" / name, name, False, False)


def _root(options: dict[str, Any]) -> Path:
    return Path(options.get("root") or options.get("index") or "").absolute()


def _data_of(run: Path) -> tuple[str, dict[str, Any]] | None:
    """Class and options of the data module in the configuration of a run; None where it cannot be read."""
    try:
        data = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["data"]
        return str(data["class_path"]).rpartition(".")[2], dict(data.get("init_args") or {})
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def listed(logger: Any) -> list[Any]:
    """Loggers as a list, however they are configured."""
    return list(logger) if isinstance(logger, list | tuple) else [logger]


def _kind(logger: Namespace) -> str:
    return str(logger.get("class_path")).rpartition(".")[2]


def _told(logger: Any, place: Place, *, goes_on: bool) -> Any:
    """The loggers, told where the run is; those of a run that is tested write to what they had begun."""
    if logger is False:
        return False
    if goes_on and not place.is_new and logger in (None, True):
        of_run = (place.run / CONFIG).is_file()
        if (logger is None and not of_run) or not _has_tensorboard():  # a CSV file would replace that of the fit
            return False
    told = list(_each_told(listed(logger), place, goes_on=goes_on))
    return told or False if isinstance(logger, list | tuple) else (told[0] if told else False)


def _each_told(loggers: list[Any], place: Place, *, goes_on: bool) -> Iterator[Any]:
    names = read_record(place.run).get("loggers") or {} if goes_on else {}
    for logger in loggers:
        if not isinstance(logger, Namespace):
            yield logger
            continue
        kind, options = _kind(logger), logger.get("init_args") or Namespace()
        known = names.get(kind) or {}
        if goes_on and kind in PACKAGES and importlib.util.find_spec(PACKAGES[kind]) is None:
            rank_zero_info(
                f"{kind} of this run gets nothing: {PACKAGES[kind]} is not installed. Install it, or give --trainer.logger false."
            )
            continue
        if kind in IN_FOLDERS and goes_on and not place.is_new:
            if not place.run.absolute().is_relative_to(Path(str(options.save_dir)).absolute()):
                yield logger  # one for this command alone
                continue
            if kind == "CSVLogger":
                continue  # its file would replace that of the fit
            options.save_dir, options.name, options.version = str(place.run.parent), "", place.run.name
        elif kind == "WandbLogger":
            if options.get("save_dir") in (None, ".") and options.get("dir") is None:
                options.save_dir = str(place.run)
            if options.get("version") is None and options.get("id") is None and "version" in known:
                options.version = known["version"]
        elif kind == "MLFlowLogger":
            if options.get("run_id") is None and "version" in known:
                options.run_id, options.tracking_uri = known["version"], known.get("store", options.get("tracking_uri"))
            if str(options.get("tracking_uri") or "file:").startswith("file:"):
                # Newer ones refuse their own default, a folder, unless that is asked for.
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        yield logger


def default_logger(place: Place) -> Logger:
    """The logger of a run that names none: TensorBoard's where it is installed, else a CSV file, in the run's folder."""
    kind = TensorBoardLogger if _has_tensorboard() else CSVLogger
    return kind(save_dir=place.run.parent, name="", version=place.run.name)


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) is not None for name in ("tensorboard", "tensorboardX"))
