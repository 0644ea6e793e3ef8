"""Reading and checking single images: one test for every way in which a file can be wrong."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_suite.errors import DatasetError, ImageReadError
from anomaly_suite.io import images

RGB = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tiff", ".ppm"])
def test_reads_rgb_in_order(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", RGB)
    assert (images.read_image(path) == RGB).all()
    assert images.image_size(path) == (24, 20)


def test_reads_by_content_not_by_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "really_a_png.jpg", RGB, format="PNG")
    assert (images.read_image(path) == RGB).all()


def test_jpeg_equals_pillow(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", cv2.GaussianBlur(RGB, (0, 0), 3), quality=95)
    assert np.abs(images.read_image(path).astype(int) - np.asarray(Image.open(path))).max() <= 3


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full_like(GREY, 7)])
    assert (images.read_image(save(tmp_path / "a.png", rgba)) == RGB).all()


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB, "P")
    assert (images.read_image(path) == np.asarray(Image.open(path).convert("RGB"))).all()


def test_grey_is_copied_to_three_channels_or_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    assert (images.read_image(path) == GREY[..., None]).all()
    assert images.read_image(path).shape == (24, 20, 3)
    assert (images.read_image(path, channels=1) == GREY[..., None]).all()


def test_colour_becomes_grey(tmp_path: Path) -> None:
    got = images.read_image(save(tmp_path / "a.png", RGB), channels=1)[..., 0]
    assert np.abs(got - RGB @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_scaled_by_the_depth_that_is_given(tmp_path: Path, bits: int, channels: int) -> None:
    deep = np.linspace(0, 2**bits - 1, 24 * 20).astype(np.uint16).reshape(24, 20)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    got = images.read_image(tmp_path / "a.png", channels=channels, bit_depth=bits)  # type: ignore[arg-type] # parametrised
    assert got.dtype == np.uint8
    assert (got == (deep // 2 ** (bits - 8))[..., None]).all()
    assert got.max() == 255
    assert images.stored_values(tmp_path / "a.png").max() == 2**bits - 1
    assert (images.read_image(tmp_path / "a.png", bit_depth=16) == images.read_image(tmp_path / "a.png")).all()
    assert (images.read_image(save(tmp_path / "b.png", RGB), bit_depth=bits) == RGB).all()  # 8 bits are what they are


def test_one_pixel_does_not_decide_the_scale(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(1500, 2400, (24, 20)).astype(np.uint16)
    means = []
    for pixel in (2000, 4096, 16000):
        deep[0, 0] = pixel
        cv2.imwrite(str(tmp_path / "a.png"), deep)
        means.append(images.read_image(tmp_path / "a.png", bit_depth=14).mean())
    assert max(means) - min(means) <= (14000 / 64 + 1) / deep.size  # of that pixel alone


def test_brighter_than_the_depth_is_white_and_said_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    deep = np.array([[100, 4095, 4096, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    for _ in range(3):
        assert images.read_image(tmp_path / "a.png", bit_depth=12)[..., 0].tolist() == [[6, 255, 255, 255]]
    assert [str(each.message) for each in recwarn] == [
        f"'{tmp_path / 'a.png'}' holds values up to 65535, and bit_depth 12 ends at 4095: brighter pixels are taken for white. "
        "Set bit_depth: 16 for the whole data set, or leave this picture out."
    ]


def test_deep_grey_with_alpha_and_packed_12_bits(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (6, 8)).astype(np.uint16)
    rows = np.dstack([deep, np.full_like(deep, 65535)]).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(8, 6, 16, 4, b"".join(b"\0" + row.tobytes() for row in rows)))
    first, second = deep[:, ::2], deep[:, 1::2]
    packed = np.dstack([first >> 4, (first & 15) << 4 | second >> 8, second & 255]).astype(np.uint8)
    (tmp_path / "b.tiff").write_bytes(tiff(8, 6, 12, packed.tobytes()))
    for name in ("a.png", "b.tiff"):
        assert (images.stored_values(tmp_path / name) == deep[..., None]).all()  # alpha is no value
        assert (images.read_image(tmp_path / name, bit_depth=12)[..., 0] == deep >> 4).all()
    assert (
        images.read_image(tmp_path / "b.tiff") == (deep >> 4)[..., None]
    ).all()  # this file says that it has 12 bits


def test_of_several_pages_the_first_is_read_and_that_is_said_once(tmp_path: Path) -> None:
    pages = [Image.fromarray(each) for each in (RGB, 255 - RGB)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=r"a\.tiff' holds several pictures \(pages\), of which the first is read"):
        first = images.read_image(tmp_path / "a.tiff")
    assert (first == RGB).all()
    pages[0].save(tmp_path / "b.tiff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.tiff", "b.tiff"):
            assert (images.read_image(tmp_path / name) == RGB).all()


def png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    """A PNG file of pixels that no library here writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: int, pixels: bytes) -> bytes:
    """A grey TIFF file of pixels that no library here writes."""
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: 8 + 2 + 9 * 12 + 4,
        277: 1,
        278: height,
        279: len(pixels),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


