"""What no refactoring may change, as far as it is the same on every machine: names and shapes of a tiny run of every method.

``python benchmarks/golden.py --portable tests/golden`` writes the files; values are compared by its ``--check``, on one machine.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_runs import METHODS, config, fitted, group, make_model

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("golden")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(group(name))) for name in METHODS])
def test_names_and_shapes_are_those_written_down(golden: ModuleType, name: str) -> None:
    file = GOLDEN / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"to be recorded: python benchmarks/golden.py --portable tests/golden --only {name}")
    expected, found = json.loads(file.read_text(encoding="utf-8")), golden.portable(fitted(name))
    for part in expected.keys() | found.keys():
        assert found[part] == expected[part], part


def test_variants_are_options_of_their_methods(golden: ModuleType) -> None:
    for name, variants in golden.VARIANTS.items():
        for changes in variants.values() if "pretrain" not in config(name) else ():  # those need a segmenter
            assert make_model(name, **changes)


def test_there_is_no_file_without_its_method() -> None:
    assert sorted(file.stem for file in GOLDEN.glob("*.json")) == sorted(METHODS)


@pytest.mark.parametrize(
    ("old", "new", "largest"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.5),
        (torch.tensor([math.nan]), torch.tensor([1.0]), math.inf),
        (torch.tensor([0.0]), torch.tensor([-0.0]), 0.0),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1.0),
        (torch.zeros(2), torch.zeros(1, 2), math.inf),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), math.inf),
        (0.25, 0.5, 0.25),
        (1, 1.0, math.inf),
        ("a", "b", math.inf),
    ],
)
def test_every_bit_counts(golden: ModuleType, old: object, new: object, largest: float) -> None:
    assert golden.difference(old, new)[1] == largest


@pytest.mark.parametrize("same", [torch.tensor([math.nan, 1.0]), torch.zeros(0), math.nan, 1.5, None, (1, "a")])
def test_the_same_bits_are_no_difference(golden: ModuleType, same: object) -> None:
    assert golden.difference(same, same) is None


def test_differences_are_told_by_name_unless_they_are_tolerated(golden: ModuleType) -> None:
    old, new = {"A/x": 1.0, "A/y": 2.0, "A/gone": 1}, {"A/x": 1.25, "A/y": 2.0, "A/new": 1}
    assert golden.compare(old, new, tolerances={}) == [
        "A/gone: is missing",
        "A/new: is new",
        "A/x: 1.0 -> 1.25, difference 0.25",
    ]
    assert golden.compare(old, new, tolerances={"A/[gn]*": math.inf, "A/x": 0.25}) == []
    assert golden.compare(old, new, tolerances={"A/[gn]*": math.inf, "A/x": 0.2}) != []


@pytest.mark.xdist_group("DeepMIL")
def test_a_changed_value_is_found(
    golden: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, words = tmp_path / "golden.pt", ["--only", "DeepMIL"]
    monkeypatch.setattr(golden, "VARIANTS", {})
    assert golden.main(["--write", str(file), *words]) == 0
    assert golden.main(["--check", str(file), *words]) == 0
    written = torch.load(file, weights_only=True)
    written["DeepMIL/state/scorer.0.bias"][3] += 0.5
    torch.save(written, file)
    assert golden.main(["--check", str(file), *words]) == 1
    assert "DeepMIL/state/scorer.0.bias: 1 of 32 values, largest difference 0.5\n" in capsys.readouterr().out
