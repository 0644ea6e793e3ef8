"""One file for the sections of one test, and nothing of an earlier one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from anomaly_suite.callbacks.metrics.result_file import begin_result, write_section
from anomaly_suite.callbacks.run_folder import RunFolder


def read(folder: Path, name: str = "metrics.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_sections_stand_beside_each_other_whoever_writes_first(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    trainer, module = trainer_in(), LightningModule()
    for order in (["components", None, "segmentation"], [None, "segmentation", "components"]):
        begin_result(trainer)
        for section in order:
            write_section(trainer, module, "metrics.json", section, {"metrics": {"value": len(str(section))}})
        written = read(tmp_path)
        assert written["metrics"] == {"value": 4}
        assert written["segmentation"] == {"metrics": {"value": 12}}
        assert written["components"] == {"metrics": {"value": 10}}
        assert (written["method"], written["dataset"]) == ("LightningModule", "unknown")


def test_an_earlier_test_leaves_no_section(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    trainer, other, module = trainer_in(), trainer_in(), LightningModule()
    begin_result(trainer)
    write_section(trainer, module, "metrics.json", "segmentation", {"metrics": {}})
    begin_result(trainer)
    write_section(trainer, module, "metrics.json", None, {"metrics": {"image_AP": 1.0}})
    assert "segmentation" not in read(tmp_path)
    begin_result(other)
    write_section(other, module, "metrics.json", "components", {"metrics": {}})
    assert "metrics" not in read(tmp_path)


def test_callbacks_may_have_files_of_their_own(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    trainer, module = trainer_in(), LightningModule()
    begin_result(trainer)
    write_section(trainer, module, "metrics.json", None, {"metrics": {}})
    write_section(trainer, module, "own.json", "components", {"metrics": {"SIoU": 0.5}})
    assert "components" not in read(tmp_path)
    assert read(tmp_path, "own.json")["components"] == {"metrics": {"SIoU": 0.5}}
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.json", "own.json"}


def test_tests_on_several_data_sets_stand_beside_each_other(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    for name, value in (("A", 0.5), ("B", 0.6), ("A", 0.7)):
        trainer = trainer_in(callbacks=[RunFolder(folder=str(tmp_path), data_set=name)])
        begin_result(trainer)
        write_section(trainer, LightningModule(), "metrics.json", "components", {"metrics": {"SIoU": value}})
        write_section(trainer, LightningModule(), "metrics.json", None, {"metrics": {"pixel_AP": value}})
    written = read(tmp_path)
    last = {key: value for key, value in written.items() if key != "data_sets"}
    assert written["data_sets"]["A"] == last
    assert {name: test["metrics"] for name, test in written["data_sets"].items()} == {
        "A": {"pixel_AP": 0.7},
        "B": {"pixel_AP": 0.6},
    }
    assert {name: test["components"]["metrics"] for name, test in written["data_sets"].items()} == {
        "A": {"SIoU": 0.7},
        "B": {"SIoU": 0.6},
    }


def test_results_of_another_test_folder_go_into_the_one_file(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    trainer = trainer_in(
        callbacks=[RunFolder(folder=str(tmp_path / "run"), results=str(tmp_path / "run" / "data_sets" / "A"))]
    )
    write_section(trainer, LightningModule(), "metrics.json", None, {"metrics": {}})
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.json")] == ["run/metrics.json"]
