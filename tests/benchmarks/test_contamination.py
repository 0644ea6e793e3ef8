"""The contamination benchmark on a tiny model: what it trains, what it writes, and that it goes on where it stopped."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from sklearn.metrics import roc_auc_score

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG: dict[str, Any] = {
    "model": {
        "class_path": "DeepSVDD",
        "init_args": {"image_size": 16, "widths": [4, 4], "latent_dim": 16, "ae_epochs": 4, "lr_milestones": [3]},
    },
    "data": {"class_path": "Digits", "init_args": {"image_size": 16, "validation": "holdout", "train_batch_size": 32}},
    "trainer": {"default_root_dir": "runs/tiny", "max_epochs": 8, "log_every_n_steps": 1},
}


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("contamination")
    log.setLevel(level)  # the script makes it quiet


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return file


def words(config: Path, results: Path, *further: str) -> list[str]:
    fixed = ["--levels", "0", "0.1", "--seeds", "0", "1", "--classes", "0", "1", "--epochs", "2"]
    return [str(config), "--results", str(results), *fixed, "--test-per-class", "5", *further]


def test_every_run_is_a_line_and_none_is_repeated(
    benchmark: ModuleType,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = tmp_path / "new" / "results.jsonl"
    assert benchmark.main(words(config, results)) == 0
    table = capsys.readouterr().out
    records = [json.loads(line) for line in results.read_text().splitlines()]
    done = [(record["contamination"], record["seed"], record["normal_class"]) for record in records]
    assert done == [(level, seed, digit) for level in (0.0, 0.1) for seed in (0, 1) for digit in (0, 1)]
    for record in records:
        normals = {0: 119, 1: 121}[record["normal_class"]]  # 2/3 of 178 and of 182: validation takes none
        anomalous = 13 if record["contamination"] else 0  # 0.1 of the training set: 13 of 132 and of 134
        assert record["train_images"] == normals + anomalous
        assert record["anomalous_train_images"] == anomalous
        assert (record["normal_test_images"], record["anomalous_test_images"]) == (5, 45)
        assert 0 < record["auroc"] <= 1
        assert (record["method"], record["data"], record["epochs"]) == ("DeepSVDD", "Digits", 2)
    assert len({record["auroc"] for record in records}) > 4  # level, seed and class all matter

    kept = results.read_text().splitlines()
    results.write_text("\n".join(kept[:3] + kept[4:]) + "\n")
    train, trained = benchmark.train_and_test, []

    def record_and_train(run: Any, **options: Any) -> dict[str, Any]:
        trained.append((run.options["contamination"], run.seed, run.options["normal_class"]))
        return train(run, **options)  # type: ignore[no-any-return]  # a module of no package

    monkeypatch.setattr(benchmark, "train_and_test", record_and_train)
    assert benchmark.main(words(config, results)) == 0
    assert trained == [done[3]]
    assert capsys.readouterr().out == table
    again = json.loads(results.read_text().splitlines()[-1])
    assert again["auroc"] == json.loads(kept[3])["auroc"]  # and so is the random state of a run its own
    assert benchmark.main(words(config, results, "--train-fraction", "0.5")) == 0  # other settings are other runs
    assert len(trained) == 9


def test_auroc_is_that_of_a_model_trained_by_hand(
    benchmark: ModuleType, config: Path, trainer_in: Callable[..., Trainer]
) -> None:
    setting = benchmark.read_setting(config, epochs=None, train_fraction=0.5, test_per_class=None)
    run = benchmark.Run(setting, 3, {"contamination": 0.1, "normal_class": 2})
    record = benchmark.train_and_test(run, accelerator="cpu")
    model, data = benchmark.grid.build(run)
    assert (data.contamination, data.seed, data.normal_class, data.train_fraction) == (0.1, 3, 2, 0.5)
    assert data.validation == "none"
    trainer_in(max_epochs=8).fit(model, train_dataloaders=data.train_dataloader())
    with torch.no_grad():
        batches = [(model.eval()(batch["image"])[0], batch["label"]) for batch in data.test_dataloader()]
    score, label = (torch.cat(part).numpy() for part in zip(*batches, strict=True))
    assert record["auroc"] == pytest.approx(roc_auc_score(label, score))
    assert record["anomalous_test_images"] == label.sum()


def test_epochs_of_the_phases_shrink_with_all_epochs(benchmark: ModuleType, config: Path) -> None:
    plain, short = (
        benchmark.read_setting(config, epochs=epochs, train_fraction=None, test_per_class=None) for epochs in (None, 2)
    )
    assert (plain.trainer["max_epochs"], plain.model["init_args"]["ae_epochs"]) == (8, 4)
    assert (short.trainer["max_epochs"], short.model["init_args"]["ae_epochs"]) == (2, 1)
    assert short.model["init_args"]["lr_milestones"] == [3]
    assert plain.digest != short.digest


def test_table_is_mean_over_classes_then_seeds(benchmark: ModuleType) -> None:
    setting = benchmark.Setting("tiny", {}, {}, {}, {})
    runs = [
        benchmark.Run(setting, seed, {"contamination": level, "normal_class": digit})
        for level in (0.0, 0.05)
        for seed in (0, 1)
        for digit in (0, 1)
    ]
    values = [0.9, 1.0, 0.8, 0.9, 0.6, 0.6, 0.7, 0.7]
    records = [{**run.key, "auroc": value} for run, value in zip(runs, values, strict=True)]
    lines = benchmark.table(runs, records).splitlines()
    assert lines == ["| | 0 % | 5 % |", "|---|---|---|", "| tiny | 0.9000 ± 0.0707 | 0.6500 ± 0.0707 |"]
    assert benchmark.table(runs[:2], records).splitlines()[-1] == "| tiny | 0.9500 |"  # one seed has no spread


def test_what_cannot_be_run_is_told_in_one_sentence(
    benchmark: ModuleType, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            benchmark.main(list(arguments))
        return capsys.readouterr().err

    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"config": "tiny"}\n{"conf')
    assert "line 2 is not JSON" in complaint(str(config), "--results", str(broken))
    assert "there is no none.yaml" in complaint("none.yaml", "--results", str(broken))
    config.write_text(yaml.safe_dump({**CONFIG, "data": {"class_path": "SyntheticTextures"}}))
    assert "tiny: model and data must take the options given" in complaint(
        str(config), "--results", str(tmp_path / "new.jsonl")
    )
