"""Image files: decode, measure and check them. Every complaint names the file and the way out.

Files are decoded by content; the suffix only says what claims to be an image. Axes: H and W pixels, C channels.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import DatasetError, ImageReadError
from anomaly_suite.io.image_headers import (
    TIFF_STARTS,
    UPRIGHT,
    Exif,
    has_more_pages,
    read_header,
    rotation_mark,
    tiff_bits,
    turned_upright,
)
from anomaly_suite.io.regular import require_regular

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})

WHOLE_RANGES = frozenset({255, 1023, 4095, 16383, 65535, 65280})  # what white is in masks of 8 to 16 bits

MaskRule = Literal["auto", "positive"] | float
"""Which pixels of a mask are anomalous: see :func:`read_mask`; those above 0; or, of a soft map, those of at least this share of its maximum."""

GREY_SHARE = 0.01  # of a mask's pixels between black and white above which its encoding is doubted
PICTURE_SHARE, MASK_LEVELS = 0.5, 16  # with more of them, and more levels than regions of a mask have, it is a picture


def area_or_linear(before: tuple[int, int], after: tuple[int, int]) -> int:
    """OpenCV's interpolation for resizing an image: area averaging where neither side grows, else bilinear.

    OpenCV averages over areas only then; where one side grows, its ``INTER_AREA`` is a variant of nearest and bilinear.

    Args:
        before: Height and width of the image.
        after: Height and width that it gets.

    Returns:
        ``cv2.INTER_AREA`` or ``cv2.INTER_LINEAR``.
    """
    shrinks = after[0] <= before[0] and after[1] <= before[1]
    return cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR


def check_file(path: Path) -> int:
    """Size of an image file in bytes, after checks that need no decoding.

    Raises:
        ImageReadError: it is empty, truncated, a Git LFS pointer or no regular file.
    """
    require_regular(path)
    with path.open("rb") as file:
        head = file.read(_EDGE)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _EDGE))
        tail = file.read()
    if _is_suspicious(head, tail):
        _explain(path, path.read_bytes())
    return size


def check_mask_size(image: Path, mask: Path, *, exif: Exif = "apply") -> int:
    """Check from their headers that a mask is as large as its image.

    Args:
        image: The image.
        mask: Its mask.
        exif: See :func:`read_image`; it goes for both.

    Returns:
        The image's rotation mark, 1 where it is stored upright.

    Raises:
        DatasetError: it is not.
        ImageReadError: one of them has no readable header, or the mask is not whole.
    """
    check_file(mask)
    ours, its = read_header(image), read_header(mask)
    (height, width), (mask_height, mask_width) = ours.size(exif), its.size(exif)
    if (height, width) != (mask_height, mask_width):
        other: Exif = "ignore" if exif == "apply" else "apply"
        advice = "Give every mask the size of its image."
        if ours.size(other) == its.size(other):
            advice = f"The image has a rotation mark (EXIF) that the mask does not follow: set exif: {other}."
        raise DatasetError(
            f"mask '{mask}' is {mask_height} x {mask_width}, but its image '{image}' is {height} x {width} (H x W). {advice}"
        )
    return ours.mark


def image_size(path: Path, *, exif: Exif = "apply") -> tuple[int, int]:
    """Height and width from a file's header.

    Args:
        path: The file.
        exif: Of the picture turned upright, or as it is stored.

    Raises:
        ImageReadError: it has none.
    """
    return read_header(path).size(exif)


def read_image(
    path: Path, *, channels: Literal[1, 3] = 3, bit_depth: int = 16, exif: Exif = "apply"
) -> npt.NDArray[np.uint8]:
    """Read one image of any kind as 8-bit RGB or grey.

    Grey and paletted images become RGB, alpha is dropped, of several pages or frames the first is read.

    Args:
        path: The file.
        channels: 3 for RGB, 1 for grey.
        bit_depth: How many bits the values of images of more than 8 bits use, 8 to 16. Only packed TIFF files say it: cameras write
            10, 12 or 14 bits into files of 16. It is one number for a data set, never that of one picture, whose
            brightness would otherwise decide its scale: data modules find it (``bit_depth: auto``), and a picture that is read alone
            uses all 16 bits unless this says otherwise. Brighter values become 255, which is said once for a folder.
        exif: ``apply`` turns a picture with a rotation mark (EXIF) upright; ``ignore`` takes it as it is stored.

    Returns:
        Shape (H, W, C).

    Raises:
        ImageReadError: it cannot be read; says why.
    """
    mode = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    stored, bits = _decode(path, mode | cv2.IMREAD_ANYDEPTH, exif)
    image = _as_8_bits(stored, min(bits, bit_depth), path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image) if channels == 3 else image[..., None]


def stored_values(path: Path) -> npt.NDArray[Any]:
    """Values of an image as they are stored, 8 or 16 bits, without alpha.

    Returns:
        Shape (H, W, 3), grey three times.

    Raises:
        ImageReadError: it cannot be read; says why.
    """
    return _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, "apply")[0]


def read_mask(
    path: Path,
    *,
    anomalous: bool | None = True,
    exif: Exif = "apply",
    rule: MaskRule = "auto",
    size: tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8]:
    """Read a mask as 0 and 1.

    By the rule ``auto`` values of at most 15 are taken for numbers of defects, anything above 0 being anomalous; else the threshold is 128. Of 16-bit
    masks that hold more than 255 it is half the range if they use a whole one (4095 or 65535), and else all values are numbers.
    Warns where many pixels lie between black and white, or where the mask of an anomalous image is empty.

    Args:
        path: The file.
        anomalous: Whether the image is; None where that is not known.
        exif: See :func:`read_image`.
        rule: ``positive`` calls all above 0 anomalous, whatever the colours; a number is for soft maps, see :data:`MaskRule`.
        size: Height and width to which a soft map is resized bilinearly before it is cut; None keeps its own.

    Returns:
        Shape (H, W).

    Raises:
        ImageReadError: it cannot be read; says why.
        DatasetError: it is a picture and no mask, or the mask of a normal image marks pixels.
    """
    values, _ = _decode(path, cv2.IMREAD_UNCHANGED, exif)
    if values.ndim == 3:
        values = values[..., :3].max(-1)  # without alpha
    low, high = (int(value) for value in cv2.minMaxLoc(values)[:2])
    if rule == "positive":
        mask = values > 0
    elif isinstance(rule, float):
        mask = _above_share(values, rule, size)
    else:
        mask = _by_threshold(values, low, high, path)
    if anomalous and not mask.any():
        warnings.warn(
            f"mask '{path}' of an anomalous image is empty (values {low} to {high}): "
            "all its pixels count as normal. Complete the mask, or take the image out of the test set.",
            stacklevel=2,
        )
    if anomalous is False and mask.any():
        raise DatasetError(
            f"mask '{path}' marks {int(mask.sum())} pixels as anomalous, but its image is labelled normal. "
            "Correct the label, or take the mask away."
        )
    return mask.view(np.uint8)


def _above_share(values: npt.NDArray[Any], share: float, size: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
    soft = values.astype(np.float32)
    if size is not None and size != soft.shape:
        soft = cv2.resize(soft, size[::-1], interpolation=cv2.INTER_LINEAR)
    high = float(soft.max())
    found: npt.NDArray[np.bool_] = (soft >= share * high) & (soft > 0)
    return found


def _by_threshold(values: npt.NDArray[Any], low: int, high: int, path: Path) -> npt.NDArray[np.bool_]:
    numbers = high <= 15 or (high > 255 and high not in WHOLE_RANGES)
    unit = (high + 1) // 256 or 1  # of 8 bits
    mask: npt.NDArray[np.bool_] = values > 0 if numbers else values >= 128 * unit
    grey = 0 if numbers else cv2.countNonZero(cv2.inRange(values, 16 * unit, 240 * unit - 1))
    if grey > PICTURE_SHARE * values.size and len(np.unique(values)) > MASK_LEVELS:
        raise DatasetError(
            f"'{path}' is no mask: {grey} of its {values.size} pixels are neither black nor white (values {low} to {high}), as in a picture. "
            "Give masks that are 0 where normal and 255 where anomalous; a map of grades needs a threshold first."
        )
    if grey > GREY_SHARE * values.size:
        warnings.warn(
            f"mask '{path}' has grey pixels between black and white (values {low} to {high}); "
            f"those of at least {128 * unit} count as anomalous. Store masks as PNG with the values 0 and 255.",
            stacklevel=3,
        )
    return mask


_EDGE = 64  # bytes at either end of a file that tell whether it is whole
_LFS = b"version https://git-lfs"


def _is_suspicious(head: bytes, tail: bytes) -> bool:
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    return not head or head.startswith(_LFS)


def _explain(path: Path, data: bytes) -> None:
    """Raise what is wrong with a suspicious file; return if it is only unusual, such as bytes after a JPEG's end."""
    if not data:
        raise ImageReadError(f"'{path}' is empty (0 bytes). Fetch the file again.")
    if data.startswith(_LFS):
        raise ImageReadError(
            f"'{path}' is a Git LFS pointer ({len(data)} bytes), not the image. Run 'git lfs pull' where it came from."
        )
    from PIL import Image  # OpenCV before version 5 fills the missing part of a JPEG with grey and says nothing

    try:
        Image.open(io.BytesIO(data)).load()
    except Image.DecompressionBombError:
        return  # too large to be looked at: OpenCV may say more
    except (OSError, SyntaxError) as error:
        reason = str(error).split(" <")[0]  # without the object that Pillow read from
        raise ImageReadError(
            f"'{path}' ({len(data)} bytes) is truncated or damaged: {reason}. Fetch the file again."
        ) from error


