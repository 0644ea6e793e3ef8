"""Headers: rotation marks in every format that has them, bits of a value, and what Pillow refuses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_suite.errors import ImageReadError
from anomaly_suite.io import image_headers, images

CORNERS = np.zeros((8, 12, 3), np.uint8)
CORNERS[:4, :6], CORNERS[:4, 6:], CORNERS[4:, :6] = 255, 100, 50
TURNED = {  # how Pillow names what turns a picture with each mark upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DEEP = CORNERS[..., 0].astype(np.uint16) * 257


def marked(path: Path, mark: int, pixels: np.ndarray = CORNERS) -> Path:
    """A picture with a rotation mark, lossless or nearly so."""
    tags = Image.Exif()
    tags[274] = mark
    if path.suffix == ".tiff":
        Image.fromarray(pixels).save(path, tiffinfo={274: mark})
    else:
        options = {".webp": {"lossless": True}, ".jpg": {"quality": 95}}.get(path.suffix, {})
        Image.fromarray(pixels).save(path, exif=tags.tobytes(), **options)
    return path


@pytest.mark.parametrize(
    ("suffix", "pixels"),
    [(".jpg", CORNERS), (".png", CORNERS), (".webp", CORNERS), (".tiff", CORNERS), (".png", DEEP), (".tiff", DEEP)],
)
def test_all_eight_marks_are_applied_or_ignored(tmp_path: Path, suffix: str, pixels: np.ndarray) -> None:
    for mark in range(1, 9):
        path = marked(tmp_path / f"{mark}{suffix}", mark, pixels)
        seen = np.asarray(Image.fromarray(CORNERS).transpose(TURNED[mark])) if mark > 1 else CORNERS
        assert image_headers.mark_of(path) == mark
        for exif, wanted in (("apply", seen), ("ignore", CORNERS)):
            got = images.read_image(path, exif=exif)  # type: ignore[arg-type] # one of two texts
            assert images.image_size(path, exif=exif) == got.shape[:2] == wanted.shape[:2]  # type: ignore[arg-type] # the same
            assert np.abs(got.astype(int) - wanted).max() <= (12 if suffix == ".jpg" else 0), (mark, exif)
        assert (image_headers.turned_upright(CORNERS, mark) == seen).all()


def test_masks_follow_their_own_marks(tmp_path: Path) -> None:
    mask = np.where(CORNERS[..., 0] == 255, 255, 0).astype(np.uint8)
    path = marked(tmp_path / "m.png", 6, mask)
    assert (images.read_mask(path) == np.rot90(mask, -1) // 255).all()
    assert (images.read_mask(path, exif="ignore") == mask // 255).all()


def test_a_mark_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    data = marked(tmp_path / "a.png", 3).read_bytes()
    begin = data.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(data[begin : begin + 4], "big")
    moved = data[:begin] + data[end:-12] + data[begin:end] + data[-12:]
    (tmp_path / "b.png").write_bytes(moved)
    assert (images.read_image(tmp_path / "b.png") == CORNERS[::-1, ::-1]).all()


def test_what_is_no_mark(tmp_path: Path) -> None:
    data = marked(tmp_path / "a.jpg", 6).read_bytes()
    at = data.index(b"Exif\0\0")
    for damaged in (data[: at + 6] + b"\xee" * 20 + data[at + 26 :], marked(tmp_path / "b.jpg", 77).read_bytes()):
        (tmp_path / "c.jpg").write_bytes(damaged)
        assert image_headers.mark_of(tmp_path / "c.jpg") == 1
        assert images.read_image(tmp_path / "c.jpg").shape == CORNERS.shape
    assert image_headers.rotation_mark(b"") == image_headers.rotation_mark(b"\xff\xd8\xff") == 1
    assert image_headers.rotation_mark(b"\x89PNG\r\n\x1a\n\0") == 1


def test_more_than_8_bits_are_seen_in_the_header(tmp_path: Path) -> None:
    for suffix in (".png", ".tiff", ".pgm"):
        for pixels in (DEEP, CORNERS[..., 0]):
            cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
            assert image_headers.is_deep(tmp_path / f"a{suffix}") == (pixels is DEEP), suffix
    (tmp_path / "b.pgm").write_bytes(b"P5 # made by hand\n# 65535\n2 1\n4095\n\0\0\0\0")
    assert image_headers.is_deep(tmp_path / "b.pgm")
    assert not image_headers.is_deep(marked(tmp_path / "a.jpg", 1))


def test_pictures_beyond_what_pillow_opens_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = marked(tmp_path / "a.png", 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    message = r"a\.png' is too large to be read: Image size \(96 pixels\) exceeds limit of 80 pixels\. Make it smaller"
    with pytest.raises(ImageReadError, match=message):
        image_headers.read_header(path)
    with pytest.raises(ImageReadError, match=message):
        images.check_mask_size(path, path)


def test_errors_of_whoever_uses_an_open_image_stay_their_own(tmp_path: Path) -> None:
    path = marked(tmp_path / "a.png", 1)
    with pytest.raises(ImageReadError, match="mine"), image_headers.opened(path):
        raise ImageReadError("mine")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageReadError, match=r"a\.png' is not a readable image"), image_headers.opened(path) as image:
        image.load()
