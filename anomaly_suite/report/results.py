"""What a test left in its run folder: figures, the table of scores, panels and curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.png import text_of

MOST_TYPES = 60  # more folders than that are no kinds of defects
TRUTH = {"0": 0, "1": 1, "": None}


class Row(NamedTuple):
    """One image or video of the table; None where it is unknown."""

    number: int
    """Place among those of its loader, from 0."""
    loader: int
    path: str | None
    category: str | None
    kind: str | None
    """Kind of defect, by the folder that the file lies in."""
    label: int | None
    score: float
    decision: str | None


class Panel(NamedTuple):
    """A picture of several tiles, and where each is: left, top, width and height."""

    file: Path
    tiles: Mapping[str, tuple[int, int, int, int]]


class Results(NamedTuple):
    """All that a report of a run shows."""

    folder: Path
    result: dict[str, Any]
    """Content of ``metrics.json``."""
    config: str
    options: dict[str, Any]
    """The configuration as a mapping."""
    rows: list[Row]
    panels: dict[int, Panel]
    """By row."""
    curves: dict[int, dict[str, Any]]
    """By row; see :func:`~anomaly_suite.callbacks.score_curves.numbers_of`."""
    missing: list[str]
    """A sentence for each thing that the folder lacks."""


def read_results(folder: Path, result: dict[str, Any], files: Path | None = None) -> Results:
    """Read the files of a test.

    Args:
        folder: The run folder.
        result: Content of its ``metrics.json``.
        files: Where the test's table and pictures lie; the run folder if None.

    Raises:
        DatasetError: a table that cannot be read.
    """
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(config)
    options = content if isinstance(content, dict) else {}
    found = Results(folder, result, config, options, [], {}, {}, [])
    again = f"Run: anomaly-suite test --run {folder}"
    place = files or folder
    rows = _read_table(place, options)
    if not rows:
        found.missing.append(f"There is no table of scores, so no plots, decisions and pictures are shown. {again}")
        return found
    panels, unnamed = _panels(_folder(place, options, "heatmaps"), rows)
    curves = _curves(_folder(place, options, "curves"), rows)
    if unnamed:
        found.missing.append(f"Its panels were written by an earlier version and do not say what they show. {again}")
    return found._replace(rows=rows, panels=panels, curves=curves)


def _folder(run: Path, options: Mapping[str, Any], callback: str) -> Path:
    given = (options.get(callback) or {}).get("folder")
    return Path(given) if given else run / callback


# The table ---------------------------------------------------------------------------------------------------------------


def _read_table(run: Path, options: Mapping[str, Any]) -> list[Row]:
    """Rows of the table of scores, in its order; none where there is no table."""
    given = (options.get("table") or {}).get("path")
    base = Path(given) if given else run / "scores"
    file = next(
        (file for name in (".csv", ".parquet") if (file := base.with_name(f"test_{base.stem}{name}")).is_file()), None
    )
    if file is None:
        return []
    try:
        records = _parquet(file) if file.suffix == ".parquet" else _csv(file)
        rows, counts = [], dict[int, int]()
        for record in records:
            loader = int(record.get("dataloader_idx") or 0)
            number = counts[loader] = counts.get(loader, -1) + 1
            path, category, decision = (record.get(name) or None for name in ("path", "category", "decision"))
            label, score = TRUTH[record.get("label") or ""], float(record["anomaly_score"])
            rows.append(Row(number, loader, path, category, None, label, score, decision))
    except (KeyError, ValueError, csv.Error) as error:
        raise DatasetError(
            f"'{file}' must be the table of scores that a test writes; it cannot be read ({error}). "
            f"Run: anomaly-suite test --run {run}"
        ) from error
    return _with_kinds(rows)


def _csv(file: Path) -> Iterable[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        yield from csv.DictReader(opened)


def _parquet(file: Path) -> Iterable[dict[str, str]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DatasetNotFoundError(
            f"'{file}' needs pyarrow to be read, which is not installed. Install pyarrow, or test with --table.format csv."
        ) from error
    for record in parquet.read_table(file).to_pylist():
        yield {name: "" if value is None else str(value) for name, value in record.items()}


def _with_kinds(rows: list[Row]) -> list[Row]:
    """The rows with kinds of defects, where anomalous files lie in several folders, but not each in its own."""
    kinds = [Path(row.path).parent.name if row.path else "" for row in rows]
    anomalous = {kind for kind, row in zip(kinds, rows, strict=True) if row.label == 1}
    most = min(MOST_TYPES, sum(row.label == 1 for row in rows) // 2)
    if "" in anomalous or not 2 <= len(anomalous) <= most:
        return rows
    return [row._replace(kind=kind or None) for kind, row in zip(kinds, rows, strict=True)]


# Pictures ----------------------------------------------------------------------------------------------------------------


def _panels(folder: Path, rows: list[Row]) -> tuple[dict[int, Panel], bool]:
    """Panels by row, and whether there are some that do not say what they show."""
    places = {(row.loader, row.number): place for place, row in enumerate(rows)}
    found: dict[int, Panel] = {}
    unnamed = False
    for file in sorted((folder / "test").rglob("*.png")):
        said = _said(file, "panel")
        if said is None:
            unnamed = True
            continue
        place = places.get((said.get("loader", 0), said["index"]))
        if place is not None and said.get("path") in (None, rows[place].path):
            found[place] = Panel(file, {name: tuple(where) for name, where in said["tiles"].items()})
    return found, unnamed and not found


def _curves(folder: Path, rows: list[Row]) -> dict[int, dict[str, Any]]:
    """Curves of videos by row."""
    places = {(row.loader, row.number): place for place, row in enumerate(rows)}
    found = {}
    for file in sorted((folder / "test").rglob("*.png")):
        said = _said(file, "curve")
        place = None if said is None else places.get((said.get("loader", 0), said["index"]))
        if said is not None and place is not None:
            found[place] = said
    return found


def _said(file: Path, keyword: str) -> dict[str, Any] | None:
    text = text_of(file, keyword)
    if text is None:
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) and "index" in content else None
