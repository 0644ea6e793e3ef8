"""LostAndFound on a tiny look-alike: the three protocols on labels 0, 1, 2, 31 and 40."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_suite.contract import Batch
from anomaly_suite.data import LostAndFound
from anomaly_suite.data.scenes.lost_and_found import A_LABEL_IDS, A_TRAIN_IDS, B_LABEL_IDS, C_LABEL_IDS
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

Write = Callable[..., Path]
IDS = np.array([0, 1, 2, 31, 40])


def everything(root: Path, **options: Any) -> Batch:
    data = LostAndFound(root=str(root), eval_batch_size=100, **options)
    (batch,) = data.test_dataloader()
    return batch  # type: ignore[no-any-return] # loaders are untyped


def test_tables() -> None:
    assert B_LABEL_IDS[IDS].tolist() == [255, 0, 1, 1, 1]
    assert A_TRAIN_IDS[[255, 1, 2, 0, 2]].tolist() == [255, 0, 1, 255, 1]
    assert A_LABEL_IDS[IDS].tolist() == [255, 0, 1, 255, 1]
    assert C_LABEL_IDS[IDS].tolist() == [0, 0, 1, 1, 1]
    non_hazards = [number for number in range(2, 44) if A_LABEL_IDS[number] == 255]
    assert non_hazards == [31, 33, 34, 36, 37, 38, 39]


@pytest.mark.parametrize(
    ("protocol", "expected"), [("A", [255, 0, 1, 255, 1]), ("B", [255, 0, 1, 1, 1]), ("C", [0, 0, 1, 1, 1])]
)
def test_protocols(lost_and_found: Path, write: Write, protocol: Any, expected: list[int]) -> None:
    options = {}
    if protocol == "C":
        region = np.full((16, 24), 255, np.uint8)
        region[-2:] = 0
        options["region"] = str(write("roi.png", region))
    batch = everything(lost_and_found, protocol=protocol, **options)
    assert batch["ood_mask"].shape == (2, 16, 24)  # the test part alone
    assert batch["ood_mask"][:, 0:10:2, 5].tolist() == [expected] * 2
    assert batch["ood_mask"][:, -1, 5].tolist() == [255 if protocol == "C" else 0] * 2
    assert batch["label"].tolist() == [1, 1]
    assert "target" not in batch


def test_label_ids_serve_where_train_ids_are_missing(lost_and_found: Path) -> None:
    before = everything(lost_and_found)["ood_mask"]
    next((lost_and_found / "gtCoarse" / "test").rglob("*_labelTrainIds.png")).unlink()
    assert (everything(lost_and_found)["ood_mask"] == before).all()


def test_ids_in_place_of_train_ids_are_noticed(lost_and_found: Path) -> None:
    for file in (lost_and_found / "gtCoarse" / "test").rglob("*_labelIds.png"):
        file.with_name(file.name.replace("labelIds", "labelTrainIds")).write_bytes(file.read_bytes())
    with pytest.raises(DatasetError, match=r"holds 31, which is no label of this data set \(2 such values\)"):
        everything(lost_and_found)


def test_drop_known_leaves_the_scene_with_children_out(lost_and_found: Path) -> None:
    (path,) = everything(lost_and_found, protocol="B", drop_known=True)["image_path"]
    assert "02_Hanns_Klemm_Str_44" in path


def test_frames_without_labels_are_dropped_from_a_complete_copy(
    lost_and_found: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = "05_Schafgasse_1"
    for index in range(18):
        name = f"{scene}_000000_{index:06d}"
        write(f"laf/leftImg8bit/test/{scene}/{name}_leftImg8bit.png", size=(4, 4))
        write(f"laf/gtCoarse/test/{scene}/{name}_gtCoarse_labelIds.png", np.zeros((4, 4), np.uint8))

    def count(**options: Any) -> int:
        data = LostAndFound(root=str(lost_and_found), **options)
        data.setup()
        return len(data.splits.test)  # type: ignore[union-attr,arg-type] # a BatchedDataset

    assert count(protocol="B") == 20  # a part of the data set: positions say nothing
    monkeypatch.setattr("anomaly_suite.data.scenes.lost_and_found.PUBLISHED", 20)
    assert count(protocol="B") == 19  # position 17 of 20
    assert count(protocol="A") == 20


def test_wrong_options(lost_and_found: Path) -> None:
    with pytest.raises(ConfigError, match="protocol: C and region belong together; got protocol: C, region: None"):
        LostAndFound(protocol="C")
    with pytest.raises(ConfigError, match=r"got protocol: A, region: roi\.png"):
        LostAndFound(region="roi.png")
    with pytest.raises(ConfigError, match="protocol must be 'A', 'B' or 'C'; got 'D'"):
        LostAndFound(protocol="D")  # type: ignore[arg-type] # on purpose
    with pytest.raises(DatasetNotFoundError, match="root should be"):
        everything(lost_and_found / "gtCoarse")


def test_it_cannot_be_trained_on(lost_and_found: Path) -> None:
    data = LostAndFound(root=str(lost_and_found))
    for attempt in (lambda: data.setup("fit"), data.train_dataloader):
        with pytest.raises(
            ConfigError, match=r"LostAndFound is for testing.* Train on Cityscapes, .* --data LostAndFound"
        ):
            attempt()
    data.setup("test")
    assert data.val_dataloader() == []
    assert len(list(data.predict_dataloader())) == 2
