"""The benchmark of labelled anomalies on a tiny budget: its cells, one of each kind, and its tables."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from anomaly_suite.data import Digits

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def few_shot(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("few_shot")
    for name, value in {"SIDE": 24, "FIRST_STEPS": 2, "BATCH": 32}.items():
        monkeypatch.setattr(module, name, value)
    rows = {name: row._replace(steps=2) for name, row in module.VARIANTS.items() if "DenseNet" not in name}
    monkeypatch.setattr(module, "VARIANTS", rows)
    return module


def test_every_subset_has_every_row(few_shot: ModuleType) -> None:
    found = list(few_shot.cells(["tile"], typed=False))
    assert len(found) == 3 * 5 * len(few_shot.VARIANTS) + 2  # and two scores without labels
    assert [cell["subset"] for _, cell in found] == sorted(cell["subset"] for _, cell in found)
    typed = [cell for _, cell in few_shot.cells(["mnist_8", "tile"], typed=True, subsets=(1,))]
    assert {(cell["kind"], cell["k"]) for cell in typed} == {(kind, 40) for kind in few_shot.TYPES["tile"]}


@pytest.mark.matrix
def test_a_cell_of_each_kind(few_shot: ModuleType, tmp_path: Path) -> None:
    data = partial(Digits, normal_class=8, image_size=24)
    for cell in (
        {"variant": "AE network", "k": 0, "subset": 0, "kind": None},
        {"variant": "learning to reweight", "k": 10, "subset": 1, "kind": None},
        {"variant": "FSAD-Net", "k": 10, "subset": 1, "kind": "3"},
    ):
        found = few_shot.measure(tmp_path, "digits", data, cell)
        assert 0 < found["auroc"] < 1
        assert ("seen" in found) == (cell["kind"] is not None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-autoencoder.ckpt", "digits-infomax.ckpt"]


@pytest.mark.parametrize("row", ["FSAD-Net", "learning to reweight"])
def test_codes_computed_once_train_the_same_network(few_shot: ModuleType, row: str) -> None:
    found = []
    for once in (True, False):
        torch.manual_seed(0)
        variant = few_shot.VARIANTS[row]
        model = variant.build(image_size=24, encoder_weights=None)
        data = Digits(
            normal_class=8,
            image_size=24,
            num_anomalous=10,
            balanced=variant.balanced,
            train_batch_size=64,
            validation="none",
        )
        if once:
            few_shot.fit_on_codes(model, data, 4)  # into a second epoch
        else:
            few_shot.trainer(max_steps=4).fit(model, datamodule=data)
        found.append(torch.cat([weight.flatten() for weight in model.scorer.parameters()]).detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)  # codes of other batches differ in the last bits


def test_tables_take_the_digits_together(few_shot: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def record(data: str, subset: int, auroc: float, **more: Any) -> dict[str, Any]:
        cell = {"data": data, "variant": "FSAD-Net", "k": 10, "subset": subset, "kind": None}
        return {**cell, "auroc": auroc, **more}

    records = [
        record("mnist_3", 0, 0.5),
        record("mnist_8", 0, 0.7),
        record("mnist_3", 1, 0.8),
        record("mnist_8", 1, 0.8),
    ]
    records += [{**record("tile", 0, 0.6, seen=0.9, unseen=0.4), "kind": "break"}]
    few_shot.print_tables(records)
    text = capsys.readouterr().out
    assert "| FSAD-Net |  | 0.700 ± 0.141 |" in text
    assert "| tile | break | FSAD-Net | 0.900 | 0.400 |" in text
