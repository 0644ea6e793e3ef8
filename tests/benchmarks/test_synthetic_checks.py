"""The synthetic checks of pre-trainings in a few steps: every figure of the table is measured, and what is measured is not measured again."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("synthetic_checks")


def test_figures_and_a_table_that_goes_on(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = bench.fit
    monkeypatch.setattr(
        bench, "fit", lambda model, image, steps, **more: fit(model, image[:8], 4, **{**more, "batch_size": 4})
    )
    monkeypatch.setattr(bench, "ENCODER", {**bench.ENCODER, "width": 2})
    options = ["--results", str(tmp_path / "checks.jsonl"), "--seeds", "0"]
    assert bench.main(options) == 0
    table = capsys.readouterr().out
    assert all(f"| {figure} |" in table for figure in bench.WANTED)
    monkeypatch.setattr(bench, "fit", lambda *_, **__: pytest.fail("it is in the file already"))
    assert bench.main(options) == 0
    assert capsys.readouterr().out == table


def test_classes_far_apart_are_dense(bench: ModuleType) -> None:
    class Known:
        num_strong = 4

        def make_views(self, image: torch.Tensor, draws: object) -> object:
            label = torch.arange(4).repeat(2)
            return type("Views", (), {"image": torch.eye(4)[label] + 0.1 * torch.eye(8)[:, :4], "label": label})

        encoder = projection = staticmethod(lambda x: x)

    # Two points of a class are 0.1 apart where the first four views have their own column moved, so 0.05 from their mean.
    assert bench.density(Known(), torch.rand(1)) == pytest.approx(0.05 / (2**0.5 * 1.05), rel=1e-3)
