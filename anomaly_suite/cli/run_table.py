"""The runs in a folder as a table: what ``list runs`` prints."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from anomaly_suite.cli.verbs.list import print_rows
from anomaly_suite.cli.verbs.report import sections_of
from anomaly_suite.errors import DatasetNotFoundError
from anomaly_suite.io.atomic import printable
from anomaly_suite.io.results import by_data_set
from anomaly_suite.io.runs import CONFIG, all_runs, data_name, read_record, state_of

MAIN = (  # metrics that are shown, the first three that a test has
    *("image_AUROC", "pixel_AUROC", "pixel_AUPRO", "pixel_AP", "pixel_FPR95", "frame_AUROC", "video_AUROC", "frame_AP"),
    *("image_AP", "video_AP", "mIoU", "MeanF1"),
)
SHOWN = 3


def list_runs(root: Path) -> None:
    """Print a line for each run in a folder.

    Args:
        root: The folder.

    Raises:
        DatasetNotFoundError: no such folder, or no run in it.
    """
    folders = all_runs(root)
    if not folders:
        raise DatasetNotFoundError(
            f"no run in '{root}'; expected a folder that fit wrote to. Give another: list runs FOLDER."
        )
    rows: list[tuple[str, ...]] = [("run", "method", "data", "seed", "state", "began", "metrics")]
    rows += [_row_of(folder) for folder in folders]
    print_rows([[printable(cell) for cell in row] for row in rows])
    states = [row[4] for row in rows[1:]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(f"{len(folders)} runs in {root}: {counts}")


def _row_of(folder: Path) -> tuple[str, ...]:
    """What is known of a run without loading its classes."""
    record, state = read_record(folder), state_of(folder)
    if "method" not in record:  # of an older program
        record = {**_asked_of(folder), **record}
    began = str(record.get("started") or "")[:16].replace("T", " ")
    if not began:
        began = datetime.fromtimestamp(folder.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d %H:%M")
    metrics = _main_metrics(folder) or str(record.get("error") or "")
    return (str(folder), *(str(record.get(key, "")) for key in ("method", "data", "seed")), state, began, metrics)


def _asked_of(folder: Path) -> dict[str, Any]:
    """Method, data and seed as configured; nothing where that cannot be read."""
    try:
        content = yaml.load(
            (folder / CONFIG).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        method, data = (str(content[part]["class_path"]).rpartition(".")[2] for part in ("model", "data"))
        name = data_name(data, content["data"].get("init_args") or {})
        return {"method": method, "data": name, "seed": content.get("seed_everything", "")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return {}


def _main_metrics(folder: Path) -> str:
    """The main metrics of each data set that a run was tested on."""
    found = []
    for name, test in by_data_set(folder / "metrics.json", read_record(folder).get("id")).items():
        metrics = {
            name: value for part in sections_of(test).values() for name, value in part.get("metrics", {}).items()
        }
        shown = [f"{key} {metrics[key]:.4f}" for key in MAIN if isinstance(metrics.get(key), float)][:SHOWN]
        if shown:
            found.append((name, ", ".join(shown)))
    return "; ".join(text if len(found) == 1 else f"{name}: {text}" for name, text in found)
