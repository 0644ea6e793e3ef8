"""Lists of file names by split and label, as the ``data.json`` of DDAD and MedIAnomaly.

``{"train": {"0": [...], "unlabeled": {"0": [...], "1": [...]}}, "test": {"0": [...], "1": [...]}}``: 0 is normal. What is unlabeled belongs
to another method, and is neither trained on nor tested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.rows import read_text

KNOWN = {"train": ("0", "unlabeled"), "test": ("0", "1"), "unlabeled": ("0", "1")}


class LabelLists(NamedTuple):
    """File names of training normals, and of normal and anomalous test images."""

    train: list[str]
    normal: list[str]
    anomalous: list[str]


def read_label_lists(file: Path) -> LabelLists:
    """Read the three lists and check all.

    Args:
        file: The JSON file.

    Raises:
        DatasetError: it has another form, a label that is not known, anomalies for training, or a name twice.
    """
    try:
        content: Any = json.loads(read_text(file))
    except ValueError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"'{file}' is no JSON ({error}). Restore the published file.") from error
    parts = {name: _part(content, name, file) for name in ("train", "test")}
    parts["unlabeled"] = _part(parts["train"], "unlabeled", file) if "unlabeled" in parts["train"] else {}
    seen: dict[str, str] = {}
    lists = {
        (part, label): names
        for part, labels in parts.items()
        for label, names in labels.items()
        if label != "unlabeled"
    }
    for (part, label), names in lists.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DatasetError(f"{part}.{label} of '{file}' must be a list of file names. Restore the published file.")
        for name in names:
            place = f"{part}.{label}"
            if name in seen:
                raise DatasetError(
                    f"'{file}' lists {name!r} in {seen[name]} and in {place}. Restore the published file, or leave one out."
                )
            seen[name] = place
    found = [lists.get(key, []) for key in (("train", "0"), ("test", "0"), ("test", "1"))]
    if not all(found):
        raise DatasetError(
            f"'{file}' must list images in train.0, test.0 and test.1; one is empty. Restore the published file."
        )
    return LabelLists(*found)


def _part(content: Any, name: str, file: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        raise DatasetError(f"'{file}' has no mapping {name!r} of labels to file names. Restore the published file.")
    part: dict[str, Any] = content[name]
    for label in part:
        if name == "train" and label == "1":
            raise DatasetError(
                f"'{file}' lists anomalies for training (train.1), but one-class training takes normal images only. Move them to test.1."
            )
        if label not in KNOWN[name]:
            raise DatasetError(
                f"a label in {name!r} of '{file}' must be one of {', '.join(KNOWN[name])}; got {label!r}. Restore the published file."
            )
    return part
