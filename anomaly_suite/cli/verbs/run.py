"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's own subcommands, and ``--run`` for all but ``fit``."""

from __future__ import annotations

from pathlib import Path

from anomaly_suite.cli.lightning import run_lightning
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.runs import find_checkpoint, find_run


def run(verb: str, words: list[str]) -> None:
    """Run one verb of Lightning.

    Args:
        verb: fit, validate, test or predict.
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, classes or devices, in one sentence.
    """
    run_lightning(verb, words if verb == "fit" else expand_run(words))


def expand_run(words: list[str]) -> list[str]:
    """Replace ``--run DIR`` by the run's configuration, its checkpoint and its folder for the results.

    Args:
        words: Command-line words after the verb.

    Raises:
        ConfigError: ``--run`` without a folder.
    """
    value, rest = taken(words, "--run", needs="the folder of an earlier fit")
    return words if value is None else of_run(find_run(value), rest)


def of_run(folder: Path, rest: list[str], results: list[str] | None = None) -> list[str]:
    """The words that repeat a run.

    Args:
        folder: Of the run.
        rest: Further words, which come last.
        results: Words that say where results go; None for the run's folder.
    """
    expanded = ["--config", str(folder / "config.yaml"), "--trainer.logger", "false"]
    expanded += ["--trainer.default_root_dir", str(folder)] if results is None else results
    if not any(item.split("=")[0] == "--ckpt_path" for item in rest):
        expanded += ["--ckpt_path", str(find_checkpoint(folder))]
    return expanded + rest


def taken(words: list[str], option: str, *, needs: str) -> tuple[str | None, list[str]]:
    """The value of an option of ours, and the words without it; None where it is not given.

    Args:
        words: Command-line words after the verb.
        option: Such as ``--run``.
        needs: What its value is.

    Raises:
        ConfigError: the option without a value.
    """
    for position, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != option:
            continue
        if not equals:
            if position + 1 == len(words) or words[position + 1].startswith("--"):
                raise ConfigError(f"{option} needs {needs}.")
            value = words[position + 1]
        return value, words[:position] + words[position + (1 if equals else 2) :]
    return None, words
