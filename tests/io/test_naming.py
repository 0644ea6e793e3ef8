"""Natural order, and file names that no two inputs share."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from anomaly_suite.errors import ConfigError
from anomaly_suite.io.naming import MirroredNames, free_name, natural_key, tree_parts


def test_digits_are_numbers_wherever_they_stand() -> None:
    names = ["b", "a10", "a9b10", "a9b9", "a", "007", "7x", "10"]
    assert sorted(names, key=natural_key) == ["007", "7x", "10", "a", "a9b9", "a9b10", "a10", "b"]


def test_no_two_names_differ_by_case_alone() -> None:
    used: set[str] = set()
    wished = [Path("a/x"), Path("a/X"), Path("a/x"), Path("A/x-2"), Path("b/x")]
    assert [free_name(name, used).as_posix() for name in wished] == ["a/x", "a/X-2", "a/x-3", "A/x-2-2", "b/x"]
    assert used == {"a/x", "a/x-2", "a/x-3", "a/x-2-2", "b/x"}


def test_the_last_parts_of_a_path_do_not_leave_the_output_folder() -> None:
    assert tree_parts("/a/b/c/d.png") == ("b", "c", "d.png")
    assert tree_parts("/d.png") == ("d.png",)
    assert tree_parts("../../d.png") == ("d.png",)
    assert tree_parts("a/../../b/d.png") == ("b", "d.png")


def test_names_mirror_the_tree_below_the_root() -> None:
    names = MirroredNames("/data")
    assert names.next("/data/1/2/3/a.jpg").as_posix() == "1/2/3/a.png"
    assert names.next("/data/1/2/3/A.png").as_posix() == "1/2/3/A-2.png"
    assert names.next("/else/1/2/3/b.png").as_posix() == "2/3/b.png"
    assert names.next(None).as_posix() == "image_000003.png"


def test_names_that_are_too_long_are_cut_and_stay_apart(tmp_path: Path) -> None:
    names = MirroredNames("/data", world=2)
    long = [f"{'ü' * 120}{end}" for end in "ab"] + ["x" * 300, "y" * 255, os.fsdecode(b"\xe9" * 250)]
    for part in long:
        found = names.next(f"/data/{part}/{part}.png")
        assert all(len(os.fsencode(one)) < 230 for one in found.parts)
        (tmp_path / found).parent.mkdir()
        (tmp_path / found).touch()
    assert len(list(tmp_path.rglob("*.png"))) == len(long)


def test_processes_do_not_take_each_others_names() -> None:
    first, second = (MirroredNames(rank=rank, world=2) for rank in (0, 1))
    one, two = first.next("/x/1/2/a.png"), second.next("/y/1/2/a.png")
    assert one != two
    assert one.name.startswith("a-")
    assert MirroredNames(rank=1, world=2).next("/x/1/2/a.png") == one  # the path decides, not the process
    assert [first.next("").as_posix(), second.next("").as_posix()] == ["image_000002.png", "image_000003.png"]


@pytest.mark.parametrize("path", ["a\0.png", "..", "a/..", "/", ".", "../..", "a/b/../.."])
@pytest.mark.parametrize("root", [None, "/data"])
def test_a_path_that_names_a_folder_is_refused(path: str, root: str | None) -> None:
    with pytest.raises(ConfigError, match=f"image_path must name a file; got {re.escape(repr(path))}"):
        MirroredNames(root).next(path)


@pytest.mark.parametrize("path", ["../a.png", "/a.png", "../../../etc/a.png", "a/../../b.png"])
def test_no_name_leaves_the_output_folder(path: str) -> None:
    for root in (None, "/data", "a"):
        name = MirroredNames(root).next(path)
        assert not name.is_absolute()
        assert ".." not in name.parts
