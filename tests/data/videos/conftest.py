"""Files of snippet features, written into the test's own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write one array below the test's folder: features (T, C, D) that depend on the name, or the given values."""

    def make(name: str, snippets: int = 3, *, crops: int = 2, width: int = 4, values: Any = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is None:
            values = np.random.default_rng(list(name.encode())).random((snippets, crops, width), dtype=np.float32)
        np.save(path, np.asarray(values))
        return path

    return make
