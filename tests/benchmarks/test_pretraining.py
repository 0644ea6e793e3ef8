"""The benchmark of pre-trainings on tiny inputs: the losses compared are equal where they should be, and every case reports."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("pretraining")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("right_labels", [True, False])
def test_our_loss_is_the_released_one_with_labels_put_right(bench: ModuleType, right_labels: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(12, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.manual_seed(0)
    heads = bench.Heads(16, 4).double()
    released = bench.released_loss(feature, label, heads, right_labels=right_labels)
    ours = bench.our_loss(bench.blocks(feature), label, heads)
    assert torch.isclose(released, ours, rtol=1e-10) == right_labels
    gradients = [torch.autograd.grad(loss, feature)[0] for loss in (released, ours)]
    assert torch.allclose(*gradients, rtol=1e-8, atol=1e-12) == right_labels


def test_most_released_labels_belong_to_another_item(bench: ModuleType) -> None:
    item = torch.arange(32)
    assert int((item.repeat(2) == item.repeat_interleave(2)).sum()) == 2  # the first and the last view


def test_one_json_with_every_case(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pretraining.json"
    words = ["--batch", "4", "--size", "32", "--rounds", "1", "--json", str(file)]
    assert bench.main([*words, "--only", "ccd_loss,step_PMSACL,medmix"]) == 0
    cases = json.loads(file.read_text())["cases"]
    assert set(cases) == {"ccd_loss", "step_PMSACL", "step_PMSACL_one", "medmix"}
    assert [cases[f"step_{name}"]["views"] for name in ("PMSACL", "PMSACL_one")] == [32, 8]
    assert 0 < cases["step_PMSACL"]["share"] < 1
    value = cases["ccd_loss"]["value"]
    assert value["ours"] == pytest.approx(value["released, labels put right"], rel=1e-5)  # float32
    assert cases["medmix"]["all_images_per_s"] == pytest.approx(16 / cases["medmix"]["all_least_cpu_s"], rel=0.01)
    capsys.readouterr()
    assert bench.main([*words, "--only", "medmix"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == cases  # nothing was measured again
