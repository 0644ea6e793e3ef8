"""Names of videos in lists and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomaly_suite.data.videos.lists import choose_names, find_folders, read_list, split_name
from anomaly_suite.errors import DatasetError, DatasetNotFoundError


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
        with pytest.raises(DatasetError, match=r"some.list' lists video 'x' twice, in lines 1 and 4"):
            self.read(tmp_path, "x\n\ny\nx.npy\n")

    def test_missing_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"some.list' is empty. Ask for it."):
            self.read(tmp_path, "\n \n")
        with pytest.raises(
            DatasetNotFoundError, match=r"Some expects '.*none.list', which does not exist. Ask for it."
        ):
            read_list(tmp_path / "none.list", dataset="Some", obtain="Ask for it.")


def test_names_of_a_list_or_else_those_given(tmp_path: Path) -> None:
    (tmp_path / "some.list").write_text("b.npy\na.npy")

    def choose(listed: str | None) -> tuple[list[str], str]:
        return choose_names(tmp_path, listed, ["c"], source="the split", dataset="Some", obtain="Ask for it.")

    assert choose(None) == (["c"], "the split")
    assert choose("some.list") == (["b", "a"], f"'{tmp_path / 'some.list'}'")
    with pytest.raises(DatasetNotFoundError, match=r"Some expects '.*none.list', which does not exist. Ask for it."):
        choose("none.list")


def test_one_folder_of_a_part_makes_a_root(tmp_path: Path) -> None:
    (tmp_path / "set" / "b").mkdir(parents=True)
    find_folders(tmp_path / "set", ("a", "b"), dataset="Some", obtain="Ask for it.")
    with pytest.raises(DatasetNotFoundError, match=r"root should be '.*set', which holds the folders a and b"):
        find_folders(tmp_path, ("a", "b"), dataset="Some", obtain="Ask for it.")
    with pytest.raises(DatasetNotFoundError, match=r"expects the folders a, c and d in root=.*Ask for it\."):
        find_folders(tmp_path / "set", ("a", "c", "d"), dataset="Some", obtain="Ask for it.")
