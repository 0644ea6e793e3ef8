"""The table of wrong inputs is long and each of its kinds ends in a sentence; the script tells sentences from everything else."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FEW = (
    "command: fitt",
    "fit: --trainer.devices 4.5",
    "second file: model: [}",
    "folder: MVTecAD --data.root nowhere nothing",
    "option: ADACL(labels='continous')",
    "option: PMSACL(alpha=0)",
    "command: fit --then nowhere.yaml",
    "use: predict --run gone_class new",
    "use: train {fit} --trainer.fast_dev_run true",
    "batch: ADACL called images(2, 3)",
    "call: as_batch({'image': torch.rand(2, 3, 4, 4), 'label': ['good', 'bad']})",
)
forks = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="cases run in forked processes"
)


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("wrong_inputs")


def test_the_table_has_every_kind(bench: ModuleType) -> None:
    found = bench.cases()
    assert len({case.key for case in found}) == len(found) >= 1000
    assert {case.kind for case in found} == {
        *("command", "fit", "later", "second file", "file", "folder", "option", "batch", "call", "use"),
    }
    assert all(bool(case.words) != bool(case.code) for case in found)


@forks
@pytest.mark.parametrize("key", FEW)
def test_a_few_end_in_a_sentence(bench: ModuleType, key: str) -> None:
    (case,) = [case for case in bench.cases() if case.key == key]
    record = bench.try_case(case, {})
    assert record["outcome"] == "sentence", record["said"]


@forks
def test_what_is_no_sentence_is_told(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    codes = {
        "traceback": "ADACL.nothing",
        "accepted": "ADACL(widths=(4, 4, 4, 4))",
        "untidy": "raise ConfigError('short')",
        "hangs": "while True: pass",
    }
    prepared = {
        name: bench.Case("call", name, code=f"from anomaly_suite.errors import ConfigError\n{code}")
        for name, code in codes.items()
    }
    records = [bench.try_case(case, {}, limit=1.5) for case in prepared.values()]
    assert [record["outcome"] for record in records] == list(codes)
    assert "AttributeError" in records[0]["said"]
    assert bench.report(records) == 1
    said = capsys.readouterr().out
    assert "hangs     call: hangs" in said
    assert bench.report(records[:0]) == 0
