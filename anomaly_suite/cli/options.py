"""Options of verbs that need no configuration of a run: read by argparse, wrong ones told in one sentence."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import NoReturn

from anomaly_suite.errors import ConfigError, did_you_mean


class VerbParser(ArgumentParser):
    """A parser whose errors are those of the package.

    Args:
        prog: The command, such as ``anomaly-suite compare``.
        description: What it does.
    """

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            ConfigError: always.
        """
        said = message.removeprefix("unrecognized arguments: ")
        if said != message:
            known = [option for action in self._actions for option in action.option_strings]
            first = said.split()[0]
            raise ConfigError(f"{self.prog} has no option {first!r}; see --help.{did_you_mean(first, known)}")
        raise ConfigError(f"{self.prog}: {message}. See --help.")
