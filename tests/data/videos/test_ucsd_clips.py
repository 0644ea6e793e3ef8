"""Clips of a look-alike of UCSD Ped2: what is read, and what is refused in one sentence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ucsd_parts
from ucsd_parts import annotate, frame_of, mask_of, write

from anomaly_suite.data.videos.ucsd_clips import Clip, read_clips, read_frames, read_masks
from anomaly_suite.errors import DatasetError, DatasetNotFoundError


@pytest.mark.parametrize(("suffix", "mask_suffix", "start"), [(".tif", ".bmp", 1), (".png", ".png", 0)])
def test_frames_masks_and_truth(tmp_path: Path, suffix: str, mask_suffix: str, start: int) -> None:
    folder = ucsd_parts.make(tmp_path, suffix=suffix, mask_suffix=mask_suffix, start=start)
    train, test = read_clips(folder, "Train"), read_clips(folder, "Test")
    assert {clip.name: len(clip.frames) for clip in (*train, *test)} == ucsd_parts.TRAIN | ucsd_parts.TEST
    assert not any(clip.truth.any() or clip.masks for clip in train)
    for clip in test:
        numbers = range(1, len(clip.frames) + 1)
        assert clip.truth.tolist() == [ucsd_parts.is_anomalous(clip.name, number) for number in numbers]
        expected = np.stack([mask_of(clip.name, number) > 0 for number in numbers])
        assert np.array_equal(read_masks(clip, must_agree=True), expected)
        frames = read_frames(clip.frames)
        assert np.array_equal(frames, np.stack([frame_of(clip.name, number) for number in numbers]))
    assert read_frames(test[0].frames, size=(10, 12)).shape == (8, 10, 12)
    assert read_masks(test[0], size=(10, 12)).shape == (8, 10, 12)


def read_both(folder: Path) -> tuple[list[Clip], list[Clip]]:
    return read_clips(folder, "Train"), read_clips(folder, "Test")


def _gap(folder: Path) -> None:
    (folder / "Train/Train002/003.tif").unlink()


def _other_size(folder: Path) -> None:
    for file in (folder / "Test/Test002").glob("0*.tif"):
        write(file, np.zeros((20, 30), np.uint8))


def _lost_mask(folder: Path) -> None:
    (folder / "Test/Test001_gt/008.bmp").unlink()


def _misnamed_mask(folder: Path) -> None:
    (folder / "Test/Test001_gt/008.bmp").rename(folder / "Test/Test001_gt/009.bmp")


def _lost_line(folder: Path) -> None:
    annotate(folder, ["3:6", "1:2"])


def _odd_line(folder: Path) -> None:
    annotate(folder, ["3:6", "one to two", "1:0"])


def _late_event(folder: Path) -> None:
    annotate(folder, ["3:99", "1:2", "1:0"])


def _masks_in_training(folder: Path) -> None:
    (folder / "Train/Train001_gt").mkdir()


def _no_frames(folder: Path) -> None:
    shutil.rmtree(folder / "Train/Train001")
    (folder / "Train/Train001").mkdir()


def _two_kinds(folder: Path) -> None:
    write(folder / "Train/Train001/002.png", frame_of("Train001", 2))


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (
        _gap,
        "Train002' must hold frames numbered from 1 (or 0) without gaps; got '004.tif' in the place of another. Complete",
    ),
    (_other_size, "must have one size; got (20, 33) in Test003 and (20, 30) in Test002 (H, W). Restore"),
    (_lost_mask, "Test001_gt' must hold one mask for each of 8 frames; got 7. Complete the masks"),
    (_misnamed_mask, "Test001_gt' must hold frames numbered from 1 (or 0) without gaps; got '009.bmp'"),
    (_lost_line, "UCSDped2.m' annotates 2 clips, but"),
    (_odd_line, "annotates Test002 with [one to two]; expected frames as 5:90, 140:200. Restore"),
    (_late_event, "Test001 is annotated up to frame 99, but"),
    (_masks_in_training, "Train001_gt' holds masks, but training clips must be normal. Move the clip"),
    (_two_kinds, "holds '002.png' and '002.tif', so frames cannot be told from other images"),
]


@pytest.mark.parametrize(("breaks", "sentence"), BROKEN)
def test_broken_sets_are_refused_in_one_sentence(tmp_path: Path, breaks: Callable[[Path], None], sentence: str) -> None:
    folder = ucsd_parts.make(tmp_path)
    breaks(folder)
    with pytest.raises(DatasetError, match=re.escape(sentence)) as found:
        read_both(folder)
    assert "\n" not in str(found.value)


def test_what_is_missing_says_how_to_obtain_it(tmp_path: Path) -> None:
    folder = ucsd_parts.make(tmp_path)
    _no_frames(folder)
    with pytest.raises(DatasetNotFoundError, match=r"Train001' has no frames\. UCSD_Anomaly_Dataset comes from"):
        read_clips(folder, "Train")
    (folder / "Test/UCSDped2.m").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"UCSDPed expects '.*UCSDped2.m', which does not exist"):
        read_clips(folder, "Test")
    shutil.rmtree(folder / "Test")
    with pytest.raises(DatasetNotFoundError, match=r"expects clips Test001, \.\.\. in"):
        read_clips(folder, "Test")


def test_masks_of_another_size_or_of_other_frames(tmp_path: Path) -> None:
    folder = ucsd_parts.make(tmp_path)
    write(folder / "Test/Test001_gt/001.bmp", mask_of("Test001", 3))
    clip = read_clips(folder, "Test")[0]
    with pytest.raises(DatasetError, match=r"marks 36 pixels, but the annotation calls the frame normal\. Take"):
        read_masks(clip, must_agree=True)
    write(folder / "Test/Test001_gt/001.bmp", np.zeros((5, 5), np.uint8))
    with pytest.raises(DatasetError, match=r"is \(5, 5\), but its frame '.*' is \(20, 33\) \(H, W\)\. Restore"):
        read_masks(clip)


def test_frames_of_one_clip_have_one_size(tmp_path: Path) -> None:
    folder = ucsd_parts.make(tmp_path)
    write(folder / "Train/Train001/004.tif", np.zeros((5, 5), np.uint8))
    with pytest.raises(DatasetError, match=r"must have one size; got \(5, 5\) in '.*004.tif' and \(20, 33\) before it"):
        read_frames(read_clips(folder, "Train")[0].frames)
