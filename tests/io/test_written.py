"""Which files a later run may remove."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from anomaly_suite.errors import FileWriteError
from anomaly_suite.io.atomic import save_text
from anomaly_suite.io.written import WrittenFiles, remove_older


def write(files: WrittenFiles, *names: str) -> None:
    for name in names:
        files.add(files.folder / name)
        save_text(files.folder / name, "content")


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix != ".jsonl")


def age(folder: Path) -> None:
    """As if all had been written long ago."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))


def first(folder: Path, *names: str, finish: bool = True) -> None:
    files = WrittenFiles(folder, "Tool_test")
    write(files, *names)
    if finish:
        files.finish(files.added)
    age(folder)


def test_what_is_not_replaced_goes_with_its_empty_folders(tmp_path: Path) -> None:
    first(tmp_path, "a/b/c.png", "a/d.png", "é\n,.png", os.fsdecode(b"caf\xe9.png"), "kept.png")
    (tmp_path / "a" / "own.txt").touch()
    files = WrittenFiles(tmp_path, "Tool_test")
    write(files, "kept.png", "new.png")
    assert "a/b/c.png" in left(tmp_path)  # until the end
    files.finish(files.added)
    assert left(tmp_path) == ["a", "a/own.txt", "kept.png", "new.png"]
    last = WrittenFiles(tmp_path, "Tool_test")
    age(tmp_path)
    last.finish([])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]  # without files there is no list


@pytest.mark.parametrize("world", [1, 3])
def test_a_run_that_was_cut_is_known_to_the_next(tmp_path: Path, world: int) -> None:
    first(tmp_path, "old.png")
    for rank in range(world):
        write(WrittenFiles(tmp_path, "Tool_test", rank=rank), f"cut{rank}.png")
    age(tmp_path)
    (tmp_path / ".Tool_test.jsonl").open("a").write('\n["half')
    files = WrittenFiles(tmp_path, "Tool_test")
    write(files, "new.png")
    files.finish(files.added)
    assert left(tmp_path) == ["new.png"]
    assert [path.name for path in tmp_path.glob(".*")] == [".Tool_test.jsonl"]


def test_what_others_wrote_stays(tmp_path: Path) -> None:
    first(tmp_path, "edited.png", "shared.png")
    (tmp_path / "edited.png").write_text("somebody drew a circle")
    (tmp_path / "unlisted.png").touch()
    age(tmp_path)
    other = WrittenFiles(tmp_path, "Other_test")
    write(other, "of_another_tool.png")
    files = WrittenFiles(tmp_path, "Tool_test")
    save_text(tmp_path / "shared.png", "content")  # another process writes it at this moment
    files.finish([])
    assert left(tmp_path) == ["edited.png", "of_another_tool.png", "shared.png", "unlisted.png"]


def test_a_list_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.touch()
    folder = tmp_path / "run"
    folder.mkdir()
    names = ["../outside.png", str(outside), "a/../../outside.png", ".", "", 3]
    (folder / ".Tool_test.jsonl").write_text("\n".join(json.dumps([name, None]) for name in names))
    age(tmp_path)
    WrittenFiles(folder, "Tool_test").finish([])
    assert outside.exists()


def test_a_list_that_cannot_be_written(tmp_path: Path) -> None:
    files = WrittenFiles(tmp_path / "out", "Tool_test")
    assert list(tmp_path.iterdir()) == []  # trying leaves nothing
    (tmp_path / "out").touch()
    with pytest.raises(FileWriteError, match=r"out/a\.png' could not be written \(.*Make room on the disk"):
        files.add(tmp_path / "out" / "a.png")
    with pytest.raises(FileWriteError, match="results are to be written to"):
        WrittenFiles(tmp_path / "out", "Tool_test")


def test_files_known_by_their_names(tmp_path: Path) -> None:
    for name in ("test_roc.png", "test_rocks.png", "test_pr.png"):
        (tmp_path / name).touch()
    age(tmp_path)
    (tmp_path / "test_pr.png").touch()
    remove_older(tmp_path, r"test_(roc|pr)\.png", 10**18 + 1)
    assert left(tmp_path) == ["test_pr.png", "test_rocks.png"]
    remove_older(tmp_path / "missing", "x", 0)


def test_a_file_that_is_not_wanted_any_more_is_gone(tmp_path: Path) -> None:
    files = WrittenFiles(tmp_path, "test")
    for name in ("a.png", "b.png"):
        files.add(tmp_path / name)
        (tmp_path / name).write_bytes(b"1")
    files.drop(tmp_path / "a.png", tmp_path / "never.png")
    files.finish(files.added)
    assert files.added == ["b.png"]
    assert [path.name for path in tmp_path.glob("*.png")] == ["b.png"]
