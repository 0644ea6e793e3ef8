"""Words after extract-features; what it does with videos is tested with the package ``features``."""

from __future__ import annotations

import pytest
from cli_parts import command, one_sentence, succeed

from anomaly_suite.errors import ConfigError


def test_help_lists_the_options():
    said = succeed("extract-features", "--help").out
    assert all(f"--{option}" in said for option in ("network", "crops", "exclude", "flat", "overwrite"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--netwrk", "c3d"], "no option 'netwrk'. Did you mean 'network'?"),
        (["--network", "c4d"], "network: "),
    ],
)
def test_wrong_words_end_in_one_sentence(words, sentence, cwd):
    done = command("extract-features", "videos", "features", *words)
    assert done.code == 2
    assert one_sentence(done, ConfigError).startswith(sentence)
