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
from anomaly_suite.io.regular import require_regular

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})

GREY_SHARE = 0.01  # of a mask's pixels between black and white above which its encoding is doubted


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


def check_mask_size(image: Path, mask: Path) -> None:
    """Check from their headers that a mask is as large as its image.

    Raises:
        DatasetError: it is not.
        ImageReadError: one of them has no readable header.
    """
    height, width = image_size(image)
    mask_height, mask_width = image_size(mask)
    if (height, width) != (mask_height, mask_width):
        raise DatasetError(
            f"mask '{mask}' is {mask_height} x {mask_width}, but its image '{image}' is {height} x {width} (H x W). "
            "Give every mask the size of its image."
        )


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from a file's header.

    Raises:
        ImageReadError: it has none.
    """
    from PIL import Image

    require_regular(path)
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ImageReadError(f"'{path}' is not a readable image: {error}. Replace the file.") from error


def read_image(path: Path, *, channels: Literal[1, 3] = 3) -> npt.NDArray[np.uint8]:
    """Read one image of any kind as 8-bit RGB or grey.

    Grey and paletted images become RGB, alpha is dropped, rotation marks (EXIF) are ignored. 16-bit values are scaled by
    the depth that they use: 8 bits if all are below 256, 12 bits if all are below 4096, else 16.

    Args:
        path: The file.
        channels: 3 for RGB, 1 for grey.

    Returns:
        Shape (H, W, C).

    Raises:
        ImageReadError: it cannot be read; says why.
    """
    mode = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    image = _decode(path, mode | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image) if channels == 3 else image[..., None]


def read_mask(path: Path, *, anomalous: bool = True) -> npt.NDArray[np.uint8]:
    """Read a mask as 0 and 1.

    Values of at most 15 are taken for numbers of defects, anything above 0 being anomalous; else the threshold is 128.
    Warns where many pixels lie between black and white, or where the mask of an anomalous image is empty.

    Args:
        path: The file.
        anomalous: Whether the image is.

    Returns:
        Shape (H, W).

    Raises:
        ImageReadError: it cannot be read; says why.
    """
    values = _decode(path, cv2.IMREAD_UNCHANGED)
    if values.ndim == 3:
        values = values[..., :3].max(-1)  # without alpha
    low, high = (int(value) for value in cv2.minMaxLoc(values)[:2])
    mask = values > 0 if high <= 15 else values >= 128
    if cv2.countNonZero(cv2.inRange(values, 16, 239)) > GREY_SHARE * values.size:
        warnings.warn(
            f"mask '{path}' has grey pixels between black and white (values {low} to {high}); "
            "those of at least 128 count as anomalous. Store masks as PNG with the values 0 and 255.",
            stacklevel=2,
        )
    if anomalous and not mask.any():
        warnings.warn(
            f"mask '{path}' of an anomalous image is empty (values {low} to {high}): "
            "all its pixels count as normal. Complete the mask, or take the image out of the test set.",
            stacklevel=2,
        )
    return mask.view(np.uint8)


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
    except (OSError, SyntaxError) as error:
        raise ImageReadError(
            f"'{path}' ({len(data)} bytes) is truncated or damaged: {error}. Fetch the file again."
        ) from error


def _decode(path: Path, flags: int) -> npt.NDArray[np.uint8]:
    require_regular(path)
    data = path.read_bytes()
    if _is_suspicious(data[:_EDGE], data[-_EDGE:]):
        _explain(path, data)
    image: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ImageReadError(
            f"'{path}' ({len(data)} bytes) cannot be decoded as an image. Fetch the file again or take it out of the data set."
        )
    if image.dtype == np.uint16:
        high = int(image.max())
        image = (image >> (0 if high < 256 else 4 if high < 4096 else 8)).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageReadError(f"'{path}' holds {image.dtype} pixels; expected 8 or 16 bits. Convert the file.")
    return image
