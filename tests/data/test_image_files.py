"""Reading and checking single files: one test for every way in which a file can be wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_suite.data import files
from anomaly_suite.errors import DatasetError, DatasetNotFoundError, ImageReadError

RGB = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tiff", ".ppm"])
def test_reads_rgb_in_order(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", RGB)
    assert (files.read_image(path) == RGB).all()
    assert files.image_size(path) == (24, 20)


def test_reads_by_content_not_by_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "really_a_png.jpg", RGB, format="PNG")
    assert (files.read_image(path) == RGB).all()


def test_jpeg_equals_pillow(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", cv2.GaussianBlur(RGB, (0, 0), 3), quality=95)
    assert np.abs(files.read_image(path).astype(int) - np.asarray(Image.open(path))).max() <= 3


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full_like(GREY, 7)])
    assert (files.read_image(save(tmp_path / "a.png", rgba)) == RGB).all()


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB, "P")
    assert (files.read_image(path) == np.asarray(Image.open(path).convert("RGB"))).all()


def test_grey_is_copied_to_three_channels_or_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    assert (files.read_image(path) == GREY[..., None]).all()
    assert files.read_image(path).shape == (24, 20, 3)
    assert (files.read_image(path, channels=1) == GREY[..., None]).all()


def test_colour_becomes_grey(tmp_path: Path) -> None:
    got = files.read_image(save(tmp_path / "a.png", RGB), channels=1)[..., 0]
    assert np.abs(got - RGB @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize(("top", "divisor"), [(255, 1), (4095, 16), (65535, 256)])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_scaled_by_the_depth_in_use(tmp_path: Path, top: int, divisor: int, channels: int) -> None:
    deep = np.linspace(0, top, 24 * 20).astype(np.uint16).reshape(24, 20)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    got = files.read_image(tmp_path / "a.png", channels=channels)  # type: ignore[arg-type] # parametrised
    assert got.dtype == np.uint8
    assert (got == (deep // divisor)[..., None]).all()
    assert got.max() == 255


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tiff"), RGB.astype(np.float32))
    with pytest.raises(ImageReadError, match=r"a\.tiff' holds float32 pixels"):
        files.read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_truncated_files_are_named_when_read_and_before(tmp_path: Path, suffix: str, cut: float) -> None:
    path = save(tmp_path / f"a{suffix}", np.tile(RGB, (4, 4, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    for check in (files.read_image, files.check_file):
        with pytest.raises(
            ImageReadError, match=rf"a\{suffix}' \({int(len(data) * cut)} bytes\) is truncated or damaged"
        ):
            check(path)


def test_truncated_jpeg_with_a_whole_thumbnail(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", np.tile(RGB, (8, 8, 1)))
    thumbnail = save(tmp_path / "b.jpg", RGB).read_bytes()
    marker = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = path.read_bytes()
    path.write_bytes(data[:2] + marker + data[2 : len(data) // 2])
    with pytest.raises(ImageReadError, match="truncated"):
        files.check_file(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", RGB)
    before = files.read_image(path)
    path.write_bytes(path.read_bytes() + b"x" * 500)
    assert files.check_file(path) == path.stat().st_size
    assert (files.read_image(path) == before).all()


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    for check in (files.read_image, files.check_file):
        with pytest.raises(ImageReadError, match=r"a\.png' is empty \(0 bytes\)"):
            check(tmp_path / "a.png")


def test_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for check in (files.read_image, files.check_file):
        with pytest.raises(ImageReadError, match=r"a\.png' is a Git LFS pointer.*git lfs pull"):
            check(tmp_path / "a.png")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ImageReadError, match=r"a\.png' \(5 bytes\) cannot be decoded"):
        files.read_image(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match=r"a\.png' is not a readable image"):
        files.image_size(tmp_path / "a.png")


@pytest.mark.parametrize(("values", "threshold"), [((0, 255), 128), ((0, 1), 1), ((0, 3), 1), ((3, 252), 128)])
def test_mask_encodings(tmp_path: Path, values: tuple[int, int], threshold: int) -> None:
    pixels = np.where(GREY > 100, values[1], values[0]).astype(np.uint8)
    path = save(tmp_path / "m.png", pixels)
    got = files.read_mask(path)
    assert got.dtype == np.uint8
    assert (got == (pixels >= threshold)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "LA"])
def test_masks_in_any_image_mode(tmp_path: Path, mode: str) -> None:
    pixels = np.where(GREY > 100, 255, 0).astype(np.uint8)
    assert (files.read_mask(save(tmp_path / "m.png", pixels, mode)) == pixels // 255).all()


def test_grey_mask_warns_with_range_and_threshold(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", GREY)
    with pytest.warns(
        UserWarning, match=rf"m\.png' has grey pixels.*values {GREY.min()} to {GREY.max()}.*at least 128"
    ):
        got = files.read_mask(path)
    assert (got == (GREY >= 128)).all()


def test_empty_mask_warns_for_an_anomalous_image_only(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = save(tmp_path / "m.png", np.zeros((4, 4), np.uint8))
    assert not files.read_mask(path, anomalous=False).any()
    assert not recwarn
    with pytest.warns(UserWarning, match=r"m\.png' of an anomalous image is empty"):
        files.read_mask(path)


def test_mask_size(tmp_path: Path) -> None:
    image, mask = save(tmp_path / "a.png", RGB), save(tmp_path / "m.png", GREY[:12])
    files.check_mask_size(image, image)
    with pytest.raises(DatasetError, match=r"m\.png' is 12 x 20, but its image '.*a\.png' is 24 x 20"):
        files.check_mask_size(image, mask)


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
    assert files.image_files(tmp_path) == wanted
    scan = os.walk

    def backwards(*args: Any, **options: Any) -> Iterator[Any]:
        for top, inner, names in scan(*args, **options):
            inner.reverse()
            yield top, inner, names[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert files.image_files(tmp_path) == wanted


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "goood").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"'.*good', which does not exist\. Beside it: goood\."):
        files.require_images(tmp_path / "good", dataset="Set")
    with pytest.raises(DatasetNotFoundError, match=r"goood', which holds no image"):
        files.require_images(tmp_path / "goood", dataset="Set")


def root_error(root: Path) -> str:
    with pytest.raises(DatasetNotFoundError) as caught:
        files.find_root(
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
        files.require_files(missing, source="'list'")


def test_masks_are_paired_by_name(tmp_path: Path) -> None:
    for name in ("a/1_mask.png", "a/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    one, two, three = Path("one"), Path("two"), Path("three")
    names = {one: ["a/1_mask", "a/1"], two: ["a/2_mask", "a/2"], three: ["a/3_mask"]}
    assert files.pair_masks(tmp_path, names) == {one: tmp_path / "a/1_mask.png", two: tmp_path / "a/2.png"}
    with pytest.raises(DatasetError, match=r"a/2\.png' has no image; expected one named 'a/2' \(1 such masks\)"):
        files.pair_masks(tmp_path, {one: ["a/1_mask"]})
    with pytest.raises(DatasetError, match=r"a/2\.png' fits both 'two' and 'three'"):
        files.pair_masks(tmp_path, {one: ["a/1_mask"], two: ["a/2"], three: ["a/2"]})


def test_leaks_are_found_by_content(tmp_path: Path) -> None:
    for name, data in (("a.png", b"first"), ("b.png", b"other"), ("c.png", b"first"), ("d.png", b"larger")):
        (tmp_path / name).write_bytes(data)
    a, b, c, d = (tmp_path / f"{name}.png" for name in "abcd")
    files.check_leaks({"training": [a, c], "test": [b, d]})  # twice in one split is no leak
    with pytest.raises(
        DatasetError, match=r"the test image '.*c\.png' has the same content as the training image '.*a\.png' \(1 such"
    ):
        files.check_leaks({"training": [a, b], "test": [d, c]})


def test_few_files_are_read_to_look_for_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for index, path in enumerate(paths):
        path.write_bytes(b"x" * (10 + index))
    read: list[Path] = []
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or b"")
    files.check_leaks({"training": paths[:3], "test": paths[3:]})
    assert read == []
