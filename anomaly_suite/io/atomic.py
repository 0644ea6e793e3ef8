"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.

    Yields:
        A temporary name in the same folder with the same suffix. It becomes ``path`` when the block ends, and is removed
        when the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file, whole or not at all; the last line ends.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        content: Mappings, lists and plain values; any other object, such as a path, is written as its text.
        indent: Spaces per level; None writes one line.
    """
    text = json.dumps(content, indent=indent, default=str) + "\n"
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")


def save_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV table, whole or not at all.

    Args:
        path: Final name; missing folders are made and an older file is replaced.
        header: Names of the columns.
        rows: One value per column; None leaves the field empty.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
