"""The table of patches on a look-alike of UCSD Ped2: baselines and two tiny methods."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import ucsd_parts
import yaml

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TRAINER = {"default_root_dir": "runs/tiny", "max_epochs": 1, "log_every_n_steps": 1, "limit_train_batches": 1}
MODELS = {
    "adacl_tiny": {"class_path": "ADACL", "init_args": {"widths": [4, 4, 4, 4], "hidden": 4, "half_period": 0.5}},
    "alps_tiny": {"class_path": "ALPS", "init_args": {"image_size": 12, "widths": [4, 4, 4], "latent_dim": 4}},
}


@pytest.fixture
def benchmark() -> Iterator[ModuleType]:
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("ucsd_patches")
    log.setLevel(level)  # the script makes it quiet


@pytest.mark.filterwarnings("ignore:.*has published:UserWarning")
def test_methods_stand_beside_the_oracle_and_motion_energy(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ucsd_parts.make(tmp_path)
    options = {
        "root": str(tmp_path),
        "image_size": [40, 66],
        "patch_size": 12,
        "validation": "augmented",
        "val_size": 4,
    }
    files = []
    for name, model in MODELS.items():
        files.append(tmp_path / f"{name}.yaml")
        content = {"model": model, "data": {"class_path": "UCSDPed", "init_args": options}, "trainer": TRAINER}
        files[-1].write_text(yaml.safe_dump(content))
    words = [*map(str, files), "--results", str(tmp_path / "results.jsonl")]
    assert benchmark.main(words) == 0
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [record["method"] for record in records] == ["oracle", "motion energy", "ADACL", "ALPS"]
    assert len({record["test_patches"] for record in records}) == 1  # the same for all
    oracle, alps = records[0]["metrics"], records[3]
    assert oracle["frame_AUROC"] == oracle["frame_AUROC_localised"] == 1
    chosen = alps["metrics"][f"frame_AUROC_{alps['chosen']}"]
    assert alps["metrics"]["frame_AUROC"] == chosen
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        *("| oracle", "| motion energy", "| ADACL", f"| ALPS, chosen score ({alps['chosen']})"),
        *("| ALPS, clean score", "| ALPS, perturbed score", "| ALPS, average score"),
    ]
