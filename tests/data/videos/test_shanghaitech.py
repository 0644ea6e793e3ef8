"""ShanghaiTech on a tiny look-alike: the published split, lists, masks, and what can be missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_parts import everything, parts

from anomaly_suite.data import ShanghaiTech
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.data.videos.shanghaitech import PUBLISHED, published_split
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]

TRAIN = ["01_0014", "01_0016", "01_002", "01_003", "05_001"]
TEST = {"01_0015": 45, "01_001": 32, "10_004": 17, "12_0174": 20}  # frames


@pytest.fixture
def root(save: Save, tmp_path: Path) -> Path:
    """Features and masks as they are published, and the lists; of all masks of the original test part."""
    for name in TRAIN:
        save(f"SH_Train_ten_crop_i3d/{name}_i3d.npy", 3, crops=10)
    for name, frames in TEST.items():
        save(f"SH_Test_ten_crop_i3d/{name}_i3d.npy", -(-frames // 16), crops=10)
    for name, frames in {**TEST, "01_0014": 48, "01_0016": 48}.items():
        if len(name) == 7:
            save(f"testing/test_frame_mask/{name}.npy", values=(np.arange(frames) >= 10).astype(np.uint8))
    (tmp_path / "SH_Train.txt").write_text("\n".join(TRAIN))
    (tmp_path / "SH_Test.txt").write_text("\n".join(TEST))
    return tmp_path


def build(root: Path, **options: Any) -> tuple[WholeVideos, WholeVideos]:
    lists = {"train_list": "SH_Train.txt", "test_list": "SH_Test.txt"}
    return parts(ShanghaiTech(root=str(root), **{"validation": "none", **lists, **options}))


def test_the_published_split() -> None:
    train, test = published_split()
    counts = [sum(len(name) == length for name in part) for part in (train, test) for length in (6, 7)]
    assert counts == [175, 63, 155, 44] == list(PUBLISHED)
    assert not set(train) & set(test)
    assert len(set(train) | set(test)) == 437
    assert train == sorted(train)
    assert {"01_0014", "01_002", "12_0175", "13_007"} <= set(train)
    assert {"01_001", "01_0177", "11_006", "12_0174", "13_006"} <= set(test)
    assert {name[:2] for name in train} == {f"{scene:02d}" for scene in range(1, 14)}


def test_features_labels_and_truth(root: Path) -> None:
    train, test = build(root)
    batch = everything(train)
    assert batch["image_path"] == ["01_002", "01_003", "05_001", "01_0014", "01_0016"]  # normal ones first
    assert batch["label"].tolist() == [0, 0, 0, 1, 1]
    assert batch["snippet_features"].shape == (5, 10, 3, 4)
    batch = everything(test)
    assert batch["image_path"] == list(TEST)
    assert batch["label"].tolist() == [1, 0, 0, 1]
    assert batch["length"].tolist() == [3, 2, 2, 2]
    for row, name in enumerate(TEST):
        values = np.load(root / f"SH_Test_ten_crop_i3d/{name}_i3d.npy")
        got = batch["snippet_features"][row, :, : len(values)]
        assert np.array_equal(got, np.swapaxes(values, 0, 1))
    assert batch["frame_count"].tolist() == [45, 32, 32, 20]
    assert batch["frame_label"].tolist() == [frame >= 10 for frame in range(45)] + [False] * 64 + [
        frame >= 10 for frame in range(20)
    ]


def test_released_ground_truth_extends_masks(root: Path) -> None:
    batch = everything(build(root, length_rule="extend")[1])
    assert batch["frame_count"].tolist() == [48, 32, 32, 32]
    assert int(batch["frame_label"].sum()) == 38 + 22


def test_released_lists_hold_paths_of_another_machine(root: Path) -> None:
    for name, names in (("train", TRAIN), ("test", TEST)):
        lines = [rf"E:\RTFM\SH_{name.title()}_ten_crop_i3d\{video}_i3d.npy" for video in names]
        (root / f"shanghai-i3d-{name}-10crop.list").write_text("\n".join(lines))
    lists = {f"{name}_list": f"shanghai-i3d-{name}-10crop.list" for name in ("train", "test")}
    got = [everything(part) for part in build(root, **lists)]
    wanted = [everything(part) for part in build(root)]
    assert [batch["image_path"] for batch in got] == [batch["image_path"] for batch in wanted]
    assert [batch["label"].tolist() for batch in got] == [batch["label"].tolist() for batch in wanted]


def test_own_features_in_one_folder(root: Path, save: Save) -> None:
    for name in [*TRAIN, *TEST]:
        save(f"own/{name}.npy", 3, crops=1)
    train, test = build(root, train_features="own", test_features=str(root / "own"))
    assert everything(train)["snippet_features"].shape == (5, 1, 3, 4)
    assert len(test) == 4


def test_without_lists_the_published_split_is_complete(
    root: Path, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        DatasetNotFoundError,
        match=r"233 of 238 videos in the published split have no features in '.*SH_Train_ten_crop_i3d'",
    ):
        build(root, train_list=None, test_list=None)
    train, test = published_split()
    for name in train:
        save(f"all/{name}.npy", 1, crops=1, width=1)
    for name in test:
        save(f"all/{name}.npy", 1, crops=1, width=1)
        if len(name) == 7:
            save(f"testing/test_frame_mask/{name}.npy", values=np.ones(16, np.uint8))
    options = {"train_list": None, "test_list": None, "train_features": "all", "test_features": "all"}
    with caplog.at_level(logging.INFO):
        parts = build(root, **options)
    assert [everything(part)["image_path"] for part in parts] == [
        sorted(train, key=lambda name: (len(name), name)), test
    ]  # fmt: skip
    assert int(everything(parts[1])["frame_label"].sum()) == 44 * 16
    assert "175 normal and 63 anomalous training, 155 normal and 44 anomalous test videos" in caplog.text
    assert "has published" not in caplog.text


def test_a_subset_is_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build(root)
    assert "ShanghaiTech: 3 normal and 2 anomalous training, 2 normal and 2 anomalous test videos" in caplog.text
    assert "has published 175, 63, 155 and 44" in caplog.text


def test_missing_root_lists_features_and_masks(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"ShanghaiTech expects .*root='nowhere', which does not exist.*RTFM"
    ):
        build(Path("nowhere"))
    with pytest.raises(DatasetNotFoundError, match=f"root should be '{root}'"):
        build(root / "SH_Train_ten_crop_i3d")
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(tmp_path))
    with pytest.raises(DatasetNotFoundError, match=r"root='.*shanghaitech', which does not exist"):
        ShanghaiTech().setup()
    with pytest.raises(DatasetNotFoundError, match=r"none.txt', which does not exist. Correct the name of the list"):
        build(root, test_list="none.txt")
    (root / "SH_Test_ten_crop_i3d/10_004_i3d.npy").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"1 of 4 videos in '.*SH_Test.txt' have no features in .*: 10_004\."
    ):
        build(root)
    with pytest.raises(
        DatasetNotFoundError, match=r"snippet features in '.*none', which does not exist. The features come"
    ):
        build(root, test_features="none")


def test_masks_and_names_must_agree(root: Path, save: Save) -> None:
    stray = save("testing/test_frame_mask/01_001.npy", values=np.zeros(32, np.uint8))
    with pytest.raises(
        DatasetError, match=r"'01_001' has three digits, so it is normal, but there is a mask '.*01_001.npy'"
    ):
        build(root)
    stray.unlink()
    (root / "testing/test_frame_mask/01_0015.npy").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"'01_0015' has four digits.* no mask '.*test_frame_mask/01_0015.npy'"
    ):
        build(root)
    with pytest.raises(DatasetNotFoundError, match=r"no mask '.*elsewhere/01_0015.npy'"):
        build(root, masks="elsewhere")


def test_missing_masks_are_in_the_repository_of_rtfm(root: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"All 107 masks are in .*tianyu0207/RTFM.*test_frame_mask.*gt-sh.npy"
    ):
        build(root, masks="elsewhere")


def test_one_ground_truth_for_all_videos_is_that_of_extended_masks(root: Path, save: Save) -> None:
    """As ``gt-sh.npy``: float64, anomalous videos first, in the order of their names and not of the list."""
    anomalous = [np.pad((np.arange(n) >= 10).astype(float), (0, -n % 16), mode="edge") for n in (45, 20)]
    save("list/gt-sh.npy", values=np.concatenate([*anomalous, np.zeros(32), np.zeros(32)]))
    (root / "SH_Test.txt").write_text("\n".join(reversed(TEST)))
    expected = everything(build(root, length_rule="extend")[1])
    for rule in ("cut", "extend"):
        found = everything(build(root, masks="list/gt-sh.npy", length_rule=rule)[1])
        assert found["image_path"] == expected["image_path"] == list(reversed(TEST))
        assert found["frame_count"].tolist() == expected["frame_count"].tolist()
        assert found["frame_label"].tolist() == expected["frame_label"].tolist()
    save("list/gt-sh.npy", values=np.zeros(16))
    with pytest.raises(
        DatasetError, match=r"gt-sh.npy' has 16 frames, the features of 4 test videos 144.*set masks to the folder"
    ):
        build(root, masks="list/gt-sh.npy")
    save("list/gt-sh.npy", values=np.ones(144))
    with pytest.raises(DatasetError, match=r"anomalous frames in the normal test video '.*01_001_i3d.npy'"):
        build(root, masks="list/gt-sh.npy")
    np.save(root / "list/gt-sh.npy", np.zeros(144, dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="is no plain NumPy array"):
        build(root, masks="list/gt-sh.npy")


def test_masks_of_other_frames(root: Path, save: Save) -> None:
    save("testing/test_frame_mask/01_0015.npy", values=np.ones(100, np.uint8))
    with pytest.raises(DatasetError, match="'01_0015' has frame truth of 100 frames"):
        everything(build(root)[1])


@pytest.mark.parametrize("name", ["Abuse001_x264", "01_14", "01_00014"])
def test_names_of_another_set(root: Path, name: str) -> None:
    (root / "SH_Train.txt").write_text(f"01_0014\n{name}\n")
    with pytest.raises(DatasetError, match=rf"video '{name}' in '.*SH_Train.txt' is not named by scene and number"):
        build(root)


def test_a_video_in_both_parts(root: Path, save: Save) -> None:
    with (root / "SH_Train.txt").open("a") as file:
        file.write("\n01_001")
    save("SH_Train_ten_crop_i3d/01_001_i3d.npy", crops=10)
    with pytest.raises(DatasetError, match="'01_001' is in the training part and again in the test part"):
        build(root)
