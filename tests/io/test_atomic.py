"""Files appear whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from anomaly_suite.io.atomic import replacing, save_csv, save_json


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert files(tmp_path) == ["new/a.txt"]
    assert path.read_text() == "old"


def test_json_is_readable_and_objects_are_text(tmp_path: Path) -> None:
    save_json(tmp_path / "new/a.json", {"metrics": {"AUROC": 0.5}, "file": Path("b/c"), "undefined": None})
    text = (tmp_path / "new/a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"metrics": {"AUROC": 0.5}, "file": "b/c", "undefined": None}
    assert text.startswith('{\n  "metrics": {\n    "AUROC"')
    assert text.endswith("}\n")
    save_json(tmp_path / "new/a.json", {"low": 0, "high": 1}, indent=None)
    assert (tmp_path / "new/a.json").read_text() == '{"low": 0, "high": 1}\n'


def test_csv_quotes_names_and_leaves_unknown_values_empty(tmp_path: Path) -> None:
    save_csv(tmp_path / "a.csv", ("name", "score"), [("a,b", 0.1), ("c", None)])
    assert (tmp_path / "a.csv").read_bytes() == b'name,score\r\n"a,b",0.1\r\nc,\r\n'


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_json(path, {1: object, (1, 2): "no key of JSON"}),
        lambda path: save_csv(path, ("name",), (row for row in [("a",), 3])),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises((TypeError, csv.Error)):
        save(path)
    assert files(tmp_path) == ["a"]
    assert path.read_text() == "old"
