"""PlacedCLI: a LightningCLI whose trainer and loggers are told the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger

from anomaly_suite.callbacks.run_folder import RunFolder
from anomaly_suite.cli.run_folders import Place, choose_place, default_logger, listed
from anomaly_suite.io.atomic import printable, try_folder


class PlacedCLI(LightningCLI):
    """LightningCLI that chooses a folder for what the command writes, see :mod:`~anomaly_suite.cli.run_folders`."""

    place: Place | None = None
    """Where the command writes, once it has begun; None where it writes nothing."""

    def instantiate_classes(self) -> None:
        """Choose the folder, and build model, data and trainer.

        Raises:
            FileWriteError: the verb writes files, and its folder cannot be written to.
        """
        verb = self.subcommand or ""
        self._asked = self.config.clone()
        self.place = choose_place(verb, self.config[verb])
        try:
            super().instantiate_classes()
            if self.place is not None and (verb != "validate" or self.trainer.loggers):
                try_folder(self.place.results)  # before loggers do, who raise anything
        except BaseException:
            if self.place is not None:
                self.place.release()
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, which is told its folder."""
        self.config = self._asked  # what is saved says nothing of the folder
        if self.place is not None:
            settings = self.config_init[self.subcommand].trainer
            settings.default_root_dir = str(self.place.results)
            settings.logger = default_logger(self.place) if settings.logger in (None, True) else settings.logger
            settings.callbacks = [self.place.callback(), *listed(settings.callbacks or [])]
        return super().instantiate_trainer(**kwargs)

    def folder(self) -> RunFolder | None:
        """What the trainer was told; None where nothing is written."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next((each for each in callbacks if isinstance(each, RunFolder)), None)

    def run_folder(self) -> Path | None:
        """The folder of the run; None where nothing is written."""
        told = self.folder()
        return None if told is None else Path(told.folder)

    def say_where(self) -> None:
        """Let loggers go that would take in the next run of this process, and print where the results lie; in the first process."""
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger) and self.trainer.is_global_zero:
                logger.experiment.finish()
        if (told := self.folder()) is not None and self.trainer.is_global_zero:
            print(printable(f"results: {told.results}"))
