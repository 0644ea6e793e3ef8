from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_suite.callbacks.overlay import (
    CURVE,
    EVENT,
    LINE,
    Originals,
    score_range,
    score_strip,
    write_overlay,
)
from anomaly_suite.callbacks.videos import Frames
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.videos import FOLDER_FPS, frame_rate, open_video

WIDE, HIGH = 160, 96


def grey(count, *, wide=WIDE, high=HIGH):
    """Frames that become brighter, 4 levels each."""
    return [np.full((high, wide, 3), 20 + 4 * index, np.uint8) for index in range(count)]


def film(path, pictures, *, fps=12.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    size = pictures[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def folder(path, pictures, *, name="frame_{}.png"):
    path.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(path / name.format(index)), picture)
    return path


def frames_with(score, label=None):
    return Frames(np.array(score, np.float32), None if label is None else np.array(label, bool))


def decoded(path):
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in open_video(path)[1]]


# Writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [film, folder])
def test_every_scored_frame_is_there_with_the_curve_below(tmp_path, kind):
    original = kind(tmp_path / "v.avi", grey(24))
    score = np.linspace(0, 1, 24)
    write_overlay(original, tmp_path / "out" / "v.mp4", frames_with(score, score > 0.5), threshold=0.7)
    found = decoded(tmp_path / "out" / "v.mp4")
    assert len(found) == 24
    assert all(picture.shape == (HIGH + 48, WIDE, 3) for picture in found)
    for index, picture in enumerate(found):
        assert np.median(picture[:HIGH]) == pytest.approx(20 + 4 * index, abs=6)
    assert frame_rate(tmp_path / "out" / "v.mp4") == (12.5 if kind is film else FOLDER_FPS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["v.mp4"]


def test_frames_at_the_threshold_have_a_red_border(tmp_path):
    score = [0.25, 0.5, 0.75, 0.0] * 4
    write_overlay(film(tmp_path / "v.mp4", grey(16)), tmp_path / "o.mp4", frames_with(score), threshold=0.5, fps=5.0)
    for value, picture in zip(score, decoded(tmp_path / "o.mp4"), strict=True):
        edges = [picture[0, 8:-8], picture[HIGH - 1, 8:-8], picture[8 : HIGH - 8, 0], picture[8 : HIGH - 8, -1]]
        blue, green, red = np.median(np.concatenate(edges), axis=0)
        assert (red - max(blue, green) > 80) == (value >= 0.5)
    assert frame_rate(tmp_path / "o.mp4") == 5
    write_overlay(tmp_path / "v.mp4", tmp_path / "plain.mp4", frames_with(score))
    edge = np.concatenate([picture[0] for picture in decoded(tmp_path / "plain.mp4")])
    assert np.ptp(edge.astype(int), axis=1).max() < 12  # without a threshold nothing is red


def test_the_cursor_moves_from_left_to_right(tmp_path):
    score = [0.0] * 20
    write_overlay(film(tmp_path / "v.mp4", grey(20)), tmp_path / "o.mp4", frames_with(score))
    columns = [int(picture[HIGH + 20 : HIGH + 40].mean((0, 2)).argmin()) for picture in decoded(tmp_path / "o.mp4")]
    np.testing.assert_allclose(columns, np.arange(20) * WIDE / 20, atol=1)


@pytest.mark.parametrize(("wide", "high", "size"), [(33, 27, (34, 76)), (34, 26, (34, 74)), (50, 401, (50, 502))])
def test_odd_sizes_grow(tmp_path, wide, high, size):
    original = folder(tmp_path / "v", grey(3, wide=wide, high=high))
    write_overlay(original, tmp_path / "o.mp4", frames_with([0.1, 0.2, 0.3]))
    assert {picture.shape[1::-1] for picture in decoded(tmp_path / "o.mp4")} == {size}


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    original = folder(tmp_path / "v", grey(12))  # frame_10 stands before frame_2 in the alphabet
    (original / "._frame_3.png").write_bytes(b"junk")
    (original / "notes.txt").write_text("none")
    assert [int(picture[0, 0, 0]) for picture in decoded(original)] == [20 + 4 * index for index in range(12)]
    cv2.imwrite(str(original / "frame_12.png"), np.full((10, 10, 3), 200, np.uint8))
    write_overlay(original, tmp_path / "o.mp4", frames_with([0.5] * 13))
    last = decoded(tmp_path / "o.mp4")[12]
    assert last.shape == (HIGH + 48, WIDE, 3)
    assert np.median(last[:HIGH]) == pytest.approx(200, abs=6)


@pytest.mark.parametrize(("there", "written"), [(14, 14), (30, 30), (46, 30)])
def test_an_original_may_differ_by_a_snippet(tmp_path, there, written):
    write_overlay(film(tmp_path / "v.mp4", grey(there)), tmp_path / "o.mp4", frames_with([0.5] * 30))
    assert len(decoded(tmp_path / "o.mp4")) == written


@pytest.mark.parametrize(("there", "word"), [(13, "fewer"), (47, "more")])
def test_an_original_of_another_video_is_refused(tmp_path, there, word):
    original = film(tmp_path / "v.mp4", grey(there))
    with pytest.raises(DatasetError, match=rf"v\.mp4' has {word} frames than the 30 scores of its video"):
        write_overlay(original, tmp_path / "out" / "o.mp4", frames_with([0.5] * 30))
    assert list((tmp_path / "out").iterdir()) == []


def test_originals_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    with pytest.raises(DatasetError, match=r"broken\.mp4. \(1500 bytes\) cannot be opened as a video"):
        write_overlay(broken, tmp_path / "o.mp4", frames_with([0.5] * 3))
    original = folder(tmp_path / "v", grey(3))
    (original / "frame_1.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"frame_1\.png"):
        write_overlay(original, tmp_path / "o.mp4", frames_with([0.5] * 3))
    assert not (tmp_path / "o.mp4").exists()
    assert not list(tmp_path.glob(".*"))


# Finding -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for name in (
        "Abuse/Abuse028_x264.mp4",
        "Film.2001__#1_label_A.AVI",
        "ped1/Test001.avi",
        "ped2/Test001.avi",
        "a.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("frames/01_0014/000.jpg", "frames/.thumbs/000.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Abuse028_x264", "Abuse/Abuse028_x264.mp4"),
        ("Abuse/Abuse028_x264.mp4", "Abuse/Abuse028_x264.mp4"),
        ("features/Abuse028_x264.npy", "Abuse/Abuse028_x264.mp4"),
        ("Film.2001__#1_label_A", "Film.2001__#1_label_A.AVI"),
        ("01_0014", "frames/01_0014"),
        ("ped2/Test001", "ped2/Test001.avi"),
    ],
)
def test_originals_are_found_by_name(tree, name, found):
    assert Originals(tree, [name, "other"]).find(name) == tree / found


