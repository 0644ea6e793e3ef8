"""The table of splits: every sample once for each of its splits, and Folder reads it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lightning.pytorch import Trainer

from anomaly_suite.callbacks import SplitTable
from anomaly_suite.data import Digits, Folder, SyntheticVideos
from anomaly_suite.data.images.benchmark_images import BenchmarkImages
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.errors import DatasetError, FileWriteError
from anomaly_suite.methods import PaDiM


class Benchmark(BenchmarkImages):
    """Ten training normals, six test normals, eight masked anomalies."""

    def find(self) -> Found:
        root = Path(str(self.root))
        normals = [Item(root / f"n/{index}.png") for index in range(16)]
        tests = [Item(root / f"a/{index}.png", 1, root / f"m/{index}.png", defect="dent") for index in range(8)]
        return Found(normals[:10], [], normals[10:] + tests)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name in "nam":
        (tmp_path / "set" / name).mkdir(parents=True)
    for index in range(16):
        cv2.imwrite(str(tmp_path / f"set/n/{index}.png"), draw.integers(0, 255, (8, 8, 3), np.uint8))
    for index in range(8):
        cv2.imwrite(str(tmp_path / f"set/a/{index}.png"), draw.integers(0, 255, (8, 8, 3), np.uint8))
        cv2.imwrite(str(tmp_path / f"set/m/{index}.png"), np.eye(8, dtype=np.uint8) * 255)
    return tmp_path / "set"


def make(root: Path, **options: Any) -> Benchmark:
    data = Benchmark(**{"image_size": 8, "threshold_images": 2, **options})
    data.root = root
    return data


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "splits.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(trainer_in: Callable[..., Trainer], data: Any, hook: str = "on_fit_start") -> Trainer:
    trainer = trainer_in(callbacks=[])
    trainer.datamodule = data  # type: ignore[attr-defined] # as fit sets it
    getattr(SplitTable(), hook)(trainer, PaDiM(weights=None, num_channels=8))
    return trainer


def test_threshold_images_and_groups_are_in_the_table(images: Path, trainer_in: Any, tmp_path: Path) -> None:
    data = make(images, threshold_set="apart", localisation_groups=2, localisation_size=3)
    write(trainer_in, data)
    found = rows(tmp_path)
    assert list(found[0]) == ["path", "label", "split", "mask", "defect_type", "group"]
    assert Counter((row["split"], row["label"]) for row in found) == {
        ("train", "normal"): 10, ("val", "normal"): 2, ("val", "anomalous"): 2, ("test", "normal"): 4, ("test", "anomalous"): 6,
    }  # fmt: skip
    assert len({row["path"] for row in found}) == 24
    assert all(row["mask"] == row["path"].replace("a/", "m/") for row in found if row["label"] == "anomalous")
    assert Counter(row["group"] for row in found if row["split"] == "test") == {"": 4, "1": 3, "2": 3}
    groups = {row["path"]: int(row["group"] or 0) for row in found if row["split"] == "test"}
    assert groups == {item.path.relative_to(images).as_posix(): item.group for item in data.require_splits().test.items}  # type: ignore[attr-defined]


def test_folder_reads_the_table_as_its_index(images: Path, trainer_in: Any, tmp_path: Path) -> None:
    first = make(images, threshold_set="apart")
    write(trainer_in, first, "on_test_start")
    again = Folder(index=str(tmp_path / "splits.csv"), root=str(images), image_size=8)
    for old, new in zip(first.require_splits(), again.require_splits(), strict=True):
        assert {item.path for item in old.items} == {item.path for item in new.items}  # type: ignore[union-attr]
        assert {item.mask for item in old.items} == {item.mask for item in new.items}  # type: ignore[union-attr]
    write(trainer_in, make(images, threshold_set="leaky"))
    found = rows(tmp_path)
    twice = [path for path, count in Counter(row["path"] for row in found).items() if count == 2]
    assert len(twice) == 4
    with pytest.raises(DatasetError, match="list the same image"):  # which nobody else should repeat
        Folder(index=str(tmp_path / "splits.csv"), root=str(images)).setup()


def test_copies_are_not_listed_and_sets_in_memory_by_name(images: Path, trainer_in: Any, tmp_path: Path) -> None:
    for validation in ("augmented", "medmix"):
        write(trainer_in, make(images, validation=validation, val_size=3))
        assert Counter((row["split"], row["label"]) for row in rows(tmp_path) if row["split"] != "test") == {
            ("train", "normal"): 7,
            ("val", "normal"): 3,
        }
    data = Digits(normal_class=3, validation="augmented", val_size=5)
    write(trainer_in, data)
    found = rows(tmp_path)
    assert list(found[0]) == ["path", "label", "split"]
    counts = Counter(row["split"] for row in found)
    assert counts["val"] == 5
    assert (counts["train"], counts["test"]) == tuple(len(data.require_splits()[part]) for part in (0, 2))  # type: ignore[arg-type,misc]


def test_nothing_is_written_of_what_is_not_listed_and_a_former_table_goes(trainer_in: Any, tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("old", encoding="utf-8")
    for data in (None, SyntheticVideos()):
        write(trainer_in, data)
    assert not (tmp_path / "splits.csv").exists()
    (tmp_path / "splits.csv").mkdir()
    with pytest.raises(FileWriteError, match=r"splits\.csv', which is a folder"):
        write(trainer_in, SyntheticVideos())
