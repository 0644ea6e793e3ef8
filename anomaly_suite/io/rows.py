"""Text files that people write: lists, CSV and JSON lines, in the encodings and with the separators that their programs save."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import warnings
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.regular import require_regular

MARKS = {  # at the start of a file, longest first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SEPARATORS = ",;\t|"
WINDOWS = "cp1252"  # what is not UTF-8 and has no mark is most often this, or Latin-1, which it contains
BINARY = {
    b"PK\x03\x04": "a spreadsheet or archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
}
EMPTY = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "-"})
"""What programs write where a cell holds nothing, in lower case."""


class Row(NamedTuple):
    """Values of one row by column, as text, and the line that it ends in, from 1."""

    line: int
    values: dict[str, str]


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, in UTF-16 or UTF-32, which editors and spreadsheets write, or else in Windows-1252, which is said.

    Raises:
        DatasetError: another encoding, or no text; names the line.
    """
    require_regular(path, DatasetError)
    data = path.read_bytes()
    if kind := next((kind for start, kind in BINARY.items() if data.startswith(start)), None):
        raise DatasetError(f"'{path}' is {kind} and no text. Save it as CSV in UTF-8.")
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), None) or _without_mark(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text = _of_windows(path, data, encoding, error)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(
            f"line {line} of '{path}' holds a zero byte, so it is no UTF-8 text. Save the file as UTF-8."
        )
    return text


def _without_mark(data: bytes) -> str:
    """UTF-16 shows without a mark, too: nearly every other byte of what is written in letters of Europe is zero."""
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = data[first::2].count(0), data[1 - first :: 2].count(0)
        if len(data) > 3 and len(data) % 2 == 0 and not others and zeros > len(data) // 4:
            return name
    return "utf-8"


def _of_windows(path: Path, data: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    line = data.count(b"\n", 0, error.start) + 1
    seen = f"line {line} of '{path}' is not {encoding.removesuffix('-sig').upper()} (byte 0x{data[error.start]:02x})"
    try:
        if encoding != "utf-8" or b"\0" in data:
            raise error
        text = data.decode(WINDOWS)
    except UnicodeDecodeError:
        raise DatasetError(f"{seen}: the file is in another encoding. Save it as UTF-8.") from error
    warnings.warn(
        f"{seen}: the file is read as Windows-1252 (Western Europe). Save it as UTF-8 if names come out wrong.",
        stacklevel=3,
    )
    return text


def read_rows(path: Path, required: tuple[str, ...], also: Mapping[str, tuple[str, ...]] | None = None) -> list[Row]:
    """Rows of a CSV file with a header, or of JSON lines.

    CSV may be separated by commas, semicolons, tabs or bars. Names of columns are compared without case and surrounding blanks, with ``_`` for
    blanks and hyphens inside. What stands for an empty cell (``nan``, ``None``, ``NA`` and so on) is empty.

    Args:
        path: The file.
        required: Columns that every row must fill.
        also: Other names of columns, which are read where a file has no column of the name itself.

    Raises:
        DatasetError: another encoding, a row that cannot be read or lacks a column, or no row; names the line.
    """
    text = read_text(path)
    if text.lstrip().startswith("["):
        raise DatasetError(
            f"'{path}' is a JSON list; expected JSON lines or CSV. Write one object a line, without brackets."
        )
    rows = _json_lines(path, text) if text.lstrip().startswith("{") else _csv(path, text)
    if not rows:
        raise DatasetError(f"'{path}' lists no image. Give CSV with a header ({','.join(required)},...) or JSON lines.")
    for line, values in rows:
        for name, others in (also or {}).items():
            if name not in values and (other := next((each for each in others if each in values), None)):
                values[name] = values[other]
        for column in required:
            if not values.get(column):
                raise DatasetError(
                    f"row {line} of '{path}' has no {column!r}; its columns are {', '.join(values)}. "
                    f"Every row needs {' and '.join(required)}."
                )
    return rows


def _json_lines(path: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                content = json.loads(line)
                if not isinstance(content, dict):
                    raise ValueError(f"got {type(content).__name__}")
            except ValueError as error:
                raise DatasetError(
                    f"line {number} of '{path}' is not a JSON object ({error}). Write one object a line."
                ) from error
            rows.append(Row(number, {_column(key): _cell(_text(value)) for key, value in content.items()}))
    return rows


def _csv(path: Path, text: str) -> list[Row]:
    head = next(iter(text.lstrip().splitlines()), "")
    separator = max(SEPARATORS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    rows: list[Row] = []
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) or (not columns and cells[0].lower().startswith("sep=")):
                continue  # blank, or what spreadsheets say of their separator
            if not columns:
                columns = [_column(cell) for cell in cells]
                named = [column for column in columns if column]
                if len(set(named)) < len(named):
                    raise DatasetError(
                        f"the header of '{path}' names a column twice: {', '.join(columns)}. Give every column its own name."
                    )
            elif len(cells) > len(columns) and any(map(str.strip, cells[len(columns) :])):
                raise DatasetError(
                    f"row {reader.line_num} of '{path}' has {len(cells)} values for {len(columns)} columns ({', '.join(columns)}). "
                    "Quote paths that contain the separator."
                )
            else:
                values = zip_longest(columns, map(_cell, cells[: len(columns)]), fillvalue="")
                rows.append(Row(reader.line_num, {column: value for column, value in values if column}))
    except csv.Error as error:
        raise DatasetError(f"row {reader.line_num} of '{path}' cannot be read as CSV ({error}). Correct it.") from error
    return rows


def _text(value: Any) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value).strip()


def _column(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip(" \t\r\n\ufeff\xa0").casefold())


def _cell(value: str) -> str:
    value = value.strip()
    return "" if value.casefold() in EMPTY else value
