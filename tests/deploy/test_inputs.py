"""Pictures as programs hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_suite.deploy.inputs import as_pixels, pictures_of
from anomaly_suite.errors import AnomalySuiteError, DatasetNotFoundError, ShapeError

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
ALPHA = np.full((6, 5, 1), 9, np.uint8)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (RGB, RGB),
        (RGB[..., 0], RGB[..., :1]),
        (RGB[..., :1], RGB[..., :1]),
        (np.concatenate([RGB, ALPHA], 2), RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        (RGB[:, ::-1], RGB[:, ::-1]),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB).permute(2, 0, 1).float() / 255, RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(RGB).convert("RGBA"), RGB),
        (Image.fromarray(RGB[..., 0]), RGB[..., :1]),
        (Image.fromarray(RGB[..., 0] > 127), 255 * (RGB[..., :1] > 127)),
    ],
)
def test_one_picture_of_every_kind(given: Any, wanted: Any) -> None:
    (found,) = pictures_of(given)
    assert found.pixels is not None
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape == wanted.shape
    assert (found.pixels == wanted).all()


def test_lists_batches_and_paths_keep_their_order(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), RGB)
    batch = torch.from_numpy(np.stack([RGB, 255 - RGB])).permute(0, 3, 1, 2)
    found = list(pictures_of([tmp_path / "a.png", RGB, batch, [str(tmp_path)], iter([RGB])]))
    names = [str(tmp_path / "a.png"), "picture 1", "picture 2 0", "picture 2 1", str(tmp_path / "a.png"), "picture 4 0"]
    assert [each.name for each in found] == names
    assert [each.pixels is None for each in found] == [True, False, False, False, True, False]
    assert (found[3].pixels == 255 - RGB).all()
    assert not list(pictures_of([]))


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (3, ShapeError, "a picture must be a path.*got int"),
        ({"image": RGB}, ShapeError, "got dict"),
        (b"x.png", ShapeError, "got bytes"),
        (None, ShapeError, "got NoneType"),
        (np.zeros((4, 5, 7)), ShapeError, r"picture is \(4, 5, 7\)"),
        (np.zeros((0, 5, 3)), ShapeError, r"picture is \(0, 5, 3\)"),
        (torch.zeros(5, 4), ShapeError, r"must be \(C, H, W\) or \(B, C, H, W\); picture is \(5, 4\)"),
        (np.full((4, 5), 255.0), ShapeError, r"lie in \[0, 1\]; picture reaches from 255 to 255"),
        (np.full((4, 5), np.nan), ShapeError, "from nan to nan"),
        (np.zeros((4, 5), np.int64), ShapeError, "picture holds int64"),
        ([RGB, [RGB, "gone.png"]], DatasetNotFoundError, r"'gone\.png' does not exist"),
    ],
)
def test_what_is_no_picture(given: Any, error: type[AnomalySuiteError], says: str) -> None:
    with pytest.raises(error, match=says):
        list(pictures_of(given))


def test_floats_are_rounded_to_the_nearest_of_8_bits() -> None:
    assert as_pixels(np.array([[0.0, 0.4 / 255, 0.6 / 255, 1.0]]), "picture").ravel().tolist() == [0, 0, 1, 255]
