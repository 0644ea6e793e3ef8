"""Finding the files of a data set: wrong roots, missing and unpaired files, leaks between splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.errors import DatasetError, DatasetNotFoundError
from anomaly_suite.io import folders


def test_the_root_of_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_SUITE_DATA", "/shared")
    assert folders.data_root(None, "set") == Path("/shared/set")
    assert folders.data_root("/mine", "set") == Path("/mine")
    assert folders.data_root("~/mine", "set") == Path.home() / "mine"
    monkeypatch.delenv("ANOMALY_SUITE_DATA")
    assert folders.data_root(None, "set") == Path("data/set")


def test_junk_is_ignored_and_order_is_that_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "b/2.JPG",
        "b/10.png",
        "a.jpeg",
        ".DS_Store",
        "._a.png",
        "Thumbs.db",
        "x.png~",
        "__MACOSX/c.png",
        "readme.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    wanted = [tmp_path / name for name in ("a.jpeg", "b/10.png", "b/2.JPG")]
    assert folders.image_files(tmp_path) == wanted
    scan = os.walk

    def backwards(*args: Any, **options: Any) -> Iterator[Any]:
        for top, inner, names in scan(*args, **options):
            inner.reverse()
            yield top, inner, names[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert folders.image_files(tmp_path) == wanted


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "goood").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"'.*good', which does not exist\. Beside it: goood\."):
        folders.require_images(tmp_path / "good", dataset="Set")
    with pytest.raises(DatasetNotFoundError, match=r"goood', which holds no image"):
        folders.require_images(tmp_path / "goood", dataset="Set")


def root_error(root: Path) -> str:
    with pytest.raises(DatasetNotFoundError) as caught:
        folders.find_root(
            root,
            dataset="Set",
            is_root=lambda path: (path / "mark").is_dir(),
            layout="the folder mark",
            obtain="Fetch it.",
        )
    return str(caught.value)


def test_root_missing_file_level_archive_or_other(tmp_path: Path) -> None:
    assert "does not exist. Fetch it." in root_error(tmp_path / "no")
    (tmp_path / "file").touch()
    assert "is a file. Fetch it." in root_error(tmp_path / "file")

    right = tmp_path / "set" / "v1" / "inner"
    (right / "mark" / "x").mkdir(parents=True)
    for wrong in (right / "mark", right / "mark" / "x", right.parent, right.parent.parent):
        assert f"root should be '{right}'" in root_error(wrong)

    packed = tmp_path / "packed" / "a"
    packed.mkdir(parents=True)
    assert "found nothing. Fetch it." in root_error(packed)
    (packed / "notes.txt").touch()
    assert "found notes.txt. Fetch it." in root_error(packed)
    (packed / "all.tar.xz").touch()
    assert f"holds the archive 'all.tar.xz'. Unpack it in '{packed}'" in root_error(packed.parent)


def test_listed_files_must_exist(tmp_path: Path) -> None:
    missing = [tmp_path / f"{index}.png" for index in range(7)]
    with pytest.raises(
        DatasetNotFoundError, match=r"7 files listed in 'list' do not exist: .*0\.png, .*4\.png, \.\.\."
    ):
        folders.require_files(missing, source="'list'")


def test_masks_are_paired_by_name(tmp_path: Path) -> None:
    for name in ("a/1_mask.png", "a/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    one, two, three = Path("one"), Path("two"), Path("three")
    names = {one: ["a/1_mask", "a/1"], two: ["a/2_mask", "a/2"], three: ["a/3_mask"]}
    assert folders.pair_masks(tmp_path, names) == {one: tmp_path / "a/1_mask.png", two: tmp_path / "a/2.png"}
    with pytest.raises(DatasetError, match=r"a/2\.png' has no image; expected one named 'a/2' \(1 such masks\)"):
        folders.pair_masks(tmp_path, {one: ["a/1_mask"]})
    with pytest.raises(DatasetError, match=r"a/2\.png' fits both 'two' and 'three'"):
        folders.pair_masks(tmp_path, {one: ["a/1_mask"], two: ["a/2"], three: ["a/2"]})


def test_leaks_are_found_by_content(tmp_path: Path) -> None:
    for name, data in (("a.png", b"first"), ("b.png", b"other"), ("c.png", b"first"), ("d.png", b"larger")):
        (tmp_path / name).write_bytes(data)
    a, b, c, d = (tmp_path / f"{name}.png" for name in "abcd")
    folders.check_leaks({"training": [a, c], "test": [b, d]})  # twice in one split is no leak
    with pytest.raises(
        DatasetError, match=r"the test image '.*c\.png' has the same content as the training image '.*a\.png' \(1 such"
    ):
        folders.check_leaks({"training": [a, b], "test": [d, c]})


def test_few_files_are_read_to_look_for_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for index, path in enumerate(paths):
        path.write_bytes(b"x" * (10 + index))
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or b"")
    folders.check_leaks({"training": paths[:3], "test": paths[3:]})
    assert read == []
