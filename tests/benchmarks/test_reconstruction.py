"""The benchmark of reconstruction methods on tiny inputs: it measures what it says, and its plain network is ours."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from anomaly_suite.methods import MemMCMAE
from anomaly_suite.nn.patch_tokens import draw_visible

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("reconstruction")


def test_the_network_of_timms_blocks_is_our_plain_one(bench: ModuleType) -> None:
    theirs = bench.TimmMAE("tiny", image_size=16, patch_size=4)
    ours = MemMCMAE(size="tiny", image_size=16, patch_size=4, **bench.PLAIN)
    assert sum(weight.numel() for weight in theirs.parameters()) == sum(weight.numel() for weight in ours.parameters())
    visible = draw_visible(2, 16, 4, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(theirs.loss(torch.rand(2, 3, 16, 16), visible))


def test_costs_by_hand(bench: ModuleType) -> None:
    cost = bench.forward_cost("base", patches=196, patch_size=16)
    assert cost["plain"] == pytest.approx(9.67, abs=0.01)
    # Gates of channels take 24 of the 28 squares that a block's decoder has for each of its tokens and levels.
    assert cost["channel gates"] - cost["memory"] > 1.7 * cost["plain"]
    assert cost["scalar gates"] < 1.5 * cost["plain"]


def test_one_json_with_every_case(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    words = ["--batch", "1", "--rounds", "1", "--size", "tiny", "--image-size", "16", "--patch-size", "4"]
    file = tmp_path / "reconstruction.json"
    assert bench.main([*words, "--only", "MemMCMAE_plain,base,seeds_base", "--json", str(file)]) == 0
    torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(file.read_text())
    assert list(report["cases"]) == ["MemMCMAE_plain", "base", "seeds_base"]
    assert report["cases"]["MemMCMAE_plain"]["cpu_s"].keys() == {"step", "scores"}
    assert list(report["cases"]["base"]["ratio"]) == ["plain", "memory", "scalar gates", "channel gates"]
    for case in report["cases"].values():
        assert all(0 < spent < 10 for spent in case["cpu_s"].values())
