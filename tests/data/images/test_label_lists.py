"""Lists of file names by split and label, and every way in which they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.data.images.label_lists import read_label_lists
from anomaly_suite.errors import DatasetError

GOOD = {"train": {"0": ["a"], "unlabeled": {"0": ["x"], "1": ["y"]}}, "test": {"0": ["b"], "1": ["c", "d"]}}


def save(folder: Path, content: Any) -> Path:
    file = folder / "data.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_what_is_unlabeled_is_ignored_and_not_required(tmp_path: Path) -> None:
    assert read_label_lists(save(tmp_path, GOOD)) == (["a"], ["b"], ["c", "d"])
    assert read_label_lists(save(tmp_path, {**GOOD, "train": {"0": ["a"]}})) == (["a"], ["b"], ["c", "d"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"data.json' is no JSON \("),
        ([], r"has no mapping 'train' of labels to file names"),
        ({"train": {"0": ["a"]}}, r"has no mapping 'test'"),
        ({**GOOD, "test": {"0": "b", "1": ["c"]}}, r"test.0 of '.*' must be a list of file names"),
        ({**GOOD, "test": {"0": ["b"], "2": ["c"]}}, r"a label in 'test' of '.*' must be one of 0, 1; got '2'"),
        ({**GOOD, "train": {"0": ["a"], "1": ["e"]}}, r"lists anomalies for training \(train.1\)"),
        ({**GOOD, "test": {"0": ["a"], "1": ["c"]}}, r"lists 'a' in train.0 and in test.0\. Restore"),
        ({**GOOD, "test": {"0": ["b"], "1": ["y"]}}, r"lists 'y' in test.1 and in unlabeled.1"),
        ({**GOOD, "test": {"0": ["b"], "1": []}}, r"must list images in train.0, test.0 and test.1; one is empty"),
    ],
)
def test_lists_that_are_not_right(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        read_label_lists(save(tmp_path, content))
