from __future__ import annotations

import pytest

from anomaly_suite.cli.stages import has_stages, split_stages
from anomaly_suite.errors import ConfigError


def test_words_belong_to_their_stage() -> None:
    words = ["--config", "a.yaml", "--data.root=x", "--then", "b.yaml", "--then=c.yaml", "--model.lr", "1"]
    assert has_stages(words)
    assert [str(stage) for stage in split_stages("fit", words)] == [
        "stage 1 (a.yaml)",
        "stage 2 (b.yaml)",
        "stage 3 (c.yaml)",
    ]
    assert [stage.words for stage in split_stages("fit", words)] == [
        ["--config", "a.yaml", "--data.root=x"],
        ["--config", "b.yaml"],
        ["--config", "c.yaml", "--model.lr", "1"],
    ]


def test_a_command_line_without_stages() -> None:
    assert not has_stages(["--config", "then.yaml"])


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("test", ["--run", "a", "--then", "b.yaml"], "only fit has stages; got --then after test"),
        ("fit", ["--model", "A", "--then"], "--then needs the configuration of the next stage; got nothing"),
        ("fit", ["--model", "A", "--then", "--model", "B"], "--then needs .*; got --model"),
        ("fit", ["--model", "A", "--then="], "--then needs .*; got nothing"),
        ("fit", ["--then", "b.yaml"], "fit needs a pre-training before --then; got none"),
    ],
)
def test_mistakes(verb: str, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        split_stages(verb, words)
