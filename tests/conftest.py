"""Fixtures shared by all tests: where real data lies, and a quiet trainer."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first, as a command line has it: typing keeps one order of int | float for all, by which 1 batch or all are parsed
import pytest
import sklearn.datasets
import torch
from lightning.fabric.utilities import registry
from lightning.pytorch import Trainer

torch.set_num_threads(1)  # two test processes share two cores
logging.getLogger(
    "lightning.pytorch"
).propagate = True  # to caplog, at the root; Lightning lets go if nobody listens when it is imported

SCENES = {
    "DeepGamblers",
    "EntropyMaximisation",
    "PostHocScore",
}  # they share network and loops with DeepLabV3Plus and PEBAL
TUNED = {"DeepGamblers", "EntropyMaximisation"}  # they share all but a loss with PEBAL
CONTRASTS = {"CSI", "DROC", "SimCLR", "SupCon"}  # they share all but a loss with CCD and PMSACL
MATRIX = {
    "contract/test_averaging.py": {
        *SCENES,
        *CONTRASTS,
        *("DeepLabV3Plus", "KnowledgeDistillation", "MSSSIMAutoencoder", "PEBAL", "PMSACL", "RTFM", "RotNet", "VAE"),
    },
    "contract/test_compile.py": {
        *SCENES,
        *CONTRASTS,
        "CCD",
        "ALPS",
        "PMSACL",
        "RotNet",
        "DeepLabV3Plus",
        "KnowledgeDistillation",
        "MSSSIMAutoencoder",
        "PEBAL",
        "StudentTeacher",
    }
    | {"CTMIL", "CutPaste", "DeepSVDD", "RTFM", "VAE"},
    "contract/test_export.py": {
        *SCENES,
        *CONTRASTS,
        "ALPS",
        "CCD",
        "CTMIL",
        "DAE",
        "DeepLabV3Plus",
        "PMSACL",
        "RotNet",
        "FAnoGAN",
        "KnowledgeDistillation",
        "MSSSIMAutoencoder",
        "PEBAL",
        "RTFM",
        "StudentTeacher",
    }
    | {"CutPaste", "DeepSVDD", "VAE"},
    "contract/test_finite.py": {*SCENES, *CONTRASTS},
    "contract/test_precision.py": {
        *SCENES,
        *CONTRASTS,
        *("ALPS", "DAE", "DeepSVDD", "KnowledgeDistillation"),
        *("CutPaste", "DeepLabV3Plus", "MSSSIMAutoencoder", "PMSACL", "RTFM", "RotNet", "StudentTeacher", "VAE"),
    },
    "contract/test_processes.py": {*CONTRASTS, "RotNet", "DeepGamblers", "EntropyMaximisation"},
    "contract/test_resume.py": {*TUNED, *CONTRASTS, "RotNet"},
    "contract/test_run_ends.py": {*TUNED, *CONTRASTS, "RotNet"},
    "contract/test_state_dict.py": {*SCENES, *CONTRASTS, "KnowledgeDistillation", "MSSSIMAutoencoder", "RotNet", "VAE"},
    "contract/test_unreadable.py": {
        *SCENES,
        *CONTRASTS,
        *("ALPS", "CCD", "CutPaste", "DeepLabV3Plus", "KnowledgeDistillation", "PEBAL", "PMSACL", "RotNet", "VAE"),
    },
    "test_contract.py": {*TUNED, *CONTRASTS},
    "test_golden.py": CONTRASTS,
}
"""By file the methods that are tried with ``make test-all`` alone: others, which stay, go the same ways in less time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make test`` leaves out."""
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")  # type: ignore[attr-defined]
        if any(item.path.as_posix().endswith(f"tests/{file}") and name in names for file, names in MATRIX.items()):
            item.add_marker("matrix")


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """Read once what every fit reads anew, a fifth of a short one: installed packages for those that add callbacks, and the digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lru_cache(registry.entry_points))
        patch.setattr(sklearn.datasets, "load_digits", lru_cache(sklearn.datasets.load_digits))
        yield


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


@pytest.fixture
def two_processes() -> dict[str, Any]:
    """Trainer options for two processes.

    They are forked where they can be: a fresh interpreter takes seconds to import everything again. After a backward pass on
    a machine with a GPU, autograd refuses to work in a forked process.
    """
    forked = "fork" in multiprocessing.get_all_start_methods() and not torch.cuda.is_available()
    return {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork" if forked else "ddp_spawn"}