@pytest.mark.parametrize("pixels", [RGB, GREY])
def test_float_pixels_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.tiff"), pixels.astype(np.float32))
    for read in (images.read_image, images.read_mask, images.stored_values):
        with pytest.raises(ImageReadError, match=r"a\.tiff' holds float32 pixels.*expected 8 or 16 bits"):
            read(tmp_path / "a.tiff")


def test_pictures_beyond_what_opencv_reads_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(40_000, 40_000, 8, 0, b"\0"))
    for read in (images.read_image, images.read_mask):
        with pytest.raises(ImageReadError, match=r"a\.png' is too large to be read.*Make it smaller"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_truncated_files_are_named_when_read_and_before(tmp_path: Path, suffix: str, cut: float) -> None:
    path = save(tmp_path / f"a{suffix}", np.tile(RGB, (4, 4, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    for check in (images.read_image, images.check_file):
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
        images.check_file(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", RGB)
    before = images.read_image(path)
    path.write_bytes(path.read_bytes() + b"x" * 500)
    assert images.check_file(path) == path.stat().st_size
    assert (images.read_image(path) == before).all()


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    for check in (images.read_image, images.check_file):
        with pytest.raises(ImageReadError, match=r"a\.png' is empty \(0 bytes\)"):
            check(tmp_path / "a.png")


def test_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for check in (images.read_image, images.check_file):
        with pytest.raises(ImageReadError, match=r"a\.png' is a Git LFS pointer.*git lfs pull"):
            check(tmp_path / "a.png")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ImageReadError, match=r"a\.png' \(5 bytes\) cannot be decoded"):
        images.read_image(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match=r"a\.png' is not a readable image"):
        images.image_size(tmp_path / "a.png")


@pytest.mark.parametrize(("values", "threshold"), [((0, 255), 128), ((0, 1), 1), ((0, 3), 1), ((3, 252), 128)])
def test_mask_encodings(tmp_path: Path, values: tuple[int, int], threshold: int) -> None:
    pixels = np.where(GREY > 100, values[1], values[0]).astype(np.uint8)
    path = save(tmp_path / "m.png", pixels)
    got = images.read_mask(path)
    assert got.dtype == np.uint8
    assert (got == (pixels >= threshold)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "LA"])
def test_masks_in_any_image_mode(tmp_path: Path, mode: str) -> None:
    pixels = np.where(GREY > 100, 255, 0).astype(np.uint8)
    assert (images.read_mask(save(tmp_path / "m.png", pixels, mode)) == pixels // 255).all()


@pytest.mark.parametrize(
    ("values", "threshold"),
    [((0, 300, 7), 1), ((0, 1001, 24001), 1), ((0, 65535), 32768), ((0, 4095), 2048), ((0, 1), 1), ((0, 255), 128)],
)
def test_deep_masks_keep_their_labels(tmp_path: Path, values: tuple[int, ...], threshold: int) -> None:
    pixels = np.array(values, np.uint16)[np.arange(24 * 20).reshape(24, 20) % len(values)]
    cv2.imwrite(str(tmp_path / "m.png"), pixels)
    assert (images.read_mask(tmp_path / "m.png") == (pixels >= threshold)).all()


def test_the_mask_of_a_normal_image_marks_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 255, 255]], np.uint8))
    assert images.read_mask(path, anomalous=None).any()
    with pytest.raises(
        DatasetError, match=r"m\.png' marks 2 pixels as anomalous, but its image is labelled normal\. Correct the label"
    ):
        images.read_mask(path, anomalous=False)


