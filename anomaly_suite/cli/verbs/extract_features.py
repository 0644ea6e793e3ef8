"""``extract-features``: snippet features of videos, one file a video."""

from __future__ import annotations

from anomaly_suite.cli.parser_errors import SuiteParser
from anomaly_suite.features.extract import extract


def extract_features(words: list[str]) -> None:
    """Run the verb ``extract-features``.

    Args:
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, in one sentence.
        DatasetError: some videos cannot be read. All others are written.
    """
    parser = SuiteParser(prog="anomaly-suite extract-features", description="Extract snippet features of videos.")
    parser.add_function_arguments(extract, as_group=False, as_positional=True)
    SuiteParser.known |= {action.dest for action in parser._actions}
    options = parser.parse_args(words)
    done = extract(**vars(options))
    frames, snippets = (sum(column) for column in zip((0, 0), *done.written.values(), strict=True))
    print(
        f"{len(done.written)} videos written to {options.output} ({frames} frames, {snippets} snippets), "
        f"{len(done.skipped)} were there."
    )
