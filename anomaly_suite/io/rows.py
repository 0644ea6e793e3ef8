"""Text files that people write: lists, CSV and JSON lines, in the encodings and with the separators that their programs save."""

from __future__ import annotations

import codecs
import csv
import io
import json
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
SEPARATORS = ",;\t"


class Row(NamedTuple):
    """Values of one row by column, as text, and the line that it ends in, from 1."""

    line: int
    values: dict[str, str]


def read_text(path: Path) -> str:
    """Text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which editors and spreadsheets write.

    Raises:
        DatasetError: another encoding, or no text; names the line.
    """
    require_regular(path, DatasetError)
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"line {line} of '{path}' is not {encoding.removesuffix('-sig').upper()} (byte 0x{data[error.start]:02x}): the file is in another "
            "encoding, such as Latin-1. Save it as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(
            f"line {line} of '{path}' holds a zero byte, so it is no UTF-8 text. Save the file as UTF-8."
        )
    return text


def read_rows(path: Path, required: tuple[str, ...]) -> list[Row]:
    """Rows of a CSV file with a header, or of JSON lines.

    CSV may be separated by commas, semicolons or tabs. Names of columns are compared without case and surrounding blanks.

    Args:
        path: The file.
        required: Columns that every row must fill.

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
            rows.append(Row(number, {key.strip().casefold(): _text(value) for key, value in content.items()}))
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
                columns = [cell.strip().casefold() for cell in cells]
                if len(set(columns)) < len(columns):
                    raise DatasetError(
                        f"the header of '{path}' names a column twice: {', '.join(columns)}. Give every column its own name."
                    )
            elif len(cells) > len(columns):
                raise DatasetError(
                    f"row {reader.line_num} of '{path}' has {len(cells)} values for {len(columns)} columns ({', '.join(columns)}). "
                    "Quote paths that contain the separator."
                )
            else:
                rows.append(Row(reader.line_num, dict(zip_longest(columns, map(str.strip, cells), fillvalue=""))))
    except csv.Error as error:
        raise DatasetError(f"row {reader.line_num} of '{path}' cannot be read as CSV ({error}). Correct it.") from error
    return rows


def _text(value: Any) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value).strip()
