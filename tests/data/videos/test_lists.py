"""Names in lists and files, grouped crops, frame truth from files and events."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.data.videos.features import Video
from anomaly_suite.data.videos.lists import (
    find_features,
    log_counts,
    mark_events,
    read_list,
    read_truth,
    require_features,
    split_name,
)
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]


@pytest.mark.parametrize(
    ("line", "name", "crop"),
    [
        ("01_0014", "01_0014", ""),
        (r"E:\SH_Train_ten_crop_i3d\01_002_i3d.npy", "01_002", ""),
        ("/data/UCF_Test_ten_crop_i3d/Normal_Videos_003_x264_i3d.npy", "Normal_Videos_003_x264", ""),
        ("Abuse/Abuse001_x264.mp4", "Abuse001_x264", ""),
        ("Abuse001_x264_7.npy", "Abuse001_x264", "7"),
        ("Abuse001_x264_c3d.npy", "Abuse001_x264", ""),
        ("RGB/Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6__0.npy", "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6", "0"),
        ("v=U6MC8JJJZSY__#1_label_G-0-0.mp4", "v=U6MC8JJJZSY__#1_label_G-0-0", ""),
        ("v=8cTqh9tMz_I__#1_label_A", "v=8cTqh9tMz_I__#1_label_A", ""),
        ("Test001.npy", "Test001", ""),
    ],
)  # fmt: skip
def test_names_in_every_published_form(line: str, name: str, crop: str) -> None:
    assert split_name(line) == (name, crop)


def test_a_line_without_name() -> None:
    with pytest.raises(DatasetError, match="'a/' names no video"):
        split_name("a/")


class TestLists:
    def read(self, tmp_path: Path, text: str) -> list[str]:
        (tmp_path / "some.list").write_bytes(text.encode("utf-8-sig"))
        return read_list(tmp_path / "some.list", dataset="Some", obtain="Ask for it.")

    def test_order_and_blank_lines(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, "b/Abuse002_x264.mp4\r\n\r\n  Abuse001_x264.mp4  \r\n") == [
            "Abuse002_x264",
            "Abuse001_x264",
        ]

    def test_one_line_a_crop(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, "x__0.npy\nx__1.npy\ny__0.npy\ny__1.npy\n") == ["x", "y"]

    def test_a_line_twice(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"some.list' lists video 'x' twice"):
            self.read(tmp_path, "x\ny\nx.npy\n")

    def test_missing_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"some.list' is empty. Ask for it."):
            self.read(tmp_path, "\n \n")
        with pytest.raises(
            DatasetNotFoundError, match=r"Some expects '.*none.list', which does not exist. Ask for it."
        ):
            read_list(tmp_path / "none.list", dataset="Some", obtain="Ask for it.")


class TestFindFeatures:
    def find(self, folder: Path) -> dict[str, tuple[Path, ...]]:
        return find_features(folder, dataset="Some", obtain="Extract them.")

    def test_one_file_a_video_in_any_subfolder(self, save: Save, tmp_path: Path) -> None:
        files = [save("f/b_i3d.npy"), save("f/more/a.npy")]
        for junk in ("f/._b_i3d.npy", "f/__MACOSX/x.npy", "f/.cache/y.npy", "f/readme.txt"):
            (tmp_path / junk).parent.mkdir(exist_ok=True)
            (tmp_path / junk).write_bytes(b"junk")
        assert self.find(tmp_path / "f") == {"b": (files[0],), "a": (files[1],)}

    @pytest.mark.parametrize("mark", ["_", "__"])
    def test_crops_are_ordered(self, save: Save, tmp_path: Path, mark: str) -> None:
        files = {crop: save(f"f/v{mark}{crop}.npy") for crop in (3, 9, 0, 1, 5, 2, 8, 7, 4, 6)}
        assert self.find(tmp_path / "f") == {"v": tuple(files[crop] for crop in range(10))}

    def test_a_missing_crop(self, save: Save, tmp_path: Path) -> None:
        for name in ("a__0", "a__1", "b__0", "b__1", "c__0"):
            save(f"f/{name}.npy")
        with pytest.raises(
            DatasetError, match=r"has crops 0 of video 'c' and 0, 1 of 'a'. Give every video the same files"
        ):
            self.find(tmp_path / "f")
        save("g/a__1.npy")
        with pytest.raises(DatasetError, match="has crops 1 of video 'a' and 1 of 'a'"):
            self.find(tmp_path / "g")

    def test_two_files_of_one_video(self, save: Save, tmp_path: Path) -> None:
        save("f/a.npy")
        save("f/a_i3d.npy")
        with pytest.raises(DatasetError, match=r"a.npy' and '.*a_i3d.npy' are features of one video"):
            self.find(tmp_path / "f")

    def test_missing_and_empty_folders(self, tmp_path: Path) -> None:
        with pytest.raises(
            DatasetNotFoundError, match=r"Some expects snippet features in '.*f', which does not exist. Extract"
        ):
            self.find(tmp_path / "f")
        (tmp_path / "f").mkdir()
        with pytest.raises(DatasetNotFoundError, match=r"f', which holds no .npy file. Extract them."):
            self.find(tmp_path / "f")

    def test_videos_without_features(self, tmp_path: Path) -> None:
        with pytest.raises(
            DatasetNotFoundError, match=r"4 of 5 videos in the list have no features in '.*': b, c, d, \.\.\. Complete"
        ):
            require_features(list("abcde"), ["a"], folder=tmp_path, source="the list")
        require_features(list("ab"), list("abc"), folder=tmp_path, source="the list")


class TestTruth:
    @pytest.mark.parametrize("kind", ["uint8", "float64", "bool", "int64"])
    @pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1)])
    def test_published_types(self, save: Save, kind: str, shape: tuple[int, ...]) -> None:
        values = np.array([0, 1, 1, 0, 1])
        truth = read_truth(save("t.npy", values=values.reshape(shape).astype(kind)))
        assert truth.dtype == np.bool_
        assert truth.tolist() == values.astype(bool).tolist()

    @pytest.mark.parametrize(
        "values",
        [np.array([0, 2]), np.array([0.5]), np.zeros((3, 4)), np.array([0, np.nan]), np.array(["0", "1"]), np.array(1), np.array(1 + 0j)],
        ids=["two", "half", "table", "nan", "text", "number", "complex"],
    )  # fmt: skip
    def test_anything_else(self, save: Save, values: Any) -> None:
        with pytest.raises(DatasetError, match=r"t.npy' must hold a 0 or 1 for each frame"):
            read_truth(save("t.npy", values=values))

    def test_no_frames(self, save: Save) -> None:
        with pytest.raises(DatasetError, match=r"t.npy' (must hold|is no plain)"):
            read_truth(save("t.npy", values=np.zeros(0)))

    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        np.save(tmp_path / "t.npy", np.array([0, 1], dtype=object), allow_pickle=True)
        with pytest.raises(DatasetError, match=r"t.npy' is no plain NumPy array"):
            read_truth(tmp_path / "t.npy")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetNotFoundError, match=r"no file '.*t.npy'"):
            read_truth(tmp_path / "t.npy")


class TestEvents:
    def test_several_events_cut_at_the_end(self) -> None:
        truth = mark_events([(0, 2), (5, 5), (7, 12)], 10, video="v")
        assert truth.nonzero()[0].tolist() == [0, 1, 7, 8, 9]
        assert len(truth) == 10

    @pytest.mark.parametrize("event", [(-1, 3), (5, 4), (48, 50)])
    def test_events_of_another_video(self, event: tuple[int, int]) -> None:
        with pytest.raises(DatasetError, match=f"event of video 'v' lasts from frame {event[0]} to before {event[1]}"):
            mark_events([event], 32, video="v")

    def test_an_event_in_lost_frames_is_none(self) -> None:
        assert not mark_events([(47, 60)], 32, video="v").any()
        assert not mark_events([(16 * 102 - 1, 16 * 110)], 16 * 100, video="v").any()
        with pytest.raises(DatasetError, match="has 1600 frames"):
            mark_events([(16 * 102, 16 * 110)], 16 * 100, video="v")


def test_counts_are_logged_and_compared(caplog: pytest.LogCaptureFixture) -> None:
    train = [Video(f"{row}", int(row > 1), torch.zeros(1, 1, 1)) for row in range(5)]
    test = [Video("t", 1, torch.zeros(1, 1, 1))]
    with caplog.at_level(logging.INFO):
        log_counts("Some set", train, test, (2, 3, 0, 1))
    assert caplog.messages == ["Some set: 2 normal and 3 anomalous training, 0 normal and 1 anomalous test videos"]
    with caplog.at_level(logging.INFO):
        log_counts("Some set", train, test, (2, 3, 1, 1))
    assert caplog.messages[-1] == "Some set has published 2, 3, 1 and 1"
