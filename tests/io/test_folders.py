"""Finding the files of a data set: wrong roots, missing and unpaired files, leaks between splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anomaly_suite.errors import DatasetError, DatasetNotFoundError, ImageReadError
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


def make(folder: Path, *names: str) -> list[Path]:
    """Empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    first, second, other = make(tmp_path, "set/a/1.png", "set/b/2.png", "far/pool/3.png")
    (tmp_path / "set/a/up").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set/a/to_b").symlink_to(tmp_path / "set/b", target_is_directory=True)
    (tmp_path / "set/b/to_a").symlink_to(tmp_path / "set/a", target_is_directory=True)
    (tmp_path / "set/pool").symlink_to(tmp_path / "far/pool", target_is_directory=True)
    (tmp_path / "far/pool/back").symlink_to(tmp_path / "far", target_is_directory=True)
    found = folders.image_files(tmp_path / "set")
    names = [path.relative_to(tmp_path / "set").as_posix() for path in found]
    assert names == ["a/1.png", "a/to_b/2.png", "b/2.png", "b/to_a/1.png", "pool/3.png"]
    assert {first.name, second.name, other.name} == {path.name for path in found}
    with pytest.raises(DatasetError, match=r"'.*b/2\.png' is in the test part.*before \(as '.*a/to_b/2\.png'\)"):
        folders.require_once({"test": found})


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    for path, what in ((tmp_path / "a.png", "a link to nothing"), (tmp_path / "b.png", "cannot be reached")):
        with pytest.raises(ImageReadError, match=rf"{path.name}', which .*{what}"):
            folders.check_leaks({"test": [path]})


def test_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.png", "b/2.png")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who reads everything
    with pytest.raises(DatasetError, match=r"the folder '.*b' cannot be read \(Permission denied\)"):
        folders.image_files(tmp_path)


COMPOSED, APART = "t\u00e4st", "ta\u0308st"  # what looks the same


def test_names_are_found_in_the_form_of_the_disk(tmp_path: Path) -> None:
    (path,) = make(tmp_path, f"{APART}/{APART}.png")
    assert folders.on_disk(tmp_path / COMPOSED / f"{COMPOSED}.png") == path
    assert folders.on_disk(path) == path
    assert folders.data_root(tmp_path / COMPOSED, "set") == path.parent
    for gone in (tmp_path / COMPOSED / "\u00f6.png", tmp_path / "\u00f6" / "a.png"):
        assert folders.on_disk(gone).name == gone.name
    (mask,) = make(tmp_path, f"masks/{COMPOSED}_mask.png")
    assert folders.pair_masks(tmp_path / "masks", {path: [f"{APART}_mask"]}) == {path: mask}
    make(tmp_path, f"masks/{APART}_mask.png")
    with pytest.raises(DatasetError, match="are masks of one name"):
        folders.pair_masks(tmp_path / "masks", {path: [f"{APART}_mask"]})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a0.png", "a0.tif"], r"'.*a0\.png' and '.*a0\.tif' are masks of one name, and only one can be used\. Delete"),
        (["a0_mask.png", "a0.PNG"], r"'.*a0_mask\.png' and '.*a0\.PNG' are both masks of 'a0\.jpg'"),
    ],
)
def test_two_masks_of_one_image(tmp_path: Path, names: list[str], message: str) -> None:
    make(tmp_path, *names)
    with pytest.raises(DatasetError, match=message):
        folders.pair_masks(tmp_path, {Path("a0.jpg"): ["a0_mask", "a0"]})


def test_nothing_is_listed_twice(tmp_path: Path) -> None:
    one, two = make(tmp_path, "1.png", "2.png")
    folders.require_once({"training": [one], "test": [two]})
    for parts in ({"training": [one, two, Path(one)]}, {"training": [two], "test": [tmp_path / "x" / ".." / "2.png"]}):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(DatasetError, match=r"\d\.png' is in the \w+ part, and in the training part before"):
            folders.require_once(parts)


def test_pictures_of_kinds_that_are_not_read_are_told(tmp_path: Path) -> None:
    one, two = make(tmp_path, "a.png", "b.GIF")
    with pytest.warns(
        UserWarning, match=r"1 pictures in '.*' are of a kind that is not read, first '.*b\.GIF': they are left out"
    ):
        assert folders.require_images(tmp_path, dataset="Some") == [one]
    one.unlink()
    with pytest.raises(DatasetNotFoundError, match="holds no image"):
        folders.require_images(two.parent, dataset="Some")


def test_a_root_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        DatasetNotFoundError, match=r"Some expects a folder with all at root='.*', which may not be read"
    ):
        folders.find_root(tmp_path, dataset="Some", is_root=lambda _: True, layout="all", obtain="")
