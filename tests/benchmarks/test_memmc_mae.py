"""The script of MemMC-MAE's ablation: what is read, what a training writes, and its table."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from anomaly_suite.methods import MemMCMAE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("memmc_mae")


def test_variants_are_rows_of_the_ablation(bench: ModuleType) -> None:
    plain, memory, whole = (MemMCMAE(size="tiny", image_size=16, patch_size=4, **it) for it in bench.VARIANTS.values())
    kinds = [
        (any(".memory_" in name for name, _ in model.named_parameters()), model.decoder.levels > 0, model.encoder.skips)
        for model in (plain, memory, whole)
    ]
    assert kinds == [(False, False, False), (True, False, False), (True, True, True)]


def test_a_training_is_written_once_and_tabled(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = bench.Images(torch.rand(4, 3, 16, 16), torch.rand(6, 3, 16, 16), torch.tensor([0, 0, 0, 1, 1, 1]))
    threads = torch.get_num_threads()
    monkeypatch.setitem(bench.SETS, "digits", bench.Set(lambda root, part: images, ("0",), 1))
    monkeypatch.setattr(bench, "VARIANTS", {"MAE": bench.VARIANTS["MAE"]})
    words = ["--sets", "digits", "--seeds", "0", "--results", str(tmp_path / "results.jsonl")]
    for _ in range(2):
        assert bench.main(words) == 0
    torch.set_num_threads(threads)
    (record,) = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert list(record["auroc"]) == list(bench.SCORES)
    value = record["auroc"]["mse, masked, 10 seeds"]
    assert f"| MAE | {value:.4f} |" in capsys.readouterr().out


def test_real_sets(bench: ModuleType, real_data: Path) -> None:
    if not (real_data / "hyper_kvasir_sample").is_dir():
        pytest.skip("no sample of Hyper-Kvasir")
    kvasir = bench.hyper_kvasir_sample(real_data, "")
    assert kvasir.mask.flatten(1).any(1).tolist() == (kvasir.label == 1).tolist()
    assert kvasir.mask[kvasir.label == 1].float().mean((1, 2, 3)).min() > 0.4
    assert len(kvasir.train) >= 80
    assert 20 < kvasir.label.sum() < len(kvasir.label) / 2