def _decode(path: Path, flags: int, exif: Exif) -> tuple[npt.NDArray[Any], int]:
    """Values as they are stored, and how many bits of each the file has: 8, 16, or what a packed TIFF file says."""
    require_regular(path)
    data = path.read_bytes()
    if _is_suspicious(data[:_EDGE], data[-_EDGE:]):
        _explain(path, data)
    image = _from_bytes(data, flags, path)
    if image is None and flags != cv2.IMREAD_UNCHANGED:  # grey floats have no colours: what they are, is seen without
        image = _from_bytes(data, cv2.IMREAD_UNCHANGED, path)
        image = None if image is None or image.dtype in (np.uint8, np.uint16) else image
    if image is None:
        raise ImageReadError(
            f"'{path}' ({len(data)} bytes) cannot be decoded as an image. Fetch the file again or take it out of the data set."
        )
    if image.dtype.char not in "BH":  # 8 and 16 bits
        raise ImageReadError(
            f"'{path}' holds {image.dtype} pixels, which do not say how bright white is; expected 8 or 16 bits. Convert the file."
        )
    bits = 8 * image.itemsize
    mark = _still_to_turn(data, exif)
    if data[:4] in TIFF_STARTS and has_more_pages(data):
        _tell_once(
            path,
            "pages",
            f"'{path}' holds several pictures (pages), of which the first is read. Save each as a file of its own.",
        )
    if bits == 16 and data.startswith(TIFF_STARTS):
        bits = tiff_bits(data)
        image = image if bits == 16 else image >> (16 - bits)  # OpenCV spreads 10, 12 or 14 bits over 16
    return image if mark == UPRIGHT else turned_upright(image, mark), bits


