"""``metrics.json``: the tests of a run, each on a data set of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA_SETS = "data_sets"
"""Key of the tests by data set; beside it stands the last test, as it was before there were several."""


def by_data_set(file: Path, identity: str | None = None) -> dict[str, dict[str, Any]]:
    """What a result file says of the last test on each data set, by its name.

    Args:
        file: It may be missing, or be of a program that kept the last test alone.
        identity: Of the run; tests of another one that was in the folder before are left out. None for all.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    found = content.get(DATA_SETS) or ({str(content["dataset"]): content} if "dataset" in content else {})
    return {name: test for name, test in found.items() if identity is None or test.get("run", "") in (None, identity)}
