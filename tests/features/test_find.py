"""Names and patterns of the videos to extract, and shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from video_files import frames, write_folder

from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.features.find import find_videos, new_videos, read_shard


class TestFindVideos:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("Train/Train1", "Train/Train10", "Train/Train9", "Test/Test1", "Test/Test1_gt", "__MACOSX/Train1"):
            write_folder(tmp_path / name, frames(1))
        for name in ("films/a.b.mp4", "films/thumbnail.png", "films/notes.txt", "Test/UCSDped2.m"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    def test_folders_and_files_in_numeric_order(self, tree: Path) -> None:
        found = find_videos(tree)
        assert list(found) == [
            "Test/Test1",
            "Test/Test1_gt",
            "Train/Train1",
            "Train/Train9",
            "Train/Train10",
            "films/a.b",
        ]
        assert found["films/a.b"] == tree / "films" / "a.b.mp4"
        assert found["Train/Train9"] == tree / "Train" / "Train9"

    @pytest.mark.parametrize(
        ("include", "exclude", "names"),
        [
            (["*"], ["*_gt", "films/*"], ["Test/Test1", "Train/Train1", "Train/Train9", "Train/Train10"]),
            (["Train1", "*.mp4"], [], ["Train/Train1", "films/a.b"]),
            (["Train/*"], ["Train?"], ["Train/Train10"]),
        ],
    )
    def test_patterns(self, tree: Path, include: list[str], exclude: list[str], names: list[str]) -> None:
        assert list(find_videos(tree, include=include, exclude=exclude)) == names

    def test_flat_names(self, tree: Path) -> None:
        assert list(find_videos(tree, include=["Test/*"], flat=True)) == ["Test1", "Test1_gt"]

    def test_two_videos_of_one_flat_name(self, tree: Path) -> None:
        write_folder(tree / "more" / "Test1", frames(1))
        with pytest.raises(ConfigError, match=r"would both be written to Test1\.npy\. Set flat to false"):
            find_videos(tree, flat=True)

    def test_a_single_folder_of_frames(self, tree: Path) -> None:
        assert find_videos(tree / "Train" / "Train9") == {"Train9": tree / "Train" / "Train9"}

    def test_nothing_to_do(self, tree: Path) -> None:
        with pytest.raises(
            DatasetNotFoundError, match=r"holds 6, all of which include=\['x'\] and exclude=\[\] leave out"
        ):
            find_videos(tree, include=["x"])
        (tree / "empty").mkdir()
        with pytest.raises(DatasetNotFoundError, match=r"in '.*empty', which holds none"):
            find_videos(tree / "empty")
        with pytest.raises(DatasetNotFoundError, match="which does not exist"):
            find_videos(tree / "none")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "1/2/3", "-1/2", ""])
def test_impossible_shards(shard: str) -> None:
    with pytest.raises(ConfigError, match="shard must be a number and a count"):
        read_shard(shard)
    assert read_shard("4/12") == (4, 12)


def test_new_videos_as_people_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.mp4", "a/sub/y.avi", "a/sub/note.txt", "b/1.npy", "b/2.npy", "frames/1.png", "frames/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text("path\na/x.mp4\nframes\n")
    assert new_videos(["a"]) == [Path("a/sub/y.avi"), Path("a/x.mp4")]
    assert new_videos(["b", "frames", "b/1.npy"]) == [Path("b/1.npy"), Path("b/2.npy"), Path("frames")]
    assert new_videos(["a/**/*", "list.csv"]) == [Path("a/sub/y.avi"), Path("a/x.mp4"), Path("frames")]
    with pytest.raises(DatasetError, match="is no video, and the run's method takes snippet features"):
        new_videos(["a/sub/note.txt"])
    with pytest.raises(DatasetNotFoundError, match=r"predict expects videos in '\*\.mp4'.*there is none"):
        new_videos(["*.mp4"])