def _from_bytes(data: bytes, flags: int, path: Path) -> npt.NDArray[Any] | None:
    """The picture as OpenCV decodes it without looking at marks, but those of TIFF; None where it cannot."""
    try:
        decoded: npt.NDArray[Any] | None = cv2.imdecode(
            np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        reason = " ".join(str(error.err).split())
        if "CV_IO_MAX_IMAGE" in reason:
            raise ImageReadError(
                f"'{path}' is too large to be read: OpenCV takes 2^30 pixels at most. Make it smaller, or cut it into parts."
            ) from error
        raise ImageReadError(
            f"'{path}' ({len(data)} bytes) cannot be decoded ({reason}). Fetch the file again."
        ) from error
    return decoded


def _still_to_turn(data: bytes, exif: Exif) -> int:
    """By which mark decoded pixels must be turned: OpenCV has turned TIFF files, and no others."""
    is_turned = data[:4] in TIFF_STARTS
    if is_turned == (exif == "apply"):
        return UPRIGHT
    mark = rotation_mark(data)
    return {6: 8, 8: 6}.get(mark, mark) if is_turned else mark  # back again


def _as_8_bits(image: npt.NDArray[Any], bits: int, path: Path) -> npt.NDArray[np.uint8]:
    if image.itemsize == 1:
        return image
    high = int(image.max())
    image = image >> (bits - 8)
    if high >> bits:
        np.minimum(image, 255, out=image)
        _tell_once(
            path,
            f"depth {bits}",
            f"'{path}' holds values up to {high}, and bit_depth {bits} ends at {2**bits - 1}: brighter pixels are taken for white. "
            f"Set bit_depth: {high.bit_length()} for the whole data set, or leave this picture out.",
        )
    return image.astype(np.uint8)


_told: set[tuple[Path, str]] = set()  # folders, and what was said of one of their pictures


def _tell_once(path: Path, what: str, message: str) -> None:
    """Warn of one picture of a folder, not of a thousand."""
    if (path.parent, what) not in _told:
        _told.add((path.parent, what))
        warnings.warn(message, stacklevel=4)
