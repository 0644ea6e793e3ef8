"""PolypVideo on a tiny look-alike: labels from folders, one long truth in file order, and what can be wrong."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_parts import everything, parts

from anomaly_suite.contract import Batch
from anomaly_suite.data import PolypVideo
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]

# Sorted as text: 10 before 2. The same file names are in several folders.
NORMAL, ABNORMAL = {"10": 2, "2": 3, "3": 1}, {"1": 1, "12": 2, "2": 4}


@pytest.fixture
def root(save: Save, tmp_path: Path) -> Path:
    for part in ("train", "test"):
        for kind, videos in (("normal", NORMAL), ("abnormal", ABNORMAL)):
            for name, snippets in videos.items():
                save(f"{part}_set/colon_i3d_feature_{part}_{kind}/{name}.npy", snippets, crops=1)
    series = np.zeros(16 * 13)
    series[96 + 5 : 96 + 9] = 1  # abnormal 1
    series[112 + 20 : 112 + 32] = 1  # abnormal 12, and on into 2
    series[144 : 144 + 7] = 1
    save("gt-colon.npy", values=series)
    return tmp_path


def build(root: Path, **options: Any) -> tuple[WholeVideos, WholeVideos]:
    return parts(PolypVideo(root=str(root), **{"validation": "none", **options}))


def truths(batch: Batch) -> list[list[int]]:
    return [part.nonzero().flatten().tolist() for part in batch["frame_label"].split(batch["frame_count"].tolist())]


def test_labels_and_order_of_folders(root: Path) -> None:
    for part, batch in zip(("train", "test"), map(everything, build(root)), strict=True):
        names = [f"{part}/normal/{name}" for name in NORMAL] + [f"{part}/abnormal/{name}" for name in ABNORMAL]
        assert batch["image_path"] == names
        assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1]
        assert batch["length"].tolist() == [*NORMAL.values(), *ABNORMAL.values()]
        values = np.load(root / f"{part}_set/colon_i3d_feature_{part}_abnormal/2.npy")
        assert np.array_equal(batch["snippet_features"][5], np.swapaxes(values, 0, 1))


@pytest.mark.parametrize("rule", ["cut", "extend"])
def test_one_long_truth_in_the_order_of_file_names(root: Path, rule: str) -> None:
    batch = everything(build(root, length_rule=rule)[1])
    assert batch["frame_count"].tolist() == [32, 48, 16, 16, 32, 64]
    assert truths(batch) == [[], [], [], [5, 6, 7, 8], list(range(20, 32)), list(range(7))]


def test_truth_of_each_video(root: Path, save: Save) -> None:
    for name, frames in (("1", 14), ("12", 32), ("2", 60)):
        save(f"truth/{name}.npy", values=(np.arange(frames) >= 10).astype(np.uint8))
    batch = everything(build(root, truth="truth")[1])
    assert batch["frame_count"].tolist() == [32, 48, 16, 14, 32, 60]
    assert truths(batch)[3:] == [list(range(10, frames)) for frames in (14, 32, 60)]
    (root / "truth/12.npy").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"no file '.*truth/12.npy'"):
        build(root, truth="truth")


def test_junk_changes_nothing(root: Path) -> None:
    folder = root / "test_set/colon_i3d_feature_test_normal"
    for name in ("._10.npy", ".DS_Store", "notes.txt"):
        (folder / name).write_bytes(b"junk")
    assert len(build(root)[1]) == 6


def test_a_subset_needs_truth_of_each_video(root: Path) -> None:
    (root / "test_set/colon_i3d_feature_test_normal/3.npy").unlink()
    with pytest.raises(
        DatasetError, match=r"gt-colon.npy' has 208 frames, the features of 5 test videos 192.*set truth to a folder"
    ):
        build(root)


def test_other_file_names_break_the_order(root: Path) -> None:
    folder = root / "test_set/colon_i3d_feature_test_normal"
    shutil.move(root / "test_set/colon_i3d_feature_test_abnormal/1.npy", folder / "9.npy")
    with pytest.raises(DatasetError, match=r"anomalous frames in the normal test video '.*normal/9.npy'. Its order"):
        build(root)


def test_counts_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build(root)
    assert "PolypVideo: 3 normal and 3 anomalous training, 3 normal and 3 anomalous test videos" in caplog.text
    assert "has published 61, 102, 30 and 60" in caplog.text


def test_missing_root_folders_and_truth(root: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"PolypVideo expects .*root='nowhere', which does not exist.*code of the paper"
    ):
        build(Path("nowhere"))
    (root / "gt-colon.npy").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"frame truth at '.*gt-colon.npy', which does not exist. Features and gt"
    ):
        build(root)
    shutil.rmtree(root / "train_set/colon_i3d_feature_train_normal")
    with pytest.raises(
        DatasetNotFoundError, match=r"in '.*train_set/colon_i3d_feature_train_normal', which does not exist"
    ):
        build(root)
    (root / "train_set/colon_i3d_feature_train_normal").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"colon_i3d_feature_train_normal', which holds no .npy file"):
        build(root)
