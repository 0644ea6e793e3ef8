"""Headers of image files: size, bits of a value and rotation mark (EXIF), read without decoding. Axes: H and W pixels, C channels."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from anomaly_suite.errors import AnomalySuiteError, ImageReadError
from anomaly_suite.io.regular import require_regular

if TYPE_CHECKING:
    from PIL.Image import Image

Exif = Literal["apply", "ignore"]
"""What a picture's rotation mark does: ``apply`` turns it upright, as viewers and annotation tools show it; ``ignore`` takes it as stored."""

UPRIGHT = 1  # the mark of a picture that is stored as it is seen
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

Array = TypeVar("Array", bound=npt.NDArray[Any])


class Header(NamedTuple):
    """Height and width as stored, and the rotation mark, 1 to 8."""

    height: int
    width: int
    mark: int

    def size(self, exif: Exif) -> tuple[int, int]:
        """Height and width of the picture turned upright, or as it is stored."""
        turned = exif == "apply" and self.mark > 4
        return (self.width, self.height) if turned else (self.height, self.width)


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """An image file opened with Pillow, whose errors name it; also those of what is done with the image.

    Raises:
        ImageReadError: it is no readable image, or has more pixels than Pillow reads.
    """
    from PIL import Image

    require_regular(path)
    try:
        with Image.open(path) as image:
            yield image
    except AnomalySuiteError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageReadError(
            f"'{path}' is too large to be read: {str(error).partition(', could')[0]}. Make it smaller, or cut it into parts."
        ) from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageReadError(f"'{path}' is not a readable image: {error}. Replace the file.") from error


def read_header(path: Path) -> Header:
    """Size and rotation mark of an image file.

    Raises:
        ImageReadError: it has no readable header.
    """
    with opened(path) as image:
        tags = getattr(image, "tag_v2", {})  # of a TIFF file, whose size Pillow has turned already
        height, width = tags.get(257, image.height), tags.get(256, image.width)
    return Header(height, width, mark_of(path))


def mark_of(path: Path) -> int:
    """The rotation mark of a file that is not empty; see :func:`rotation_mark`. Of the file only what the mark lies in is read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return rotation_mark(data)


def is_deep(path: Path) -> bool:
    """Whether values of an image file may have more than 8 bits, by its header.

    Raises:
        ImageReadError: there is no such file.
    """
    require_regular(path)
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"\x89PNG"):
        return head[24:25] == b"\x10"
    if head.startswith((b"P5", b"P6")):
        numbers = re.findall(rb"(?<!\S)\d+(?=\s)", re.sub(rb"#[^\n]*", b"", head[2:]))
        return len(numbers) < 3 or int(numbers[2]) > 255
    if head.startswith(TIFF_STARTS):
        try:
            with opened(path) as image:
                bits = getattr(image, "tag_v2", {}).get(258, (1,))
        except ImageReadError:
            return True  # of a kind that Pillow does not know: decoding it tells more
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    return False


def rotation_mark(data: bytes | mmap.mmap) -> int:
    """The rotation mark in the bytes of a JPEG, PNG, WebP or TIFF file, 1 to 8; 1 where there is none that can be read."""
    if data[:2] == b"\xff\xd8":
        block = _in_jpeg(data)
    elif data[:4] == b"\x89PNG":
        block = _in_png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        block = _in_webp(data)
    else:
        block = data[:] if data[:4] in TIFF_STARTS else None
    if block is None:
        return UPRIGHT
    mark = _tag(block, 274, UPRIGHT)
    return mark if mark in range(1, 9) else UPRIGHT  # a damaged mark is none, as for viewers


def tiff_bits(data: bytes) -> int:
    """Bits of a value in a TIFF file of 16-bit values, which may be packed: 10, 12, 14 or 16."""
    bits = _tag(data, 258, 16)
    bits = max(bits) if isinstance(bits, tuple) else bits
    return bits if bits in (10, 12, 14) else 16


def has_more_pages(data: bytes) -> bool:
    """Whether a TIFF file holds a second picture; of BigTIFF files it is not looked at."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        (tags,) = struct.unpack_from(order + "H", data, first)
        return data[2:4] in (b"*\0", b"\0*") and struct.unpack_from(order + "I", data, first + 2 + 12 * tags) != (0,)
    except struct.error:
        return False


def _tag(block: bytes, number: int, otherwise: int) -> Any:
    """A number among the tags of a TIFF file, or of EXIF, which is laid out alike."""
    from PIL import Image

    tags = Image.Exif()
    try:
        tags.load(block)
        return tags.get(number, otherwise)
    except Exception:  # whatever damaged tags lead to
        return otherwise


def turned_upright(pixels: Array, mark: int) -> Array:
    """Pixels as they are seen.

    Args:
        pixels: As stored, shape (H, W) or (H, W, C).
        mark: 2 mirrored, 3 upside down, 4 both, 5 to 8 the same four lying on the side.

    Returns:
        The same array if it is upright; height and width change places for marks above 4.
    """
    if mark == UPRIGHT:
        return pixels
    out: Any = pixels.swapaxes(0, 1) if mark > 4 else pixels
    rows = slice(None, None, -1) if mark in (3, 4, 7, 8) else slice(None)
    columns = slice(None, None, -1) if mark in (2, 3, 6, 7) else slice(None)
    return np.ascontiguousarray(out[rows, columns])  # type: ignore[return-value] # of the same type


def _in_jpeg(data: bytes | mmap.mmap) -> bytes | None:
    at, end = 2, len(data) - 4
    while at <= end:
        start, kind, length = _SEGMENT(data, at)
        if start != 0xFF or kind in (0xDA, 0xD9):  # pixels, the end
            return None
        if kind == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 10 : at + 2 + length]
        at += 1 if kind == 0xFF else 2 + length
    return None


def _in_png(data: bytes | mmap.mmap) -> bytes | None:
    at, end = 8, len(data) - 8
    while at <= end:
        length, kind = _PNG_CHUNK(data, at)
        if kind == b"eXIf":  # which may stand behind the pixels
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return None


def _in_webp(data: bytes | mmap.mmap) -> bytes | None:
    at, end = 12, len(data) - 8
    while at <= end:
        kind, length = _WEBP_CHUNK(data, at)
        if kind == b"EXIF":
            return data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
    return None


_SEGMENT = struct.Struct(">BBH").unpack_from
_PNG_CHUNK = struct.Struct(">I4s").unpack_from
_WEBP_CHUNK = struct.Struct("<4sI").unpack_from
