"""Which tests a result file holds."""

from __future__ import annotations

import json
from pathlib import Path

from anomaly_suite.io.results import by_data_set


def test_files_that_say_nothing_hold_no_test(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    assert by_data_set(file) == {}
    for text in ('{"metrics": ', "[1]", "{}"):
        file.write_text(text)
        assert by_data_set(file) == {}


def test_an_older_file_holds_one_test(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    content = {"dataset": "CamVid", "metrics": {"pixel_AP": 0.5}}
    file.write_text(json.dumps(content))
    assert by_data_set(file) == {"CamVid": content}
    assert by_data_set(file, "0f3c") == {}  # a fit came after it


def test_tests_of_a_run_that_was_there_before_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    tests = {"A": {"run": "0f3c"}, "B": {"run": "77aa"}, "C": {"run": None}}
    file.write_text(json.dumps({"dataset": "A", "data_sets": tests}))
    assert by_data_set(file) == tests
    assert by_data_set(file, "0f3c") == {"A": tests["A"], "C": tests["C"]}
