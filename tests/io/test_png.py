from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from anomaly_suite.io.png import text_of, with_text


def test_any_reader_finds_text_and_pixels() -> None:
    pixels = np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10)
    file = with_text(cv2.imencode(".png", pixels)[1].tobytes(), "scale", '{"low": -1.5}')
    with Image.open(io.BytesIO(file)) as image:
        image.verify()  # checksums of all chunks
        assert image.info == {"scale": '{"low": -1.5}'}
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED), pixels)


def test_a_text_is_read_back_and_nothing_else_is(tmp_path: Path) -> None:
    file, plain = tmp_path / "a.png", cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes()
    file.write_bytes(with_text(with_text(plain, "scale", "{}"), "panel", "[1]"))
    assert [text_of(file, name) for name in ("panel", "scale", "pan")] == ["[1]", "{}", None]
    for other in (plain, b"GIF89a", plain[:20], b""):
        file.write_bytes(other)
        assert text_of(file, "panel") is None