def test_grey_mask_warns_with_range_and_threshold(tmp_path: Path) -> None:
    blurred = np.where(np.arange(GREY.size).reshape(GREY.shape) % 3, np.where(GREY > 127, 255, 0), GREY).astype(
        np.uint8
    )
    path = save(tmp_path / "m.png", blurred)
    with pytest.warns(UserWarning, match=r"m\.png' has grey pixels.*values 0 to 255.*at least 128"):
        got = images.read_mask(path)
    assert (got == (blurred >= 128)).all()


def test_a_picture_is_no_mask(tmp_path: Path) -> None:
    grey = int(((GREY >= 16) & (GREY < 240)).sum())
    with pytest.raises(
        DatasetError,
        match=rf"m\.png' is no mask: {grey} of its 480 pixels are neither black nor white.*Give masks that are 0",
    ):
        images.read_mask(save(tmp_path / "m.png", GREY))
    with pytest.warns(UserWarning, match="grey pixels"):  # regions in a few greys are none
        assert images.read_mask(save(tmp_path / "n.png", GREY // 64 * 60)).any()


def test_empty_mask_warns_for_an_anomalous_image_only(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = save(tmp_path / "m.png", np.zeros((4, 4), np.uint8))
    assert not images.read_mask(path, anomalous=False).any()
    assert not recwarn
    with pytest.warns(UserWarning, match=r"m\.png' of an anomalous image is empty"):
        images.read_mask(path)


def test_coloured_masks_by_the_rule_positive(tmp_path: Path) -> None:
    values = np.repeat(np.array([0, 58, 122, 255], np.uint8), 6)[None].repeat(4, 0)
    path = save(tmp_path / "m.png", np.dstack([values] * 3 + [np.full_like(values, 255)]))
    assert (images.read_mask(path, rule="positive") == (values > 0)).all()
    with pytest.warns(UserWarning, match="grey pixels"):
        assert (images.read_mask(path) == (values >= 128)).all()  # which would lose two classes of tumours


def test_soft_maps_are_resized_and_cut_at_a_share_of_their_maximum(tmp_path: Path) -> None:
    soft = np.zeros((4, 4), np.uint8)
    soft[1:3, 1:3] = [[200, 90], [110, 100]]
    path = save(tmp_path / "m.png", soft)
    assert (images.read_mask(path, rule=0.5) == (soft >= 100)).all()
    assert (images.read_mask(path, rule=0.25) == (soft >= 50)).all()
    large = cv2.resize(soft.astype(np.float32), (8, 12), interpolation=cv2.INTER_LINEAR)
    assert (images.read_mask(path, rule=0.5, size=(12, 8)) == (large >= large.max() / 2)).all()
    with pytest.warns(UserWarning, match="is empty"):
        assert not images.read_mask(save(tmp_path / "n.png", soft * 0), rule=0.5).any()


def test_mask_size(tmp_path: Path) -> None:
    image, mask = save(tmp_path / "a.png", RGB), save(tmp_path / "m.png", GREY[:12])
    images.check_mask_size(image, image)
    with pytest.raises(DatasetError, match=r"m\.png' is 12 x 20, but its image '.*a\.png' is 24 x 20.*Give every mask"):
        images.check_mask_size(image, mask)
    tags = Image.Exif()
    tags[274] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=tags.tobytes())
    stored, upright = save(tmp_path / "s.png", GREY), save(tmp_path / "u.png", np.rot90(GREY))
    assert images.check_mask_size(tmp_path / "turned.png", upright) == 6
    assert images.check_mask_size(tmp_path / "turned.png", stored, exif="ignore") == 6
    for mask, exif, other in ((stored, "apply", "ignore"), (upright, "ignore", "apply")):
        with pytest.raises(
            DatasetError, match=f"rotation mark .EXIF. that the mask does not follow: set exif: {other}"
        ):
            images.check_mask_size(tmp_path / "turned.png", mask, exif=exif)  # type: ignore[arg-type] # one of two texts


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        ((10, 10), cv2.INTER_AREA),
        ((24, 10), cv2.INTER_AREA),  # one side stays
        ((25, 10), cv2.INTER_LINEAR),  # one side grows
        ((12, 21), cv2.INTER_LINEAR),
        ((24, 40), cv2.INTER_LINEAR),
        ((48, 40), cv2.INTER_LINEAR),
    ],
)
def test_areas_are_averaged_where_no_side_grows(after: tuple[int, int], wanted: int) -> None:
    assert images.area_or_linear((24, 20), after) == wanted