def test_originals_that_are_not_certain(tree):
    with pytest.raises(DatasetError, match="2 originals of video 'Test001' in"):
        Originals(tree, ["Test001"]).find("Test001")
    with pytest.raises(DatasetError, match="no originals of video 'a' in"):
        Originals(tree, ["a"]).find("a")
    with pytest.raises(DatasetError, match="no originals of video '000'"):
        Originals(tree, ["000"]).find("000")
    # One file cannot be the original of two videos that only their folders tell apart.
    originals = Originals(tree, ["train/01_0014", "test/01_0014"])
    with pytest.raises(DatasetError, match="no originals of video 'test/01_0014'"):
        originals.find("test/01_0014")
    assert Originals(tree, ["test/01_0014"]).find("test/01_0014") == tree / "frames" / "01_0014"


# The strip -----------------------------------------------------------------------------------------------------------


def columns(strip, color):
    return np.flatnonzero((strip == color).all(-1).any(0)).tolist()


def test_the_strip_shades_events_and_marks_the_threshold():
    label = [False] * 10 + [True] * 5 + [False] * 24 + [True]
    strip = score_strip(frames_with([0.0] * 40, label), 80, 40, threshold=0.5)
    assert strip.shape == (40, 80, 3)
    assert columns(strip, EVENT) == [*range(20, 30), 78, 79]
    (row,) = np.flatnonzero((strip == LINE).all(-1).all(1))
    assert row == round(37 * 0.5 + 1)
    assert (strip[38] == CURVE).all(-1).mean() > 0.9  # a score of 0 lies at the bottom
    wide = score_strip(frames_with([0.0] * 4000, [False] * 3999 + [True]), 80, 40, threshold=None)
    assert columns(wide, EVENT) == [79]  # one frame is still seen


def test_a_column_shows_its_highest_frame():
    score = np.zeros(1000)
    score[503] = 1.0
    strip = score_strip(frames_with(score), 100, 40, threshold=None)
    top = (strip[:4] != 255).any((0, 2))
    assert np.flatnonzero(top).tolist() == [50]
    few = score_strip(frames_with([0.0, 1.0]), 100, 40, threshold=None)
    assert (few[1, 55:] == CURVE).all()
    assert (few[1, :45] == 255).all()


def test_scores_that_are_no_numbers_are_drawn_at_the_ends():
    strip = score_strip(frames_with([np.nan, np.inf, -np.inf, 5.0, 7.0] * 20), 100, 40, threshold=6.0)
    assert strip.shape == (40, 100, 3)
    assert (strip[1] == CURVE).all(-1).any()
    assert (strip[38] == CURVE).all(-1).any()


@pytest.mark.parametrize(
    ("score", "threshold", "ends"),
    [
        ([0.2, 0.4], None, (0, 1)),
        ([0.0, 1.0], 0.5, (0, 1)),
        ([0.2, 0.4], 1.5, (0.2, 1.5)),
        ([-1.0, 3.0, np.inf], None, (-1, 3)),
        ([np.nan], None, (0, 1)),
        ([20.0, 20.0], None, (10, 30)),
        ([-2.0], -2.0, (-3, -1)),
    ],
)
def test_the_range_holds_scores_and_threshold(score, threshold, ends):
    assert score_range(np.array(score, np.float32), threshold) == pytest.approx(ends)
