"""UCFCrime on a tiny look-alike: lists, annotations in every published form, conventions, and what can be wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from video_parts import everything, parts

from anomaly_suite.data import UCFCrime
from anomaly_suite.data.videos.datasets import WholeVideos
from anomaly_suite.data.videos.ucf_crime import KINDS, PUBLISHED, read_annotations
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]

TRAIN = ["Abuse/Abuse001_x264.mp4", "RoadAccidents/RoadAccidents003_x264.mp4"] + [
    f"Training_Normal_Videos_Anomaly/Normal_Videos{number}_x264.mp4" for number in ("_001", "002", "_015")
]
# name: class, two events and frames
TEST = {
    "Abuse028_x264": ("Abuse", [5, 20, -1, -1], 40),
    "Arson011_x264": ("Arson", [1, 2, 17, 34], 33),  # ends one frame after the last
    "Normal_Videos_003_x264": ("Normal", [-1, -1, -1, -1], 45),
    "Stealing019_x264": ("Stealing", [16, 16, 32, 48], 48),
}
SNIPPETS = [3, 3, 3, 3]
EVENTS = [range(4, 20), [0, 1, *range(16, 33)], [], [15, *range(31, 48)]]  # from 0


def lines(counts: bool = False) -> str:
    rows = [
        [f"{name}.mp4", kind, *map(str, ends), *([str(frames)] * counts)] for name, (kind, ends, frames) in TEST.items()
    ]
    return "".join("  ".join(row) + "  \n" for row in rows)


@pytest.fixture
def root(save: Save, tmp_path: Path) -> Path:
    for line in TRAIN:
        save(f"UCF_Train_ten_crop_i3d/{Path(line).stem}_i3d.npy", 3, crops=10)
    for name, count in zip(TEST, SNIPPETS, strict=True):
        save(f"UCF_Test_ten_crop_i3d/{name}_i3d.npy", count, crops=10)
    (tmp_path / "Anomaly_Train.txt").write_text("\n".join(TRAIN) + "\n")
    (tmp_path / "Anomaly_Test.txt").write_text("".join(f"{kind}/{name}.mp4\n" for name, (kind, *_) in TEST.items()))
    (tmp_path / "Temporal_Anomaly_Annotation.txt").write_text(lines())
    return tmp_path


def build(root: Path, **options: Any) -> tuple[WholeVideos, WholeVideos]:
    return parts(UCFCrime(root=str(root), **{"validation": "none", **options}))


def positives(part: WholeVideos) -> tuple[list[list[int]], list[int]]:
    """Anomalous frames and frame count of every video."""
    batch = everything(part)
    counts = batch["frame_count"].tolist()
    return [truth.nonzero().flatten().tolist() for truth in batch["frame_label"].split(counts)], counts


def test_one_ground_truth_for_all_videos_is_that_of_rtfm(root: Path, save: Save) -> None:
    """As ``gt-ucf.npy``: anomalous videos first, then the normal one, which is third in the list."""
    expected = positives(build(root, convention="rtfm")[1])
    series = np.zeros((4, 48))
    for row, video in enumerate((0, 1, 3, 2)):
        series[row, expected[0][video]] = 1
    save("list/gt-ucf.npy", values=series.flatten())
    for convention in ("original", "rtfm"):
        assert positives(build(root, annotation="list/gt-ucf.npy", convention=convention)[1]) == expected
    save("list/gt-ucf.npy", values=series[:, 1:].flatten())
    with pytest.raises(
        DatasetError, match=r"has 188 frames, the features of 4 test videos 192.*set annotation to the list"
    ):
        build(root, annotation="list/gt-ucf.npy")
    with pytest.raises(DatasetNotFoundError, match=r"no file '.*none.npy'"):
        build(root, annotation="none.npy")


def test_published_counts() -> None:
    assert PUBLISHED == (800, 810, 150, 140)
    assert len(KINDS) == 13


def test_labels_come_from_names(root: Path) -> None:
    train, test = build(root)
    batch = everything(train)
    assert batch["image_path"] == [
        "Normal_Videos_001_x264", "Normal_Videos002_x264", "Normal_Videos_015_x264",
        "Abuse001_x264", "RoadAccidents003_x264",
    ]  # fmt: skip
    assert batch["label"].tolist() == [0, 0, 0, 1, 1]
    assert batch["snippet_features"].shape == (5, 10, 3, 4)
    assert everything(test)["image_path"] == list(TEST)
    assert everything(test)["label"].tolist() == [1, 1, 0, 1]


def test_events_count_from_one_and_both_ends_belong(root: Path) -> None:
    (root / "Temporal_Anomaly_Annotation.txt").write_text(lines(counts=True))
    found, counts = positives(build(root)[1])
    assert found == [list(event) for event in EVENTS]
    assert counts == [40, 33, 45, 48]
    total = sum(end - start + 1 for _, ends, _ in TEST.values() for start, end in (ends[:2], ends[2:]) if start > 0)
    assert sum(map(len, found)) == total - 1  # one frame after the last
    found, counts = positives(build(root, length_rule="extend")[1])
    assert counts == [48] * 4
    assert found[1] == [0, 1, *range(16, 48)]  # the last value goes on
    assert found[0] == list(range(4, 20))


def test_without_frame_counts_a_video_has_16_frames_a_snippet(root: Path) -> None:
    for rule in ("cut", "extend"):
        found, counts = positives(build(root, length_rule=rule)[1])
        assert counts == [48] * 4
        assert found[1] == [0, 1, *range(16, 34)]
        assert [found[0], found[2], found[3]] == [list(EVENTS[0]), [], list(EVENTS[3])]


@pytest.mark.parametrize("counts", [True, False])
def test_released_ground_truth_counts_from_zero(root: Path, counts: bool) -> None:
    (root / "Temporal_Anomaly_Annotation.txt").write_text(lines(counts))
    found, frames = positives(build(root, convention="rtfm")[1])
    assert frames == [48] * 4
    assert found == [list(range(5, 21)), [1, 2, *range(17, 35)], [], [16, *range(32, 48)]]  # the last one is cut


def test_matlab_files_say_the_same(root: Path) -> None:
    folder = root / "Matlab_formate"
    folder.mkdir()
    for name, (kind, ends, _) in TEST.items():
        pairs = [pair for pair in (ends[:2], ends[2:]) if pair[0] > 0] or [[-1, -1]]
        content = {"VideoName": f"{name}.mp4", "Anno": np.array(pairs, dtype=float), "EventName": kind}
        savemat(folder / f"{name}.mat", {"Annotation_file": content})
    (folder / "._Abuse028_x264.mat").write_bytes(b"junk")
    assert read_annotations(folder) == read_annotations(root / "Temporal_Anomaly_Annotation.txt")
    assert positives(build(root, annotation="Matlab_formate")[1]) == positives(build(root)[1])
    (folder / "Abuse028_x264.mat").write_bytes(b"junk")
    with pytest.raises(DatasetError, match=r"Abuse028_x264.mat' is no MATLAB file with Annotation_file"):
        build(root, annotation="Matlab_formate")
    savemat(folder / "Abuse028_x264.mat", {"Annotation": 1})
    with pytest.raises(DatasetError, match=r"Abuse028_x264.mat' is no MATLAB file"):
        build(root, annotation="Matlab_formate")
    for file in folder.glob("[A-Z]*.mat"):
        file.unlink()
    with pytest.raises(DatasetNotFoundError, match=r"expects .mat files in '.*Matlab_formate', which holds none"):
        build(root, annotation="Matlab_formate")


def test_released_lists_are_in_another_order(root: Path) -> None:
    for part, names in (("Train", [Path(line).stem for line in TRAIN]), ("Test", list(TEST))):
        text = "".join(rf"G:\UCF_{part}_ten_crop_i3d\{name}_i3d.npy" + "\n" for name in sorted(names))  # abnormal first
        (root / f"{part}.list").write_text(text)
    train, test = build(root, train_list="Train.list", test_list="Test.list")
    assert sorted(everything(train)["image_path"]) == sorted(Path(line).stem for line in TRAIN)
    assert dict(zip(everything(test)["image_path"], positives(test)[0], strict=True)) == dict(
        zip(TEST, positives(build(root)[1])[0], strict=True)
    )


def test_without_lists_all_features_are_taken(root: Path) -> None:
    train, test = build(root, train_list=None, test_list=None)
    assert sorted(everything(train)["image_path"]) == sorted(Path(line).stem for line in TRAIN)
    assert sorted(everything(test)["image_path"]) == sorted(TEST)


def test_one_file_a_crop(root: Path, save: Save) -> None:
    for line in TRAIN:
        values = np.load(root / f"UCF_Train_ten_crop_i3d/{Path(line).stem}_i3d.npy")
        for crop in range(10):
            save(f"crops/{Path(line).stem}_{crop}.npy", values=values[:, crop])
    got, wanted = (everything(build(root, **options)[0]) for options in ({"train_features": "crops"}, {}))
    assert got["image_path"] == wanted["image_path"]
    assert bool((got["snippet_features"] == wanted["snippet_features"]).all())


def test_a_list_with_another_count_is_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build(root)
    assert "UCF-Crime: 3 normal and 2 anomalous training, 1 normal and 3 anomalous test videos" in caplog.text
    assert "has published 800, 810, 150 and 140" in caplog.text


def test_missing_root_lists_features_and_annotation(root: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"UCFCrime expects .*root='nowhere', which does not exist.*authors' page"
    ):
        build(Path("nowhere"))
    with pytest.raises(DatasetNotFoundError, match=r"UCFCrime expects '.*none.txt', which does not exist"):
        build(root, annotation="none.txt")
    (root / "Anomaly_Train.txt").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"expects '.*Anomaly_Train.txt', which does not exist. Lists and annotation"
    ):
        build(root)
    (root / "UCF_Test_ten_crop_i3d/Stealing019_x264_i3d.npy").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"1 of 4 videos in '.*Anomaly_Test.txt' have no features in .*: Stealing019_x264"
    ):
        build(root, train_list=None)
    for file in (root / "UCF_Train_ten_crop_i3d").iterdir():
        file.unlink()
    with pytest.raises(DatasetNotFoundError, match=r"UCF_Train_ten_crop_i3d', which holds no .npy file"):
        build(root, train_list=None)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("Abuse028_x264.mp4", "Abuse029_x264.mp4", DatasetNotFoundError, "says nothing of test video 'Abuse028_x264'"),
        ("5  20  -1  -1", "-1  -1  -1  -1", DatasetError, "has 0 events of test video 'Abuse028_x264'.* that it is anomalous"),
        ("Normal  -1  -1", "Normal  3  9", DatasetError, "has 1 events of test video 'Normal_Videos_003_x264'.* it is normal"),
        ("5  20  -1  -1", "5  20  -1", DatasetError, r"has the line 'Abuse028_x264.mp4  Abuse  5  20  -1'; expected a name"),
        ("5  20  -1  -1", "5  20  -1  -1  40  9", DatasetError, "expected a name"),
        ("5  20  -1  -1", "5  2o  -1  -1", DatasetError, "expected a name"),
        ("5  20  -1  -1", "20  5  -1  -1", DatasetError, r"lasts from frame 19 to before 5 \(counted from 0\)"),
        ("5  20  -1  -1", "500  600  -1  -1", DatasetError, "event of video 'Abuse028_x264' lasts from frame 499"),
        ("5  20  -1  -1", "0  20  -1  -1", DatasetError, "lasts from frame -1"),
        ("Arson011", "Abuse028", DatasetError, "has video 'Abuse028_x264' twice"),
    ],
)  # fmt: skip
def test_annotations_that_cannot_be_right(root: Path, old: str, new: str, error: type[Exception], message: str) -> None:
    assert old in lines()
    (root / "Temporal_Anomaly_Annotation.txt").write_text(lines().replace(old, new, 1))
    with pytest.raises(error, match=message):
        build(root)


def test_videos_of_another_kind(root: Path) -> None:
    (root / "UCF_Train_ten_crop_i3d/Abuse001_x264_i3d.npy").rename(root / "UCF_Train_ten_crop_i3d/Abus001_x264_i3d.npy")
    with pytest.raises(
        DatasetError, match=r"'Abus001_x264' in .* begins with none of Normal, Abuse, .* Did you mean 'Abuse'\?"
    ):
        build(root, train_list=None)
