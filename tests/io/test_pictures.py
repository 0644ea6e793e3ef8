"""New pictures as people give them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import frames as frames_of
from video_files import write_video

from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io.pictures import Picture, common_folder, find_pictures, with_channels


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((4, 5, 3), np.uint8))
    return path


def test_a_file_a_folder_a_pattern_and_a_list(tmp_path: Path) -> None:
    first, second, third = (picture(tmp_path / name) for name in ("a.png", "sub/b.jpg", "sub/deep/c.PNG"))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "list.csv").write_text("path\nsub/b.jpg\na.png\n")
    (tmp_path / "list.jsonl").write_text('{"path": "a.png"}\n')
    assert find_pictures([str(first)]) == [Picture(first)]
    assert find_pictures([str(tmp_path)]) == [Picture(path) for path in (first, second, third)]
    assert find_pictures([str(tmp_path / "**" / "*.[jP]*")]) == [Picture(path) for path in (second, third)]
    assert find_pictures([str(tmp_path / "list.csv")]) == [Picture(path) for path in (second, first)]
    assert find_pictures([str(tmp_path / "list.jsonl"), str(tmp_path)])[0] == Picture(first)  # and once
    assert len(find_pictures([str(first), str(tmp_path), str(tmp_path / "*.png")])) == 3
    assert common_folder(find_pictures([str(tmp_path)])) == tmp_path
    assert common_folder([Picture(second), Picture(third)]) == tmp_path / "sub"


def test_a_name_with_signs_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    path = picture(tmp_path / "part [3].png")
    assert find_pictures([str(path)]) == [Picture(path)]


def test_a_video_is_all_its_frames(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "in" / "clip.mkv", frames_of(3))
    still = picture(tmp_path / "in" / "a.png")
    frames = [Picture(clip, number) for number in range(3)]
    assert find_pictures([str(clip)]) == frames
    assert find_pictures([str(tmp_path / "in")]) == [Picture(still), *frames]
    assert frames[2].name == f"{clip}/000002"


@pytest.mark.parametrize(
    ("word", "error", "says"),
    [
        ("gone.png", DatasetNotFoundError, r"'gone\.png' does not exist\. Check the path"),
        ("empty", DatasetNotFoundError, r"pictures or videos in 'empty'; it holds none\. Pictures end in .*\.png"),
        ("*.png", DatasetNotFoundError, r"match '\*\.png'; there is none"),
        ("notes.txt", DatasetError, r"'notes\.txt' is of a kind that is not read.*A list ends in"),
        ("list.csv", DatasetError, r"'notes\.txt' is of a kind"),
        ("other.csv", DatasetError, "path"),
        ("clip.mp4", DatasetError, r"clip\.mp4"),
    ],
)
def test_what_is_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, error: type[Exception], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("notes.txt").write_text("x")
    Path("list.csv").write_text("path\nnotes.txt\n")
    Path("other.csv").write_text("file\na.png\n")
    Path("clip.mp4").write_bytes(b"no video")
    with pytest.raises(error, match=says):
        find_pictures([word])


def test_channels() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey = with_channels(colour, 1)
    assert grey.shape == (6, 5, 1)
    assert np.abs(grey[..., 0] - colour @ [0.299, 0.587, 0.114]).max() <= 1
    assert (with_channels(grey, 3) == grey).all()
    assert with_channels(colour, 3) is colour
