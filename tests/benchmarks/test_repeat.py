"""The benchmark over seeds on a tiny model: what it trains and tests, and how a later configuration finds a checkpoint."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG: dict[str, Any] = {
    "model": {"class_path": "DeepMIL", "init_args": {"feature_dim": 8, "hidden": [8, 4], "lr": 0.05}},
    "data": {
        "class_path": "SyntheticVideos",
        "init_args": {"train_size": 6, "test_size": 3, "feature_dim": 8, "train_batch_size": 4, "validation": "none"},
    },
    "trainer": {"default_root_dir": "runs/tiny", "max_epochs": 1, "log_every_n_steps": 1},
}


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("repeat")
    log.setLevel(level)  # the script makes it quiet


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return file


def test_every_seed_and_value_is_a_run(
    benchmark: ModuleType, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, folder = tmp_path / "results.jsonl", tmp_path / "kept"
    folder.mkdir()
    words = [str(config), "--results", str(results), "--seeds", "0", "1", "--vary", "train_size", "5", "6"]
    words += ["--metrics", "frame_AUROC", "video_AUROC", "--save", str(folder)]
    assert benchmark.main(words) == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(record["seed"], record["train_size"]) for record in records] == [(0, 5), (0, 6), (1, 5), (1, 6)]
    values = torch.tensor([record["metrics"]["frame_AUROC"] for record in records], dtype=torch.float64)
    assert ((values > 0) & (values <= 1)).all()
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith(f"| tiny | {values.mean():.4f} ± {values.std():.4f} | ")
    assert sorted(file.name for file in folder.iterdir()) == ["tiny-0.ckpt", "tiny-1.ckpt"]
    assert benchmark.main(words) == 0
    assert len(results.read_text().splitlines()) == 4  # nothing was repeated


def test_a_seed_in_an_option_is_filled_in(benchmark: ModuleType, config: Path) -> None:
    model = {
        "class_path": "IGD",
        "init_args": {"encoder_weights": "kept/first-{seed}.ckpt", "width": 2, "image_size": 32},
    }
    setting = benchmark.grid.Setting("second", model, CONFIG["data"], {}, {})
    built, _ = benchmark.grid.build(benchmark.Run(setting, 7, {}))
    assert built.hparams["encoder_weights"] == "kept/first-7.ckpt"


def test_what_cannot_be_run_is_told_in_one_sentence(
    benchmark: ModuleType, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            benchmark.main([str(config), "--results", str(tmp_path / "new.jsonl"), *arguments])
        return capsys.readouterr().err

    assert "whole numbers; got split a" in complaint("--vary", "split", "a")
    assert "model and data must take the options given" in complaint("--vary", "splitt", "1")
    assert "no metric 'frame_AUROK'" in complaint("--seeds", "0", "--metrics", "frame_AUROK")


def test_options_are_set_for_every_run(benchmark: ModuleType, config: Path, tmp_path: Path) -> None:
    words = [str(config), "--results", str(tmp_path / "new.jsonl"), "--seeds", "0", "--data", "train_size=5", "crops=2"]
    assert benchmark.main(words) == 0
    setting = benchmark.with_options(benchmark.grid.read_setting(config), model=["lr=0.5"], data=["train_size=5"])
    assert (setting.model["init_args"]["lr"], setting.data["init_args"]["train_size"]) == (0.5, 5)
    assert setting.digest != benchmark.grid.read_setting(config).digest
    with pytest.raises(SystemExit):
        benchmark.main([*words[:-2], "train_size"])


def test_spreads_over_subsets_and_over_seeds_are_told_apart(benchmark: ModuleType) -> None:
    values = [(0, 0.8), (1, 0.9), (0, 0.84), (1, 0.9)]  # means 0.82 and 0.9; variances 0.0008 and 0
    assert benchmark.spreads(values) == pytest.approx((0.08 / 2**0.5, 0.02))
    assert benchmark._two_spreads(values) == "0.8600 ± 0.0566 (subsets) ± 0.0200 (seeds)"
    assert benchmark._two_spreads(values[:2]) == "0.8500 ± 0.0707 (subsets)"
    assert benchmark._two_spreads([(0, 0.5)]) == "0.5000"


def test_subsets_of_labelled_anomalies(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"class_path": "SyntheticTextures", "init_args": {"train_size": 8, "test_size": 12, "image_size": 32}}
    model = {"class_path": "PaDiM", "init_args": {"weights": None, "num_channels": 8}}
    file = tmp_path / "few.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, "model": model, "data": data}))
    results = tmp_path / "few.jsonl"
    words = [str(file), "--results", str(results), "--seeds", "0", "--vary", "num_anomalous", "0", "2", "--subsets"]
    assert benchmark.main([*words, "0", "1", "--metrics", "image_AUROC"]) == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(each["num_anomalous"], each["anomalous_seed"]) for each in records] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    values = [each["metrics"]["image_AUROC"] for each in records]
    assert values[0] == values[1]  # nothing was drawn
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("subsets 0, 1: mean ± standard deviation over subsets, then over seeds")
    assert lines[-2] == f"| few, num_anomalous 0 | {values[0]:.4f} ± 0.0000 (subsets) |"
    assert lines[-1].startswith(f"| few, num_anomalous 2 | {(values[2] + values[3]) / 2:.4f} ± ")
    monkeypatch.setattr(
        benchmark.grid, "run_all", lambda runs, *rest: [{**run.key, "metrics": {"image_AUROC": 0.5}} for run in runs]
    )
    assert benchmark.main([*words, "--metrics", "image_AUROC"]) == 0
    assert "; subsets 0, 1, 2: mean" in capsys.readouterr().out
