"""The list of faults fits the package, and the script says of each whether tests notice it."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("mutations")


def test_every_fault_fits_the_package(bench: ModuleType) -> None:
    found = bench.faults()
    assert bench.problems(ROOT, found) == []
    assert len({fault.key for fault in found}) == len(found) >= 100
    for fault in found:
        content = (ROOT / "anomaly_suite" / fault.file).read_text(encoding="utf-8")
        ast.parse(content.replace(fault.old, fault.new))


def test_tests_of_a_fault(bench: ModuleType) -> None:
    fault = bench.Fault("methods/weak_video/bags.py", "", "", ("RTFM", "nn/test_lenet.py"))
    chosen = bench.select(ROOT, fault)
    assert chosen.methods == ("RTFM",)
    assert chosen.paths[:3] == (
        "anomaly_suite/methods/weak_video/bags.py", "tests/methods/weak_video/test_bags.py", "tests/nn/test_lenet.py",
    )  # fmt: skip
    assert chosen.paths[-1] == "tests/test_contract.py"
    assert bench.select(ROOT, bench.Fault("methods/reconstruction/dae.py", "", "")).methods == ("DAE", "VAE")


def test_wrong_entries_are_told(bench: ModuleType) -> None:
    cases = {
        "stands in the file 0 times": ("losses.py", "no such text", "x"),
        "times, not once": ("losses.py", "return", "x"),
        "changes nothing": ("losses.py", "SIGMA = 1.5", "SIGMA = 1.5"),
        "no test file mirrors": ("codes.py", "VOID = 255", "VOID = 256"),
        "there is no tests/nonsense.py": ("losses.py", "SIGMA = 1.5", "SIGMA = 1.6", ("nonsense.py",)),
    }
    for message, entry in cases.items():
        (problem,) = bench.problems(ROOT, [bench.Fault(*entry)])
        assert message in problem


@pytest.mark.slow
def test_faults_of_a_small_package(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "small"
    files = {
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "anomaly_suite/__init__.py": "",
        "anomaly_suite/sums.py": "import math\n\n\ndef double(v):\n    return 2 * v\n\n\ndef half(v):\n    return v / 2\n",
        "tests/test_sums.py": "from anomaly_suite.sums import double\n\n\ndef test_double():\n    assert double(2) == 4\n",
    }
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    monkeypatch.setattr(bench, "WARM", ())
    results = tmp_path / "results.jsonl"
    table = [
        ("sums.py", "2 * v", "3 * v"),
        ("sums.py", "v / 2", "v / 3"),
        ("sums.py", "import math", "import nonsense"),
    ]
    assert bench.main(["--results", str(results), "--jobs", "2"], root=tree, table=table) == 1
    found = {record["old"]: record for record in map(json.loads, results.read_text().splitlines())}
    assert {old: record["outcome"] for old, record in found.items()} == {
        "2 * v": "noticed", "v / 2": "survived", "import math": "error",
    }  # fmt: skip
    assert found["2 * v"]["by"] == "tests/test_sums.py::test_double"
    assert "nonsense" in found["import math"]["output"]
    said = capfd.readouterr().out
    assert "survived: sums.py: 'v / 2' -> 'v / 3'" in said
    assert "1 noticed, 1 survived, 1 error of 3 faults" in said
    assert (tree / "anomaly_suite/sums.py").read_text() == files["anomaly_suite/sums.py"]  # faults are put into copies
    # Outcomes are kept; --again takes up all but what was noticed.
    assert bench.main(["--results", str(results)], root=tree, table=table[:1]) == 0
    assert bench.main(["--results", str(results), "--again"], root=tree, table=table[:2]) == 1
    assert len(results.read_text().splitlines()) == 4
    assert bench.main(["--sound"], root=tree, table=table) == 0
