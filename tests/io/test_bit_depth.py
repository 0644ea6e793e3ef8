"""The bits that a set of images uses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_suite.io import bit_depth
from anomaly_suite.io.bit_depth import depth_of


def written(folder: Path, tops: list[int]) -> list[Path]:
    paths = [folder / f"{row}.png" for row in range(len(tops))]
    for path, top in zip(paths, tops, strict=True):
        cv2.imwrite(str(path), np.array([[0, top]], np.uint16))
    return paths


@pytest.mark.parametrize(
    ("top", "bits"),
    [(200, 8), (255, 8), (256, 9), (1023, 10), (1024, 11), (4095, 12), (4096, 13), (16384, 15), (65535, 16)],
)
def test_the_least_depth_that_holds_all(tmp_path: Path, top: int, bits: int) -> None:
    paths = written(tmp_path, [100, top, 50])
    assert depth_of(paths, tell=print) == (bits, paths[1], top, bits)  # two of six pixels need as many


def test_single_pixels_are_not_usual(tmp_path: Path) -> None:
    pixels = np.full((50, 50), 900, np.uint16)
    pixels[:2, 0] = 16_000
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert depth_of([tmp_path / "a.png"], tell=print)[::3] == (14, 10)
    pixels[2, 0] = 16_000
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert depth_of([tmp_path / "a.png"], tell=print)[::3] == (14, 14)


def test_reading_ends_where_nothing_more_can_be_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, seen = [*written(tmp_path, [40_000] + [9] * 60)], []
    read = bit_depth.stored_values
    monkeypatch.setattr(bit_depth, "stored_values", lambda path: seen.append(path) or read(path))
    assert depth_of(paths, tell=print)[0] == 16
    assert len(seen) == 32
    said: list[str] = []
    monkeypatch.setattr(bit_depth, "EVERY", -1.0)
    depth_of(paths[1:], tell=said.append)
    assert said[0] == "bit_depth: auto has read 32 of 60 images of more than 8 bits."
