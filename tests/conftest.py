"""Fixtures shared by all tests: where real data lies, and a quiet trainer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

torch.set_num_threads(1)  # two test processes share two cores


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers, whichever tests ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; the test is skipped where there is none."""
    fallback = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ANOMALY_SUITE_DATA", fallback))
    if not folder.is_dir():
        pytest.skip("set ANOMALY_SUITE_DATA to the folder of the real data sets")
    return folder


@pytest.fixture
def trainer_in(tmp_path: Path) -> Callable[..., Trainer]:
    """A trainer that prints nothing and writes below the test's own folder."""

    def make(**options: Any) -> Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "max_epochs": 1,
        }
        return Trainer(**{**defaults, **options})

    return make
