"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's own subcommands, and ``--run`` for all but ``fit``."""

from __future__ import annotations

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
