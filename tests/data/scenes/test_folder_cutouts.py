"""Outliers from folders: images with masks, and RGBA images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_suite.data.scenes.folder_cutouts import FolderCutouts
from anomaly_suite.errors import DatasetError

Write = Callable[..., Path]


def test_folders_of_images_and_masks(tmp_path: Path, write: Write) -> None:
    mask = np.zeros((12, 10), np.uint8)
    mask[3:6, 3:6] = 1
    write("pool/images/cup.jpg")
    write("pool/masks/cup_mask.png", mask)
    found = FolderCutouts(tmp_path / "pool" / "images", tmp_path / "pool" / "masks")
    assert ((found.read(0).instance > 0) == (mask > 0)).all()
    write("pool/masks/cup_mask.png", mask[:6])
    with pytest.raises(DatasetError, match=r"cup_mask.png' is \(6, 10\), but '.*cup.jpg' is \(12, 10\)"):
        found.read(0)


def test_rgba_images_with_and_without_palette(tmp_path: Path, write: Write) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    rgba = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8)
    rgba[..., 3] = 0
    rgba[2:5, 3:7, 3] = 128
    rgba[6, 6, 3] = 127
    Image.fromarray(rgba).save(folder / "a.png")
    indices = Image.fromarray((rgba[..., 3] > 127).astype(np.uint8)).convert("P")
    indices.putpalette([255, 0, 0, 0, 0, 255])
    indices.save(folder / "b.png", transparency=0)
    found = FolderCutouts(folder, None)
    for index in range(2):
        assert ((found.read(index).instance > 0) == (rgba[..., 3] >= 128)).all()
    assert (found.read(0).image == rgba[..., :3]).all()
    assert found.read(1).image[3, 4].tolist() == [0, 0, 255]
    write("pool/c.png")
    with pytest.raises(DatasetError, match=r"c\.png' has no transparency"):
        FolderCutouts(folder, None).read(2)
