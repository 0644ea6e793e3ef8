"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's own subcommands, and ``--run`` for all but ``fit``."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from anomaly_suite.cli.catalog import options_of
from anomaly_suite.cli.lightning import run_lightning
from anomaly_suite.contract.run_pair import require_pair
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.runs import CONFIG, FINISHED, find_checkpoint, find_run, state_of


def run(verb: str, words: list[str]) -> None:
    """Run one verb of Lightning.

    Args:
        verb: fit, validate, test or predict.
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, classes or devices, in one sentence.
    """
    run_lightning(verb, words if verb == "fit" else expand_run(words, logs=verb == "test"))
    if verb == "validate":
        rank_zero_only(print)("results: printed above; validate writes no files")


def expand_run(words: list[str], *, logs: bool = False, calibrated: bool = True) -> list[str]:
    """Replace ``--run DIR`` by the run's configuration, its checkpoint and its folder for the results.

    Args:
        words: Command-line words after the verb.
        logs: Whether the loggers of the run go on.
        calibrated: Whether to take thresholds of ``calibrate``.

    Raises:
        ConfigError: ``--run`` without a folder.
    """
    value, rest = taken(words, "--run", needs="the folder of an earlier fit")
    return words if value is None else of_run(find_run(value), rest, logs=logs, calibrated=calibrated)


def of_run(
    folder: Path, rest: list[str], results: list[str] | None = None, *, logs: bool = True, calibrated: bool = True
) -> list[str]:
    """The words that repeat a run.

    Args:
        folder: Of the run.
        rest: Further words, which come last.
        results: Words that say where results go; None for the run's folder.
        logs: Whether the loggers of the run go on, as far as ``rest`` does not name others.
        calibrated: Whether to take thresholds of ``calibrate``.

    Raises:
        CheckpointError: the run has no checkpoint, or the one that is given was written by another run.
    """
    expanded = ["--config", str(folder / CONFIG), *([] if logs else ["--trainer.logger", "false"])]
    expanded += ["--trainer.default_root_dir", str(folder)] if results is None else results
    given = [value for option, value in options_of(rest) if option == "--ckpt_path"]
    checkpoint = Path(given[-1]) if given else find_checkpoint(folder, calibrated=calibrated)
    require_pair(folder, checkpoint)
    if given:
        return expanded + rest
    if (state := state_of(folder)) != FINISHED:
        rank_zero_info(f"the fit of '{folder}' is {state}: this is the checkpoint that it has left so far.")
    if calibrated and checkpoint != find_checkpoint(folder, calibrated=False):
        rank_zero_info(
            f"thresholds are those of '{checkpoint}'; anomaly-suite calibrate --run {folder} --undo goes back to those of the fit."
        )
    return [*expanded, "--ckpt_path", str(checkpoint), *rest]


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
