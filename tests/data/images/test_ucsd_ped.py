"""UCSDPed on a tiny look-alike and on the real Ped2: patches, frames, motion, splits, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import ucsd_parts

from anomaly_suite.data import UCSDPed
from anomaly_suite.data.images.ucsd_ped import cut, shows_something, with_motion
from anomaly_suite.errors import ConfigError, DatasetNotFoundError

pytestmark = pytest.mark.filterwarnings("ignore:.*has published:UserWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ucsd")
    ucsd_parts.make(folder)
    return folder


def make(root: Path, **options: Any) -> UCSDPed:
    data = UCSDPed(root=str(root), **{"patch_size": 6, "validation": "none", **options})
    data.setup()
    return data


def test_patches_are_cut_row_by_row_and_borders_dropped() -> None:
    frames = np.arange(2 * 3 * 7 * 9).reshape(2, 3, 7, 9)
    found = cut(frames, 3)
    assert found.shape == (2, 2, 3, 3, 3, 3)
    for t in range(2):
        for row in range(2):
            for column in range(3):
                expected = frames[t, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
                assert np.array_equal(found[t, row, column], expected)
    assert cut(frames[:, 0], 3).shape == (2, 2, 3, 3, 3)


def test_what_differs_from_the_median_of_the_clip_is_shown() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (70, 8, 12)).astype(np.uint8)
    found = shows_something(frames, 4, difference=60, share=0.5)
    median = np.median(frames, axis=0)
    for t in range(70):
        for row in range(2):
            for column in range(3):
                place = (slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
                share = (np.abs(frames[t][place] - median[place]) > 60).mean()
                assert found[t, row, column] == (share >= 0.5)
    assert 0 < found.mean() < 1


def test_motion_is_the_difference_to_both_neighbours() -> None:
    frames = np.array([10, 250, 20], np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    found = with_motion(frames)
    assert found[:, :, 0, 0].tolist() == [[10, 240, 240], [250, 240, 230], [20, 230, 230]]


def test_training_patches_show_people_and_tests_keep_all_that_moves(root: Path) -> None:
    data = make(root)
    train, test = data.require_splits().train, data.require_splits().test
    batch = train.batch(list(range(len(train))))  # type: ignore[attr-defined]
    assert batch["image"].shape[1:] == (1, 6, 6)
    assert bool((batch["image"].amin((1, 2, 3)) < 60 / 255).all())  # of a person
    assert not batch["label"].any()
    # one person covers one patch or two in each frame; all of them are in the lowest row of patches
    assert all(path.endswith(tuple(f"#2-{column}" for column in range(5))) for path in batch["image_path"])
    assert 16 <= len(train) <= 32  # type: ignore[arg-type]
    found = test.batch(list(range(len(test))))  # type: ignore[attr-defined]
    anomalous = [path for path, one in zip(found["image_path"], found["label"], strict=True) if one]
    assert len(anomalous) == 3 + 4  # one patch in each anomalous frame
    assert all(path.endswith("#1-2" if "Test001" in path else "#0-0") for path in anomalous)
    assert found["area"].tolist() == [36 * int(one) for one in found["label"]]
    truth = data.frames
    assert truth is not None
    assert truth.clip.tolist() == [0] * 8 + [1] * 9 + [2] * 6
    assert truth.area is not None
    assert truth.area.tolist() == [36 * int(one) for one in truth.label]
    by_frame = torch.zeros(23, dtype=torch.long).scatter_add(0, found["frame"], found["area"])
    assert torch.equal(by_frame, truth.area)
    for path, frame in zip(found["image_path"], found["frame"].tolist(), strict=True):
        clip, name = path.split("/")[-2:]
        assert frame == sum(list(ucsd_parts.TEST.values())[: int(clip[4:]) - 1]) + int(name[:3]) - 1


def test_fewer_training_frames_motion_and_resizing(root: Path) -> None:
    some = make(root, train_every=4).require_splits().train
    assert {path.split("#")[0][-7:] for path in some.batch(list(range(len(some))))["image_path"]} == {
        "001.tif",
        "005.tif",
        "009.tif",
    }  # type: ignore[attr-defined, arg-type]
    data = make(root, motion=True)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[1:] == (3, 6, 6)
    assert batch["image"][:, 1:].amax() > 0.2
    resized = make(root, image_size=(40, 66), patch_size=12)
    assert next(iter(resized.test_dataloader()))["image"].shape[1:] == (1, 12, 12)
    assert resized.frames is not None
    assert resized.frames.area is not None
    assert resized.frames.area.max() == pytest.approx(144, rel=0.1)


def test_validation_holds_out_patches_and_breaks_them(root: Path) -> None:
    whole = len(make(root).require_splits().train)  # type: ignore[arg-type]
    data = make(root, validation="augmented", val_size=5)
    splits = data.require_splits()
    assert splits.val is not None
    assert len(splits.train) == whole - 5  # type: ignore[arg-type]
    batch = splits.val.batch(list(range(10)))  # type: ignore[attr-defined]
    assert batch["label"].tolist() == [0] * 5 + [1] * 5
    assert "frame" not in batch
    assert data.validates_anomalies


@pytest.mark.parametrize("motion", [False, True])
def test_whole_frames(root: Path, motion: bool) -> None:
    data = make(root, mode="frames", motion=motion, validation="holdout", val_size=3)
    splits = data.require_splits()
    assert len(splits.train) == 16 - 3  # type: ignore[arg-type]
    batch = splits.test.batch([2, 8, 22])  # type: ignore[attr-defined]
    assert batch["image"].shape == (3, 3 if motion else 1, *ucsd_parts.SIZE)
    expected = torch.from_numpy(ucsd_parts.frame_of("Test001", 3).astype(np.float32)) / 255
    torch.testing.assert_close(batch["image"][0, 0], expected)
    if motion:
        before, after = (torch.from_numpy(ucsd_parts.frame_of("Test001", n).astype(np.float32)) / 255 for n in (2, 4))
        torch.testing.assert_close(batch["image"][0, 1:], torch.stack([expected - before, expected - after]).abs())
    assert batch["label"].tolist() == [1, 1, 0]
    assert batch["frame"].tolist() == [2, 8, 22]
    assert batch["mask"].flatten(1).sum(1).tolist() == [36, 36, 0]
    assert sum(splits.test.labels) == 7  # type: ignore[attr-defined]


def test_clips_without_masks_have_truth_of_frames_alone(tmp_path: Path) -> None:
    folder = ucsd_parts.make(tmp_path)
    for file in (folder / "Test/Test002_gt").iterdir():
        file.unlink()
    data = make(tmp_path)
    assert data.frames is not None
    assert data.frames.area is None
    batch = next(iter(data.test_dataloader()))
    assert "frame" in batch
    assert "label" not in batch
    assert "area" not in batch
    assert "mask" not in next(iter(make(tmp_path, mode="frames").test_dataloader()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"patch_size": 21}, r"patch_size must be at most 20, the smaller side of the frames; got 21\. Lower it"),
        (
            {"foreground_difference": 200.0},
            r"no patch of the training clips differs by more than foreground_difference=200\.0",
        ),
        ({"subset": "ped3"}, "subset"),
        ({"mode": "frame"}, "mode"),
        ({"train_every": 0}, "train_every must be at least 1"),
        ({"foreground_share": 1.5}, "foreground_share must be in"),
    ],
)
def test_impossible_options(root: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(root, **options)


def test_a_wrong_root_says_where_the_right_one_is(root: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"UCSDPed: root should be '.*', which holds the folder UCSDped2"):
        make(root / "UCSDped2")
    with pytest.raises(
        DatasetNotFoundError, match=r"expects a folder with the folder UCSDped1|expects the folder UCSDped1"
    ):
        make(root, subset="ped1")


def test_the_real_ped2(real_data: Path) -> None:
    root = real_data / "ucsd/UCSD_Anomaly_Dataset.v1p2"
    if not (root / "UCSDped2").is_dir():
        pytest.skip("needs UCSD Ped2")
    from anomaly_suite.data.videos.ucsd_clips import read_clips, read_frames, read_masks

    train, test = read_clips(root / "UCSDped2", "Train"), read_clips(root / "UCSDped2", "Test")
    assert (len(train), sum(len(clip.frames) for clip in train)) == (16, 2550)
    assert [len(clip.frames) for clip in test] == [180, 180, 150, 180, 150, 180, 180, 180, 120, 150, 180, 180]
    assert sum(int(clip.truth.sum()) for clip in test) == 1648
    clip = test[8]  # its masks are called frame001 and so on
    assert read_masks(clip, must_agree=True).any((1, 2)).tolist() == clip.truth.tolist()
    frames = read_frames(clip.frames)
    assert frames.shape == (120, 240, 360)
    shown = shows_something(frames, 30, difference=20, share=0.1)
    assert shown.shape == (120, 8, 12)
    assert 0.02 < shown.mean() < 0.6
