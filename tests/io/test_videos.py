"""Videos on disk: finding, opening and ordering frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import frames, write_folder, write_video

from anomaly_suite.errors import DatasetError
from anomaly_suite.io.videos import FOLDER_FPS, deep_frames, frame_files, frame_rate, is_frame, open_video, walk_videos


class TestReading:
    def test_frames_are_in_numeric_order(self, tmp_path: Path) -> None:
        images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 4, 3), 20, np.uint8)
        announced, found = open_video(write_folder(tmp_path / "v", images, "frame_{}.png"))
        assert announced == 12
        assert [int(image[0, 0, 0]) for image in found] == [20 * n for n in range(12)]

    @pytest.mark.parametrize("kind", ["folder", "video"])
    def test_colours_are_red_green_blue(self, tmp_path: Path, kind: str) -> None:
        images = np.zeros((3, 16, 16, 3), np.uint8)
        images[..., 0], images[..., 1] = 200, 100
        path = write_folder(tmp_path / "v", images) if kind == "folder" else write_video(tmp_path / "v.avi", images)
        _, found = open_video(path)
        assert [image[0, 0].tolist() for image in found] == [[200, 100, 0]] * 3

    @pytest.mark.parametrize("pattern", ["{:03d}.jpg", "{:03d}.bmp", "{:03d}.tif"])
    def test_grey_frames_become_colour(self, tmp_path: Path, pattern: str) -> None:
        (tmp_path / "v").mkdir()
        for number in range(1, 4):
            cv2.imwrite(str(tmp_path / "v" / pattern.format(number)), np.full((8, 8), 10 * number, np.uint8))
        (tmp_path / "v" / "._001.jpg").write_bytes(b"left over")
        _, found = open_video(tmp_path / "v")
        images = list(found)
        assert [image.shape for image in images] == [(8, 8, 3)] * 3
        assert [int(image.mean()) for image in images] == [10, 20, 30]

    def test_masks_beside_frames_are_refused(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "v", frames(3))
        (folder / "2.bmp").write_bytes(b"")
        with pytest.raises(DatasetError, match=r"holds '2\.bmp' and '2\.png'"):
            open_video(folder)

    def test_frames_of_a_video_are_counted_and_whole(self, tmp_path: Path) -> None:
        images = frames(20)
        announced, found = open_video(write_video(tmp_path / "v.avi", images))
        assert announced == 20
        assert np.array_equal(np.stack(list(found)), images)

    def test_what_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "v.mp4").write_bytes(b"no video")
        with pytest.raises(DatasetError, match=r"v\.mp4' \(8 bytes\) cannot be opened as a video"):
            open_video(tmp_path / "v.mp4")
        folder = write_folder(tmp_path / "v", frames(2))
        (folder / "2.png").write_bytes(b"no image")
        _, found = open_video(folder)
        next(found)
        with pytest.raises(DatasetError, match=r"2\.png' \(8 bytes\) cannot be decoded"):
            next(found)


def test_files_and_folders_of_frames_are_found(tmp_path: Path) -> None:
    for name in (
        "a/1.png",
        "films/b.MP4",
        "films/thumbnail.png",
        "c/d/1.jpg",
        "c/notes.txt",
        ".hidden/1.png",
        "c/._x.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    wanted = {tmp_path / "a", tmp_path / "films" / "b.MP4", tmp_path / "c" / "d"}
    assert set(walk_videos(tmp_path)) == wanted
    assert list(walk_videos(tmp_path / "a")) == [tmp_path / "a"]
    assert list(walk_videos(tmp_path / "c" / "notes.txt")) == [tmp_path / "c" / "notes.txt"]
    assert not list(walk_videos(tmp_path / "missing"))
    assert [is_frame(name) for name in ("1.PNG", ".1.png", "1.txt", "png")] == [True, False, False, False]
    assert [file.name for file in frame_files(tmp_path / "c" / "d")] == ["1.jpg"]


def test_frame_rate(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    writer.write(frames(1)[0])
    writer.release()
    assert frame_rate(path) == 10
    assert frame_rate(write_folder(tmp_path / "f", frames(1))) == FOLDER_FPS == 25
    (tmp_path / "w.avi").write_bytes(b"no video")
    assert frame_rate(tmp_path / "w.avi") == FOLDER_FPS


def test_deep_frames_have_one_scale(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for number, top in enumerate((255, 1000, 4095)):
        cv2.imwrite(str(tmp_path / f"v/{number}.png"), np.array([[100, top]], np.uint16))
    assert [file.name for file in deep_frames(tmp_path / "v")] == ["0.png", "1.png", "2.png"]
    _, found = open_video(tmp_path / "v", bit_depth=12)
    assert [frame[0, :, 0].tolist() for frame in found] == [[6, 15], [6, 62], [6, 255]]
    cv2.imwrite(str(tmp_path / "v/0.png"), np.zeros((1, 2), np.uint8))
    assert deep_frames(tmp_path / "v") == deep_frames(tmp_path / "none") == []


def test_two_frames_of_one_number_and_links_that_lead_back(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / f"v/{name}"), np.zeros((2, 2), np.uint8))
    (tmp_path / "v/again").symlink_to(tmp_path, target_is_directory=True)
    assert list(walk_videos(tmp_path)) == [tmp_path / "v"]
    cv2.imwrite(str(tmp_path / "v/002.jpg"), np.zeros((2, 2), np.uint8))
    with pytest.raises(DatasetError, match=r"holds '(002\.jpg|2\.png)' and '(002\.jpg|2\.png)'.*one image per frame"):
        frame_files(tmp_path / "v")
