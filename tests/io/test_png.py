from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from anomaly_suite.io.png import with_text


def test_any_reader_finds_text_and_pixels() -> None:
    pixels = np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10)
    file = with_text(cv2.imencode(".png", pixels)[1].tobytes(), "scale", '{"low": -1.5}')
    with Image.open(io.BytesIO(file)) as image:
        image.verify()  # checksums of all chunks
        assert image.info == {"scale": '{"low": -1.5}'}
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED), pixels)
