"""Label images: read as they are stored, mapped by tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_suite.data.scenes.labels import label_table, read_label, relabel
from anomaly_suite.errors import DatasetError, ImageReadError

Write = Callable[..., Path]


def test_palette_labels_are_indices_not_colours(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, (9, 7)).astype(np.uint8)
    file = Image.fromarray(values)
    file = file.convert("P")
    file.putpalette([200, 30, 40, 1, 2, 3, 250, 250, 250, 9, 8, 7, 100, 100, 5])
    file.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert (read_label(tmp_path / "a.png") == values).all()


def test_16_bit_labels_are_read_whole(write: Write) -> None:
    values = np.array([[7, 255], [0, 33]], np.uint16)
    assert read_label(write("a.png", values)).tolist() == values.tolist()
    with pytest.raises(DatasetError, match=r"b\.png' holds numbers up to 26001; .* not that of instances"):
        read_label(write("b.png", np.array([[7, 26001]], np.uint16)))


def test_coloured_labels_are_refused(write: Write) -> None:
    with pytest.raises(DatasetError, match=r"a\.png' must hold one number per pixel; its mode is RGB"):
        read_label(write("a.png"))


def test_damaged_labels_are_named(tmp_path: Path, write: Write) -> None:
    path = write("a.png", np.random.default_rng(0).integers(0, 5, (90, 70)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageReadError, match=r"a\.png"):
        read_label(path)
    (tmp_path / "b.png").write_bytes(b"no image" * 20)
    with pytest.raises(ImageReadError, match=r"b\.png' is not a readable image"):
        read_label(tmp_path / "b.png")


def test_tables_map_and_refuse() -> None:
    table = label_table({7: 0, 8: 1}, void=[0])
    label = np.array([[7, 8], [0, 255]], np.uint8)
    assert relabel(label, table, source="a").tolist() == [[0, 1], [255, 255]]
    with pytest.raises(
        DatasetError, match=r"label of 'a' holds 9, which is no label of this data set \(2 such values\)"
    ):
        relabel(np.array([[7, 9, 13]], np.uint8), table, source="a")


def test_a_label_with_a_rotation_mark_is_turned_like_its_image(tmp_path: Path) -> None:
    numbers, tags = np.arange(6, dtype=np.uint8).reshape(2, 3), Image.Exif()
    tags[274] = 6
    Image.fromarray(numbers).save(tmp_path / "a.png", exif=tags.tobytes())
    assert (read_label(tmp_path / "a.png") == np.rot90(numbers, -1)).all()
