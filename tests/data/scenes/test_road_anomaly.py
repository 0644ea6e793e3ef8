"""RoadAnomaly on tiny look-alikes of the official and the repackaged layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_suite.contract import Batch
from anomaly_suite.data import RoadAnomaly
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, ShapeError

Write = Callable[..., Path]
SIZES = {"animals01_Guiguinto_railway_station": (12, 20), "cones01_Saddle": (12, 20), "vehicle01_x": (10, 14)}


@pytest.fixture
def official(tmp_path: Path, write: Write) -> Path:
    """Three photographs, one as the only .jpg and of another size; labels 0, 1, 2 and 7."""
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        write(f"ra/frames/{name}.labels/labels_semantic.png", np.resize([0, 1, 2, 7], size).astype(np.uint8))
        suffix = "jpg" if name.startswith("vehicle") else "webp"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            tmp_path / "ra" / "frames" / f"{name}.{suffix}"
        )
    write("ra/frames/cones01_Saddle.labels/labels_instance.png", np.zeros((12, 20), np.uint16))  # the others have none
    (tmp_path / "ra" / "frame_list.json").write_text(json.dumps([f"{name}.webp" for name in SIZES]))
    return tmp_path / "ra"


def batches(root: Path, **options: Any) -> list[Batch]:
    return list(RoadAnomaly(root=str(root), **options).test_dataloader())


def test_two_and_above_is_anomalous_and_every_pixel_is_scored(official: Path) -> None:
    found = batches(official)
    assert [Path(batch["image_path"][0]).stem for batch in found] == list(SIZES)  # in the order of the list
    assert [Path(batch["image_path"][0]).suffix for batch in found] == [".webp", ".webp", ".jpg"]
    for batch, size in zip(found, SIZES.values(), strict=True):
        assert batch["image"].shape == (1, 3, *size)
        assert (batch["ood_mask"][0].numpy() == np.resize([0, 0, 1, 1], size)).all()
    assert set(found[0]) == {"image", "image_path", "ood_mask", "label"}
    with pytest.raises(ShapeError, match=r"is \(12, 20\) and '.*' is \(10, 14\)"):
        batches(official, eval_batch_size=3)


def test_repackaged(tmp_path: Path, write: Write) -> None:
    for name in ("b", "a"):
        write(f"ra/original/{name}.jpg", size=(6, 8))
        write(f"ra/labels/{name}.png", np.resize([0, 1], (6, 8)).astype(np.uint8))
    (batch,) = batches(tmp_path / "ra", eval_batch_size=2)
    assert (batch["ood_mask"].numpy() == np.resize([0, 1], (6, 8))).all()
    write("ra/labels/a.png", np.full((6, 8), 2, np.uint8))
    with pytest.raises(DatasetError, match=r"a\.jpg' holds 2, which is no label"):
        batches(tmp_path / "ra")
    (tmp_path / "ra" / "labels" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"b\.jpg' has no label; looked for '.*labels/b.png' \(1 images without"):
        batches(tmp_path / "ra")


def test_listed_images_must_be_there(official: Path, tmp_path: Path) -> None:
    (official / "frames" / "cones01_Saddle.webp").unlink()
    with pytest.raises(
        DatasetError, match=r"lists 'cones01_Saddle', of which there is no image in '.*frames' \(1 missing\)"
    ):
        batches(official)
    with pytest.raises(DatasetNotFoundError, match=r"frame_list\.json and frames, or original and labels"):
        batches(tmp_path / "none")


def test_it_cannot_be_trained_on(official: Path) -> None:
    with pytest.raises(ConfigError, match="RoadAnomaly is for testing"):
        RoadAnomaly(root=str(official)).setup("fit")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", r"frame_list\.json' is no list of file names"),
        (b"[1, 2]", r"frame_list\.json' is no list of file names"),
        (b'["cones01_Saddle.webp", "cones01_Saddle.webp"]', r"frame_list\.json' lists 'cones01_Saddle' twice"),
        (b'["\xe4.webp"]', r"frame_list\.json lists '\xe4', of which there is no image"),  # read as Windows-1252
    ],
)
def test_lists_that_cannot_be_right(official: Path, content: bytes, message: str) -> None:
    (official / "frame_list.json").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        batches(official)


def test_two_images_of_one_name(official: Path, write: Write) -> None:
    write("ra/frames/cones01_Saddle.png", size=(12, 20))
    with pytest.raises(
        DatasetError, match=r"'.*cones01_Saddle\.png' and '.*cones01_Saddle\.webp' are images of one name"
    ):
        batches(official)
