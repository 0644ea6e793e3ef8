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

PHASES = {
    "ADACL",
    "FAnoGAN",
    "IGD",
    "PaDiM",
}  # one optimiser, three networks in turn, statistics between epochs, a single pass
USUAL = {*PHASES, "CTMIL", "DeepSVDD", "PEBAL", "RTFM", "StudentTeacher"}
WHOLE = {*USUAL, "ADGAN", "CCD", "DeepLabV3Plus", "FSADNet"}
KEPT = {
    "contract/test_averaging.py": {"ADACL", "DeepMIL", "IGD", "PaDiM"},
    "contract/test_compile.py": {"DeepMIL", "IGD", "PaDiM"},
    "contract/test_export.py": {"ADACL", "DeepMIL", "PaDiM"},
    "contract/test_finite.py": {*USUAL, "CCD", "DeepLabV3Plus", "PMSACL"},
    "contract/test_labels.py": {"ADACL", "CCD", "DeepSVDD", "FSADNet", "PANDA", "PaDiM", "SupCon", "SupervisedHead"},
    "contract/test_precision.py": {"ADACL", "DeepMIL", "IGD", "PaDiM"},
    "contract/test_processes.py": {*USUAL, "PANDA", "PMSACL"},
    "contract/test_resume.py": {*USUAL, "ADGAN", "FSADNet", "PMSACL"},
    "contract/test_run_ends.py": {*USUAL, "ADGAN", "FSADNet"},
    "contract/test_state_dict.py": {"ADACL", "CTMIL", "DeepSVDD", "FSADNet", "IGD", "PaDiM"},
    "contract/test_unreadable.py": {"ADACL", "CTMIL", "IGD", "PaDiM"},
    "test_contract.py": WHOLE,
    "test_golden.py": WHOLE,
}
"""By file the methods that ``make test`` tries: they go every way that there is. The others are tried with ``make test-all`` alone."""
LEFT = {
    "benchmarks/test_mutations.py": ("faults_of_a_small_package",),
    "cli/test_samples.py": ("_ablation_", "_contaminated", "_small"),
    "test_notebooks.py": ("draws[driving_scenes", "draws[own_method", "draws[video"),
}
"""By file parts of the names of tests that ``make test`` leaves out."""
UNTRACED = (
    *(
        "cli/test_lightning.py",
        "cli/test_parser_errors.py",
        "cli/test_samples.py",
        "cli/verbs/test_chain.py",
        "cli/verbs/test_run.py",
    ),
    *(
        "contract/",
        "test_architecture.py",
        "test_contract.py",
        "test_docs.py",
        "test_golden.py",
        "test_notebooks.py",
        "test_readme.py",
    ),
)
"""Whole commands and fits, whose lines tests of the parts run as well: coverage would double their time, of which the parser takes most."""
TESTS = Path(__file__).parent
METHODS = {file.stem for file in (TESTS / "configs").glob("*.yaml")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make test`` leaves out."""
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")  # type: ignore[attr-defined]
        file = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        if (name in METHODS and name not in KEPT.get(file, METHODS)) or any(
            part in item.name for part in LEFT.get(file, ())
        ):
            item.add_marker("matrix")
        if file.startswith(UNTRACED):
            item.add_marker("no_cover")


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


@pytest.fixture(autouse=True)
def as_loud_as_before() -> Iterator[None]:
    """Scripts silence Lightning for their process; the next test wants to hear it."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    yield
    log.setLevel(level)


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
