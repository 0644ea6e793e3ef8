"""The table of ALPS and its comparators on a tiny model: what is trained, chosen and continued."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG = {
    "model": {"class_path": "ALPS", "init_args": {"image_size": 8, "widths": [4, 4, 4], "latent_dim": 4}},
    "data": {"class_path": "Digits", "init_args": {"image_size": 8, "validation": "augmented", "val_size": 10}},
    "trainer": {"default_root_dir": "runs/tiny", "max_epochs": 1, "log_every_n_steps": 1, "limit_train_batches": 1},
}


@pytest.fixture
def benchmark() -> Iterator[ModuleType]:
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("latent_perturbations")
    log.setLevel(level)  # the script makes it quiet


def test_every_kind_is_trained_alike_and_the_table_has_all_scores(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, results = tmp_path / "tiny.yaml", tmp_path / "results.jsonl"
    config.write_text(yaml.safe_dump(CONFIG))
    words = [str(config), "--results", str(results), "--seeds", "0", "--classes", "3", "--test-per-class", "4"]
    assert benchmark.main(words) == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(records) == 3
    for record in records:
        assert record["auroc"]["chosen"] == record["auroc"][record["chosen"]]
    plain, noise, learned = records
    assert len(set(plain["auroc"].values())) == 1  # nothing is perturbed
    assert plain["distortion"] == 0 < min(noise["distortion"], learned["distortion"])
    shown = capsys.readouterr().out
    assert f"| ALPS | 0.9765 | {learned['auroc']['clean']:.4f} ({learned['auroc']['clean']:.4f}) | " in shown
    assert f"| random latent noise, seed 0 | {noise['auroc']['chosen']:.4f} |" in shown
    before = results.read_text()
    assert benchmark.main(words) == 0  # all is there
    assert results.read_text() == before
