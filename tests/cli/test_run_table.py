"""What list runs says of runs of any age and end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_parts import command, one_sentence, succeed

from anomaly_suite.errors import DatasetNotFoundError
from anomaly_suite.io.runs import update_record


def test_runs_are_listed_with_their_state_and_metrics(cwd: Path) -> None:
    for number, record in enumerate(
        ({"state": "finished"}, {"state": "failed", "error": "ImageReadError: a.png is cut"}), 1
    ):
        folder = Path(f"runs/PEBAL/Cityscapes/{number}")
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        update_record(
            folder,
            id=f"id{number}",
            method="PEBAL",
            data="Cityscapes",
            seed=7,
            started="2026-11-29T18:46:59+00:00",
            **record,
        )
    test = {"run": "id1", "metrics": {"pixel_AP": 0.5}, "segmentation": {"metrics": {"mIoU": 0.25, "ECE": 0.1}}}
    tests = {"LostAndFound": test, "RoadAnomaly": {**test, "metrics": {"pixel_AP": 0.75}}}
    Path("runs/PEBAL/Cityscapes/1/metrics.json").write_text(
        json.dumps({"dataset": "RoadAnomaly", **test, "data_sets": tests})
    )
    older = Path("runs/lightning_logs/version_0")
    older.mkdir(parents=True)
    data = {"class_path": "anomaly_suite.data.MVTecAD", "init_args": {"category": "bottle"}}
    content = {"seed_everything": 3, "model": {"class_path": "anomaly_suite.methods.PaDiM"}, "data": data}
    (older / "config.yaml").write_text(yaml.safe_dump(content))
    rows = {line.split()[0]: line.split(maxsplit=7)[1:] for line in succeed("list", "runs").out.splitlines()}
    assert rows["runs/PEBAL/Cityscapes/1"] == [
        *("PEBAL", "Cityscapes", "7", "finished", "2026-11-29", "18:46"),
        "LostAndFound: pixel_AP 0.5000, mIoU 0.2500; RoadAnomaly: pixel_AP 0.7500, mIoU 0.2500",
    ]
    assert rows["runs/PEBAL/Cityscapes/2"][3:] == ["failed", "2026-11-29", "18:46", "ImageReadError: a.png is cut"]
    assert rows["runs/lightning_logs/version_0"][:4] == ["PaDiM", "MVTecAD/bottle", "3", "interrupted"]


@pytest.mark.parametrize("words", [[], ["empty"]])
def test_a_folder_without_runs_is_one_sentence(words: list[str], cwd: Path) -> None:
    Path("empty").mkdir()
    assert "Give another: list runs FOLDER." in one_sentence(command("list", "runs", *words), DatasetNotFoundError)
