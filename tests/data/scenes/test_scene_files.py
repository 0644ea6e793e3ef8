"""Scenes in files: images and labels read together, missing labels, counts."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_suite.data.scenes.scene_files import Scene, SceneFiles, log_counts, require_labels, resize
from anomaly_suite.errors import DatasetError
from anomaly_suite.io.images import read_image

Write = Callable[..., Path]


def test_gamma_chunks_of_images_are_ignored(tmp_path: Path, write: Write) -> None:
    path = write("a.png")
    plain = read_image(path)
    data = path.read_bytes()
    content = b"gAMA" + (100_000).to_bytes(4, "big")  # exponent 1: applied, it would lighten every pixel
    chunk = (4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    path.write_bytes(data[:33] + chunk + data[33:])  # after the header chunk
    assert Image.open(path).info["gamma"] == 1.0
    assert (read_image(path) == plain).all()


@pytest.mark.parametrize("suffix", ["webp", "jpg", "png"])
def test_images_of_any_format(tmp_path: Path, suffix: str) -> None:
    smooth = np.linspace(20, 220, 32 * 48).reshape(32, 48)[..., None].repeat(3, 2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}")
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - smooth).max() <= 8


def test_image_and_label_of_two_sizes_are_refused(write: Write) -> None:
    whole = Scene(write("a.png", size=(10, 12)), write("a_label.png", np.zeros((10, 12), np.uint8)))
    other = Scene(whole.image, write("b_label.png", np.zeros((5, 6), np.uint8)))
    scenes = SceneFiles([whole, other])
    assert [part.shape for part in scenes.read(0)] == [(10, 12, 3), (10, 12)]
    with pytest.raises(DatasetError, match=r"b_label.png' is \(5, 6\), but its image .*a.png' is \(10, 12\)"):
        scenes.read(1)


def test_resize_averages_areas_and_keeps_label_numbers() -> None:
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (24, 36, 3), dtype=np.uint8), rng.integers(0, 4, (24, 36), dtype=np.uint8)
    small, numbers = resize(image, label, (8, 12))
    assert np.abs(small - image.reshape(8, 3, 12, 3, 3).mean((1, 3))).max() <= 0.5
    assert (numbers == label[1::3, 1::3]).all()  # the middle of each 3 x 3, so in step with the average
    assert set(np.unique(resize(image, label, (31, 47))[1])) <= set(np.unique(label))
    narrow, _ = resize(image, label, (24, 12))  # no side grows
    assert np.abs(narrow - image.reshape(24, 12, 3, 3).mean(2)).max() <= 0.5


def test_missing_labels_are_named_and_counted(write: Write, tmp_path: Path) -> None:
    scenes = [Scene(write(f"{name}.png"), tmp_path / f"{name}_label.png") for name in "abc"]
    write("b_label.png")
    require_labels(scenes[1:2], labels="gtFine")
    with pytest.raises(
        DatasetError,
        match=r"a.png' has no label; looked for '.*a_label.png' \(2 images without one\). Complete gtFine, or take",
    ):
        require_labels(scenes, labels="gtFine")


def test_counts_are_logged_and_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_counts("Some set", tmp_path, {"test": 3}, [3])
        log_counts("Some set", tmp_path, {"training": 2, "validation": 1, "test": 4}, [2, 1, 3])
    assert caplog.messages == [
        f"'{tmp_path}': 3 test images",
        f"'{tmp_path}': 2 training, 1 validation and 4 test images",
        "Some set has published 2, 1 and 3",
    ]
