"""UCSDPedWeak on a tiny look-alike and on the real Ped2: splits, annotation, masks, and what can be missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from video_parts import everything, parts

from anomaly_suite.data import UCSDPedWeak
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

Save = Callable[..., Path]

TRAIN = {"Train001": 20, "Train002": 31, "Train003": 32}  # frames
TEST = {"Test001": 33, "Test002": 20, "Test003": 16, "Test010": 18}
EVENTS = {"Test001": [*range(4, 9), *range(29, 33)], "Test002": [2], "Test003": [*range(16)], "Test010": []}  # from 0
ANNOTATION = """\
TestVideoFile = {};
TestVideoFile{end+1}.gt_frame = [5:9, 30:33];
TestVideoFile{end+1}.gt_frame = [3];
TestVideoFile{end+1}.gt_frame = [1:16];
"""


def write(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.asarray(pixels, np.uint8))


@pytest.fixture
def root(save: Save, tmp_path: Path) -> Path:
    """Ped2 as published; the third mask folder has other names, as some in a common copy."""
    folder = tmp_path / "UCSDped2"
    for part, clips in (("Train", TRAIN), ("Test", TEST)):
        for name, frames in clips.items():
            for frame in range(1, frames + 1):
                write(folder / part / name / f"{frame:03d}.tif", np.full((4, 6), 80))
            save(f"UCSDped2/features/{name}.npy", -(-frames // 16), crops=1)
    (folder / "Test/UCSDped2.m").write_text(
        ANNOTATION + "".join("TestVideoFile{end+1}.gt_frame = [17];\n" for _ in range(7))
    )
    for junk in (
        "Test/.DS_Store",
        "Test/._UCSDped2.m",
        "Test/UCSDped2.m~",
        "Train/Train001/._001.tif",
        "Test/Test001/.DS_Store",
    ):
        (folder / junk).write_bytes(b"junk")
    return tmp_path


@pytest.fixture
def masks(root: Path) -> Path:
    kinds = {
        "Test001": ("", ".bmp"),
        "Test002": ("", ".png"),
        "Test003": ("frame", ".png"),
        "Test010": ("frame", ".bmp"),
    }
    for name, frames in TEST.items():
        before, suffix = kinds[name]
        for frame in range(frames):
            mask = np.zeros((4, 6))
            mask[3, 5] = 255 * (frame in EVENTS[name])
            write(root / f"UCSDped2/Test/{name}_gt/{before}{frame + 1:03d}{suffix}", mask)
        (root / f"UCSDped2/Test/{name}_gt/._001{suffix}").write_bytes(b"junk")
    return root


def make(root: Path, **options: Any) -> UCSDPedWeak:
    return UCSDPedWeak(root=str(root), **{"validation": "none", "train_normal": 1, "train_anomalous": 2, **options})


def build(root: Path, **options: Any) -> tuple[WholeVideos, WholeVideos]:
    return parts(make(root, **options))


def names(part: WholeVideos) -> list[str]:
    return [video.name for video in part.videos]


def test_truth_from_the_annotation(root: Path) -> None:
    truth = make(root).frame_truth()
    assert {name: len(frames) for name, frames in truth.items()} == TRAIN | TEST
    wanted = {**{name: [] for name in TRAIN}, **EVENTS, "Test010": [16]}  # the tenth line, not the fourth
    assert {name: frames.nonzero()[0].tolist() for name, frames in truth.items()} == wanted


def test_truth_from_masks_of_any_kind_and_name(masks: Path) -> None:
    truth = make(masks, truth="masks").frame_truth()
    assert {name: len(frames) for name, frames in truth.items()} == TRAIN | TEST
    assert {name: frames.nonzero()[0].tolist() for name, frames in truth.items()} == {
        **{name: [] for name in TRAIN},
        **EVENTS,
    }


def test_batches(root: Path) -> None:
    train, test = build(root)
    assert everything(train)["label"].tolist() == [0, 1, 1]
    batch = everything(test)
    assert batch["label"].tolist() == [0, 0, 1, 1]
    truth = make(root).frame_truth()
    assert batch["frame_count"].tolist() == [len(truth[name]) for name in names(test)]
    assert batch["frame_label"].tolist() == [frame for name in names(test) for frame in truth[name].tolist()]
    for row, name in enumerate(names(test)):
        values = np.load(root / f"UCSDped2/features/{name}.npy")
        assert np.array_equal(batch["snippet_features"][row, :, : len(values)], np.swapaxes(values, 0, 1))
    extended = everything(build(root, length_rule="extend")[1])
    assert extended["frame_count"].tolist() == (16 * batch["length"]).tolist()


def test_splits_are_random_but_the_same_for_every_seed(root: Path) -> None:
    trains = []
    for split in range(20):
        train, test = build(root, split=split)
        assert sorted(names(train) + names(test)) == sorted(TRAIN | TEST)
        assert names(train) == names(build(root, split=split, seed=7)[0])
        trains.append(tuple(names(train)))
    assert {sum(name.startswith("Test") for name in train) for train in trains} == {2}
    assert len(set(trains)) > 8  # of 18
    assert {name for train in trains for name in train} == set(TRAIN | TEST)


def test_other_counts_for_training(root: Path) -> None:
    train, test = build(root, train_normal=2, train_anomalous=3)
    assert [len(train), len(test)] == [5, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": -1}, "split must be at least 0; got -1"),
        ({"train_normal": 3}, "train_normal must be 1 to 2, since there are 3 normal clips; got 3"),
        ({"train_normal": 0}, "train_normal must be 1 to 2"),
        ({"train_anomalous": 4}, "train_anomalous must be 1 to 3, since there are 4 anomalous clips; got 4"),
    ],
)
def test_splits_that_cannot_be(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(root, **options)


def test_ped1_and_features_elsewhere(root: Path) -> None:
    (root / "UCSDped2").rename(root / "UCSDped1")
    (root / "UCSDped1/Test/UCSDped2.m").rename(root / "UCSDped1/Test/UCSDped1.m")
    (root / "UCSDped1/features").rename(root / "own")
    for features in ("own", str(root / "own")):
        assert len(build(root, subset="ped1", features=features)[0]) == 3
    with pytest.raises(DatasetNotFoundError, match="expects the folder UCSDped2 in root"):
        build(root, subset="ped2")


def test_missing_parts(root: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"expects .*root='nowhere', which does not exist. UCSD_Anomaly_Dataset comes"
    ):
        build(Path("nowhere"))
    with pytest.raises(DatasetNotFoundError, match=f"root should be '{root}'"):
        build(root / "UCSDped2")
    with pytest.raises(
        DatasetNotFoundError, match=r"'.*none', which does not exist. Make them with: anomaly-suite extract-features"
    ):
        build(root, features="none")
    with pytest.raises(
        DatasetNotFoundError, match=r"pixel masks in '.*Test001_gt', which holds none. Set truth: annotation"
    ):
        build(root, truth="masks")
    (root / "UCSDped2/features/Test002.npy").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"1 of 7 videos in '.*UCSDped2' have no features in '.*features': Test002"
    ):
        build(root)
    (root / "UCSDped2/Test/UCSDped2.m").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"expects '.*Test/UCSDped2.m', which does not exist"):
        make(root).frame_truth()
    for frame in (root / "UCSDped2/Train/Train002").iterdir():
        frame.unlink()
    with pytest.raises(DatasetNotFoundError, match=r"Train/Train002' has no frames"):
        make(root).frame_truth()
    (root / "UCSDped2/Train").rename(root / "UCSDped2/Training")
    with pytest.raises(DatasetNotFoundError, match=r"expects clips Train001, ... in '.*UCSDped2/Train'"):
        make(root).clips()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ANNOTATION, "annotates 3 clips, so not Test010"),
        (ANNOTATION.replace("[3]", "[3:1:9]"), r"annotates Test002 with \[3:1:9\]; expected frames as 5:90"),
        (ANNOTATION.replace("[3]", "[]"), r"annotates Test002 with \[\]"),
        (ANNOTATION.replace("[3]", "[0:4]"), "event of video 'Test002' lasts from frame -1"),
        (ANNOTATION.replace("[3]", "[90:95]"), "event of video 'Test002' lasts from frame 89"),
    ],
)
def test_annotations_that_cannot_be_right(root: Path, text: str, message: str) -> None:
    (root / "UCSDped2/Test/UCSDped2.m").write_text(text)
    with pytest.raises(DatasetError, match=message):
        make(root).frame_truth()


def test_a_mask_for_every_frame(masks: Path) -> None:
    (masks / "UCSDped2/Test/Test003_gt/frame007.png").unlink()
    with pytest.raises(
        DatasetError, match=r"Test003_gt' must hold one mask for each of 16 frames, named 001 to 016; got 15"
    ):
        make(masks, truth="masks").frame_truth()


def test_counts_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build(root)
    assert "UCSDped2': 3 normal and 4 anomalous clips" in caplog.text
    assert "UCSDped2 has published 16 and 12" in caplog.text


@pytest.fixture(scope="session")
def ped2(real_data: Path) -> Path:
    root = real_data / "ucsd/UCSD_Anomaly_Dataset.v1p2"
    if not root.is_dir():
        pytest.skip("no UCSD set")
    return root


def test_real_annotation_and_masks(ped2: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = UCSDPedWeak(root=str(ped2))
    with caplog.at_level(logging.INFO):
        normal, anomalous = data.clips()
    assert [len(normal), len(anomalous)] == [16, 12]
    assert "has published" not in caplog.text
    truth = data.frame_truth()
    assert [len(truth[name]) for name in anomalous] == [180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180]
    assert sum(len(truth[name]) for name in normal) == 2550
    assert sum(int(frames.sum()) for frames in truth.values()) == 1648
    assert truth["Test001"].nonzero()[0][[0, -1]].tolist() == [60, 179]
    assert truth["Test006"].nonzero()[0][[0, -1]].tolist() == [0, 158]
    masks = UCSDPedWeak(root=str(ped2), truth="masks").frame_truth()
    assert sum(len(masks[name]) for name in anomalous) == 2010
    assert all(np.array_equal(masks[name], truth[name]) for name in truth)


def test_real_splits_and_their_video_oracle(ped2: Path, save: Save, tmp_path: Path) -> None:
    truth = UCSDPedWeak(root=str(ped2)).frame_truth()
    for name, frames in truth.items():
        save(f"features/{name}.npy", -(-len(frames) // 16), crops=1, width=1)
    aurocs, trains = [], []
    for split in range(10):
        data = UCSDPedWeak(root=str(ped2), features=str(tmp_path / "features"), split=split, validation="none")
        data.setup()
        assert data.splits is not None
        assert isinstance(data.splits.train, WholeVideos)
        assert isinstance(data.splits.test, WholeVideos)
        trains.append(tuple(names(data.splits.train)))
        assert [sum(name.startswith(part) for name in trains[-1]) for part in ("Train", "Test")] == [4, 6]
        batch = everything(data.splits.test)
        assert len(batch["label"]) == 18
        oracle = np.repeat(batch["label"], batch["frame_count"])
        aurocs.append(roc_auc_score(batch["frame_label"], oracle))
    assert len(set(trains)) == 10
    assert np.mean(aurocs) == pytest.approx(0.956, abs=0.01)  # of other ten random splits


def test_two_files_of_one_frame(masks: Path) -> None:
    write(masks / "UCSDped2/Test/Test003_gt/002.png", np.zeros((4, 6)))
    with pytest.raises(
        DatasetError, match=r"'.*Test003_gt/.*' and '.*' are masks of one frame, and only one can be used"
    ):
        make(masks, truth="masks").frame_truth()
    write(masks / "UCSDped2/Train/Train001/1.png", np.zeros((4, 6)))
    with pytest.raises(DatasetError, match=r"Train001' holds '(001\.tif|1\.png)' and '(001\.tif|1\.png)'"):
        make(masks).frame_truth()
