"""A command line that is read but not run: what stages of a chain are checked by before one is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anomaly_suite.cli.lightning import SuiteCLI, start, telling
from anomaly_suite.cli.run_folders import parent_of


def plan_lightning(subcommand: str, words: list[str]) -> PlannedCLI:
    """Parse the words as :func:`run_lightning` does, and build and run nothing; it raises the same.

    Args:
        subcommand: fit, validate, test or predict.
        words: The rest of the command line.
    """
    with telling(subcommand):
        return start(PlannedCLI, subcommand, words)


class PlannedCLI(SuiteCLI):
    """What a command line asks for; the model is built on demand, and nothing is run."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _chosen(self) -> Any:
        return self.config[self.subcommand]

    def class_path(self) -> str:
        """Dotted name of the model's class."""
        return str(self._chosen().model.class_path)

    def root(self) -> Path:
        """Folder that the runs are in."""
        return parent_of(self._chosen())

    def is_plain(self) -> bool:
        """Whether the run lies in a given folder itself, and over what was there before."""
        return self._chosen().trainer.logger is False and self._chosen().trainer.default_root_dir is not None

    def asked(self) -> str:
        """The whole configuration in YAML, without names of files that it was read from."""
        config = self._chosen().clone()
        for name in ("config", "ckpt_path"):
            config.pop(name, None)
        return str(self._parser(self.subcommand).dump(config, skip_none=False, skip_validation=True))

    def build(self, **options: Any) -> Any:
        """The model.

        Args:
            options: Its options that are other than configured.
        """
        config = self.config.clone()
        for name, value in options.items():
            config[self.subcommand].model.init_args[name] = value
        return self._get(self.parser.instantiate_classes(config), "model")
