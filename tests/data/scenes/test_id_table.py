"""Tables of label numbers: what they mean, and every slip in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.data.scenes.id_table import read_id_table
from anomaly_suite.errors import ConfigError, DatasetError

TEXT = """
classes: {road: 0, car: [1, 7], sky: 2}
anomalous: {animal: 11}
void: [12]
ood_mask: {normal: [0, 3], anomalous: 255, void: 100}
"""


def test_what_numbers_mean(tmp_path: Path) -> None:
    (tmp_path / "ids.yaml").write_text(TEXT)
    table = read_id_table(tmp_path / "ids.yaml")
    assert (table.classes, table.anomalous) == (["road", "car", "sky"], {"animal": [11]})
    numbers = [0, 1, 7, 2, 11, 12, 255, 3]
    assert table.target[numbers].tolist() == [0, 1, 1, 2, 255, 255, 255, -1]
    assert table.unknown[numbers].tolist() == [0, 0, 0, 0, 1, 255, 255, -1]
    assert table.masks[[0, 3, 255, 100, 1]].tolist() == [0, 0, 1, 255, -1]


def test_the_shortest_table() -> None:
    table = read_id_table({"classes": ["road", "sky"]})
    assert table.target[[0, 1, 2, 255]].tolist() == [0, 1, -1, 255]
    assert table.unknown[[0, 1, 2, 255]].tolist() == [0, 0, -1, 255]
    assert table.masks[[0, 1, 2, 255]].tolist() == [0, 1, -1, 255]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"ids must say what label numbers mean, with classes as names and numbers; got \{\}\. Write"),
        ({"class": {}, "classes": ["a", "b"]}, r"keys classes, anomalous, void, ood_mask; got 'class'\. Did you mean 'classes'\?"),
        ({"classes": {"road": 0}}, r"ids: classes must name at least two classes; got \{'road': 0\}"),
        ({"classes": ["a", "a"]}, r"ids: classes must map names to numbers"),
        ({"classes": {0: "road", 1: "sky"}}, r"ids: classes must map names to numbers; got \{0: 'road', 1: 'sky'\}"),
        ({"classes": {"road": 0, "sky": 256}}, r"ids: classes: sky must be whole numbers from 0 to 255, .*; got 256"),
        ({"classes": {"road": 0, "sky": True}}, r"ids: classes: sky must be whole numbers .*; got True"),
        ({"classes": {"road": 0, "sky": []}}, r"ids: classes: sky must have at least one number"),
        ({"classes": {"road": 0, "sky": [1, 0]}}, r"ids: 0 is road and sky\. Give every number one meaning"),
        ({"classes": ["a", "b"], "void": [1]}, r"ids: 1 is b and void"),
        ({"classes": ["a", "b"], "anomalous": {"b": 3}}, r"ids: 'b' is in classes and in anomalous"),
        ({"classes": ["a", "b"], "ood_mask": {"normal": 0}}, r"ids: ood_mask must say which numbers are normal and which anomalous"),
        ({"classes": ["a", "b"], "ood_mask": {"normal": 0, "anomalous": 0}}, r"ids: ood_mask: 0 is normal and anomalous"),
    ],
)  # fmt: skip
def test_slips_in_a_table(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_id_table(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {road: 0, road: 1}", r"ids\.yaml' must be YAML: 'road' stands twice in one mapping"),
        ("classes: [a", r"ids\.yaml' must be YAML"),
        ("- a", r"ids\.yaml' must say what label numbers mean"),
        ("", r"ids\.yaml' must say what label numbers mean, .*; got None"),
    ],
)
def test_slips_in_a_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "ids.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_id_table(tmp_path / "ids.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file '.*none\.yaml'"):
        read_id_table(tmp_path / "none.yaml")
    (tmp_path / "ids.xlsx").write_bytes(b"PK\x03\x04....")
    with pytest.raises(DatasetError, match="is a spreadsheet or archive and no text"):
        read_id_table(tmp_path / "ids.xlsx")
