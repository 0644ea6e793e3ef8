"""Lists and tables as editors and spreadsheets save them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.rows import Row, read_rows, read_text

TABLE = "path,label\nä.png,0\nb.png,1\n"
ROWS = [Row(2, {"path": "ä.png", "label": "0"}), Row(3, {"path": "b.png", "label": "1"})]
NEEDED = ("path", "label")


def rows(tmp_path: Path, content: str | bytes, name: str = "a.csv") -> list[Row]:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(tmp_path / name, NEEDED)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(tmp_path: Path, encoding: str, end: str) -> None:
    assert rows(tmp_path, TABLE.replace("\n", end).encode(encoding)) == ROWS
    assert rows(tmp_path, codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be")) == ROWS


@pytest.mark.parametrize(
    "table",
    [
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", "|"),
        TABLE.replace(",", ", ").replace("\n", ",\n"),
        "\ufeff\ufeff" + TABLE,
        "sep=;\n" + TABLE.replace(",", ";"),
        'Path , LABEL\n ä.png , 0\n\n"b.png", 1',
        '{"path": "ä.png", "label": 0}\r\n{"Path": "b.png", "label": true}\r\n',
    ],
)
def test_what_programs_write(tmp_path: Path, table: str) -> None:
    assert [row.values for row in rows(tmp_path, table)] == [row.values for row in ROWS]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    got = rows(tmp_path, 'path,label,note\n"a.png",0,"two\nlines"\n\nb.png,1\n')
    assert [row.line for row in got] == [3, 5]
    assert got[1].values == {"path": "b.png", "label": "1", "note": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"path,label\n\x81.png,0\n",
            r"line 2 of '.*a\.csv' is not UTF-8 \(byte 0x81\): the file is in another encoding",
        ),
        (b"\xff\xfepath", r"line 1 of '.*a\.csv' (is not UTF-16|has no)|lists no image"),
        (b"PK\x03\x04\xe4", r"a\.csv' is a spreadsheet or archive and no text\. Save it as CSV"),
        ("path,label\nNaN,0\n", r"row 2 of '.*a\.csv' has no 'path'"),
        (b"path,label\na\0.png,0\n", r"line 2 of '.*a\.csv' holds a zero byte"),
        (
            "path,label\na.png,0\nx,y.png,1\n",
            r"row 3 of '.*a\.csv' has 3 values for 2 columns \(path, label\). Quote paths",
        ),
        ("path,label\na.png\n", r"row 2 of '.*a\.csv' has no 'label'; its columns are path, label"),
        ("path,label,path\na,0,b\n", r"the header of '.*a\.csv' names a column twice: path, label, path"),
        ('path,label\n"a.png,0\n', r"row 2 of '.*a\.csv' cannot be read as CSV"),
        ("path,label\n" + "x" * 200_000 + ",0\n", r"row \d of '.*a\.csv' cannot be read as CSV \(field larger"),
        ('{"path": "a.png", "label": 0}\n5\n', r"line 2 of '.*a\.csv' is not a JSON object \(got int\)"),
        ('{"path": "a.png", "label": 0}\n[["path", "b"]]\n', r"line 2 of '.*a\.csv' is not a JSON object \(got list\)"),
        ('[{"path": "a.png", "label": 0}]', r"a\.csv' is a JSON list; expected JSON lines or CSV"),
        ("", r"a\.csv' lists no image\. Give CSV with a header \(path,label,...\)"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        rows(tmp_path, content)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark(tmp_path: Path, encoding: str) -> None:
    assert rows(tmp_path, TABLE.encode(encoding)) == ROWS


def test_windows_letters_are_read_and_said(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"line 2 of '.*a\.csv' is not UTF-8 \(byte 0xe4\): the file is read as Windows-1252"
    ):
        assert rows(tmp_path, TABLE.encode("cp1252")) == ROWS


def test_empty_cells_and_other_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",Image Path,label,mask-path\n0,a.png,0,nan\n1,b.png,1,\n2,c.png,1,<NA>\n")
    got = read_rows(
        tmp_path / "a.csv", NEEDED, {"path": ("image_path",), "mask": ("gt", "mask_path"), "label": ("mask_path",)}
    )
    assert [(row.values["path"], row.values["label"], row.values["mask"]) for row in got] == [
        ("a.png", "0", ""), ("b.png", "1", ""), ("c.png", "1", ""),
    ]  # fmt: skip


def test_no_text_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="which is a folder"):
        read_text(tmp_path)
