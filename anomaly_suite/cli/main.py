"""``anomaly-suite VERB``: reads the verb, one of :data:`VERBS`, and hands the rest on.

Neither torch nor Lightning is imported here: help, ``list``, ``report`` and ``--version`` answer at once, and a misspelt class
or configuration is reported before anything slow is loaded. Each verb imports its file when it is asked for.
"""

from __future__ import annotations

import os
import select
import sys
from typing import NoReturn

from anomaly_suite import __version__
from anomaly_suite.cli.catalog import check_class_names
from anomaly_suite.cli.help import HELP, help_for, without_all
from anomaly_suite.errors import AnomalySuiteError, ConfigError, did_you_mean

RUN_VERBS = ("fit", "train", "validate", "test", "predict", "calibrate")
VERBS = (*RUN_VERBS, "benchmark", "compare", "export", "extract-features", "list", "report")


def main(args: list[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Command-line words after the program's name; those of the process if None.

    Raises:
        SystemExit: status 2 for a wrong command line, 1 for an error of this package, told in one sentence. Set the
            environment variable ``ANOMALY_SUITE_TRACEBACK`` to see where it came from.
    """
    words = sys.argv[1:] if args is None else args
    verb, rest = (words[0], words[1:]) if words else ("--help", [])
    try:
        if verb in ("-h", "--help"):
            print(HELP, end="")
        elif verb == "--version":
            print(f"anomaly-suite {__version__}")
        else:
            _dispatch(verb, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more when it ends
        raise SystemExit(128 + 13) from None  # as of a program that the signal ends
    except ConfigError as error:
        _stop(error, 2)
    except AnomalySuiteError as error:
        _stop(error, 1)


def _dispatch(verb: str, words: list[str]) -> None:
    if verb in (*RUN_VERBS, "export", "extract-features"):
        if (text := help_for(verb, words)) is not None:
            print(text, end="")
            return
        words = without_all(words)
    if verb == "list":
        from anomaly_suite.cli.verbs.list import list_names

        list_names(words)
    elif verb == "report":
        from anomaly_suite.cli.verbs.report import report

        report(words)
    elif verb == "benchmark":
        from anomaly_suite.cli.verbs.benchmark import benchmark

        benchmark(words)
    elif verb == "compare":
        from anomaly_suite.cli.verbs.compare import compare

        compare(words)
    elif verb == "export":
        from anomaly_suite.cli.verbs.export import export

        export(words)
    elif verb == "extract-features":
        from anomaly_suite.cli.verbs.extract_features import extract_features

        extract_features(words)
    elif verb in RUN_VERBS:
        from anomaly_suite.cli.samples import find_configs
        from anomaly_suite.cli.stages import has_stages, split_stages

        check_class_names(words)
        stages = split_stages("fit" if verb == "train" else verb, words) if has_stages(words) else []
        stages = [stage._replace(words=find_configs(stage.words)) for stage in stages]
        words = find_configs(words)
        if verb == "train" and words != ["--help"]:
            from anomaly_suite.cli.verbs.train import train

            train(words, stages)
        elif stages and not {"-h", "--help"} & set(words):
            from anomaly_suite.cli.verbs.chain import chain

            chain(stages)
        elif verb == "calibrate":
            from anomaly_suite.cli.verbs.calibrate import calibrate

            calibrate(words)
        elif verb == "predict":
            from anomaly_suite.cli.verbs.predict import predict

            predict(words)
        else:
            from anomaly_suite.cli.verbs.run import run

            run("fit" if verb == "train" else verb, words)
    else:
        raise ConfigError(f"unknown verb {verb!r}; known are {', '.join(VERBS)}.{did_you_mean(verb, VERBS)}")


def _is_unread() -> bool:
    """Whether the reader of stdout has seen enough, as ``head`` has; other pipes lead to processes that are needed."""
    if not hasattr(select, "poll"):  # on Windows, where a pipe that nobody reads is another error
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _stop(error: Exception, status: int) -> NoReturn:
    if os.environ.get("ANOMALY_SUITE_TRACEBACK"):
        raise error
    print(f"anomaly-suite: {type(error).__name__}: {error}", file=sys.stderr)
    raise SystemExit(status)
