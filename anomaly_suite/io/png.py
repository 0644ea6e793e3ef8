"""PNG files: a text beside the pixels."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AFTER_HEADER = 33  # bytes of the signature and of the chunk IHDR, which comes first


def with_text(png: bytes, keyword: str, text: str) -> bytes:
    """A PNG file with a text chunk, which viewers leave alone and any PNG library reads (Pillow as ``Image.info``).

    Args:
        png: The whole file.
        keyword: What the text is called, 1 to 79 Latin letters.
        text: Latin letters.
    """
    content = b"tEXt" + keyword.encode("latin-1") + b"\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:_AFTER_HEADER] + chunk + png[_AFTER_HEADER:]


def text_of(file: Path, keyword: str) -> str | None:
    """The text chunk that :func:`with_text` wrote, or another program; None where a file has none or is no PNG.

    Chunks before the pixels are looked at, nothing else is read.

    Args:
        file: Any file.
        keyword: What the text is called.
    """
    wanted = keyword.encode("latin-1") + b"\0"
    with file.open("rb") as opened:
        if opened.read(8) != SIGNATURE:
            return None
        while len(head := opened.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind in (b"IDAT", b"IEND"):
                return None
            content = opened.read(size + 4)[:size]  # behind it a checksum
            if kind == b"tEXt" and content.startswith(wanted):
                return content[len(wanted) :].decode("latin-1")
    return None
