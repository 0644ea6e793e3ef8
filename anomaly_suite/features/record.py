"""What an extraction leaves in its folder: the settings, a table of the videos, and an array per video.

Files appear whole or not at all. Axes: T snippets, C crops, D feature width.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import timm
import torch
from torch import Tensor

from anomaly_suite import __version__
from anomaly_suite.errors import ConfigError, NotFiniteError
from anomaly_suite.io.atomic import check_size, replacing, save_csv, save_json
from anomaly_suite.io.naming import natural_key

RECORD, TABLE = "features.json", "videos.csv"


class Counts(NamedTuple):
    """Frames of a video, and the snippets they make."""

    frames: int
    snippets: int


def claim(folder: Path, settings: Mapping[str, Any], weights: str | None) -> None:
    """Record the settings in a folder, or check that they are those recorded.

    Args:
        folder: Output folder.
        settings: All that decides the numbers.
        weights: File of the network's weights, whose name and place are recorded as well.

    Raises:
        ConfigError: its features were made otherwise, or by something else.
    """
    record = folder / RECORD
    if record.is_file():
        _compare(record, settings)
        return
    if next(folder.rglob("*.npy"), None) is not None:
        raise ConfigError(f"'{folder}' holds arrays of unknown origin and no {RECORD}. Choose another output folder.")
    versions = {"anomaly_suite": __version__, "torch": torch.__version__, "timm": timm.__version__}
    versions |= {"opencv": cv2.__version__, "numpy": np.__version__}
    source = None if weights is None else Path(weights).name
    place = {"weights_file": str(Path(weights).resolve())} if weights is not None and Path(weights).is_file() else {}
    save_json(record, {**settings, "weights": source, **place, "versions": versions})


def forget(folder: Path) -> None:
    """Remove the features that an extraction left in a folder, by its tables, and its record.

    Args:
        folder: Output folder of the extraction.
    """
    for name in read_tables(folder):
        (folder / f"{name}.npy").unlink(missing_ok=True)
    for file in [folder / RECORD, *_tables(folder)]:
        file.unlink(missing_ok=True)


def _compare(record: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"'{record}' is damaged ({error}). Choose another output folder.") from error
    for key, value in settings.items():
        if before.get(key) != value:
            raise ConfigError(
                f"the features in '{record.parent}' have {key}={before.get(key)!r}, this run has {value!r}; see '{record}'. "
                "Choose another output folder, or the same settings."
            )


@contextmanager
def growing_array(path: Path, shape: tuple[int, int]) -> Iterator[Callable[[Tensor], None]]:
    """Write an array (T, C, D) block by block, T being known at the end; the file appears then.

    NumPy's header leaves room for the first axis to grow, so that it can be written again in place.

    Args:
        path: File to write.
        shape: C and D.

    Yields:
        A function that appends a block (N, C, D).

    Raises:
        NotFiniteError: from that function, where a block holds NaN or infinity.
    """
    rows = 0
    with replacing(path) as temporary:
        with temporary.open("wb") as file:

            def header() -> None:
                """Write the header anew, with the rows so far."""
                file.seek(0)
                content = {"descr": "<f4", "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_1_0(file, content)

            def append(block: Tensor) -> None:
                """Append a block, shape (N, C, D).

                Raises:
                    NotFiniteError: it holds NaN or infinity.
                """
                nonlocal rows
                if not bool(block.isfinite().all()):
                    raise NotFiniteError(
                        f"the network gave NaN or infinity from snippet {rows} on. Try precision 32, or check the weights."
                    )
                file.write(block.numpy().astype("<f4").tobytes())
                rows += len(block)

            header()
            yield append
            header()
            size = file.tell()
        check_size(temporary, size + 4 * rows * shape[0] * shape[1])


def table_file(folder: Path, number: int, shards: int) -> Path:
    """The table of a shard, or of all videos where there is one shard."""
    return folder / (TABLE if shards == 1 else f"videos-{number}-of-{shards}.csv")


def read_tables(folder: Path) -> dict[str, Counts]:
    """Counts of the videos whose features are there; the newest table counts."""
    known: dict[str, Counts] = {}
    for table in sorted(_tables(folder), key=lambda file: file.stat().st_mtime):
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if (folder / f"{row['name']}.npy").is_file():
                    known[row["name"]] = Counts(int(row["frames"]), int(row["snippets"]))
    return known


def _tables(folder: Path) -> list[Path]:
    return [*folder.glob(TABLE), *folder.glob("videos-*-of-*.csv")]


def write_table(table: Path, known: Mapping[str, Counts]) -> None:
    """Write the counts of videos, in numeric order of their names."""
    rows = ((name, *known[name]) for name in sorted(known, key=natural_key))
    save_csv(table, ("name", *Counts._fields), rows)
