"""PNG files: a text beside the pixels."""

from __future__ import annotations

import struct
import zlib

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
