"""Tiny look-alikes of the data sets, written into the test's own folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write one image below the test's folder: RGB noise that depends on its name, or the given pixels (RGB order)."""

    def make(name: str, pixels: Any = None, *, size: tuple[int, int] = (12, 10)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            rng = np.random.default_rng(list(name.encode()))
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        pixels = np.asarray(pixels)
        assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.shape[2:] == (3,) else pixels)
        return path

    return make


@pytest.fixture
def mvtec(tmp_path: Path, write: Write) -> Callable[..., Path]:
    """Write one category in MVTec AD's layout; the defect of every mask is its upper left quarter."""

    def make(
        category: str = "bottle", *, train: int = 10, good: int = 3, defect: int = 2, size: tuple[int, int] = (12, 10)
    ) -> Path:
        mask = np.zeros(size, np.uint8)
        mask[: size[0] // 2, : size[1] // 2] = 255
        for index in range(train):
            write(f"{category}/train/good/{index:03d}.png", size=size)
        for index in range(good):
            write(f"{category}/test/good/{index:03d}.png", size=size)
        for kind in ("broken", "scratch"):
            for index in range(defect):
                write(f"{category}/test/{kind}/{index:03d}.png", size=size)
                write(f"{category}/ground_truth/{kind}/{index:03d}_mask.png", mask)
        return tmp_path

    return make
