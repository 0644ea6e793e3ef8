"""Tiny look-alikes of the driving-scene data sets: real file names and folders, images of a few pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Write = Callable[..., Path]
SIZE = (16, 24)
CAMVID_SIZE = (12, 16)


@pytest.fixture
def cityscapes(tmp_path: Path, write: Write) -> Path:
    """Two scenes of each of four training cities and one of each validation city, every number of the label files in each."""
    ids = np.resize([7, 8, 26, 0, 33, 255, 29], SIZE).astype(np.uint8)
    train = ("aachen", "monchengladbach", "strasbourg", "stuttgart")
    places = [("train", city, 2) for city in train] + [("val", city, 1) for city in ("frankfurt", "lindau", "munster")]
    for part, city, count in places:
        for index in range(count):
            name = f"{city}_000000_{index:06d}"
            write(f"cityscapes/leftImg8bit/{part}/{city}/{name}_leftImg8bit.png", size=SIZE)
            write(f"cityscapes/gtFine/{part}/{city}/{name}_gtFine_labelIds.png", ids)
            deep = np.where(ids == 26, np.uint16(26001), ids)
            write(f"cityscapes/gtFine/{part}/{city}/{name}_gtFine_instanceIds.png", deep)
            write(f"cityscapes/gtFine/{part}/{city}/{name}_gtFine_color.png", size=SIZE)
    return tmp_path / "cityscapes"


@pytest.fixture
def lost_and_found(tmp_path: Path, write: Write) -> Path:
    """Two test scenes and one training scene; the upper rows of labels are background, then road, a crate, a pole, a child."""
    ids = np.repeat([0, 1, 2, 31, 40, 1, 1, 1], 2)[:, None].repeat(SIZE[1], 1).astype(np.uint8)
    train_ids = np.repeat([255, 1, 2, 0, 2, 1, 1, 1], 2)[:, None].repeat(SIZE[1], 1).astype(np.uint8)
    places = {"test": ("02_Hanns_Klemm_Str_44", "15_Rechbergstr_Deckenpfronn"), "train": ("01_Hanns_Klemm_Str_45",)}
    for part, scenes in places.items():
        for scene in scenes:
            name = f"{scene}_000000_000010"
            write(f"laf/leftImg8bit/{part}/{scene}/{name}_leftImg8bit.png", size=SIZE)
            write(f"laf/gtCoarse/{part}/{scene}/{name}_gtCoarse_labelIds.png", ids)
            write(f"laf/gtCoarse/{part}/{scene}/{name}_gtCoarse_labelTrainIds.png", train_ids)
    return tmp_path / "laf"


@pytest.fixture
def coco(tmp_path: Path, write: Write) -> Path:
    """Eight records: a dog, a train, a car, a small image, an unannotated one, a crowd, two cups in one, a kite of two parts."""
    categories = {1: "person", 3: "car", 7: "train", 18: "dog", 38: "kite", 47: "cup"}
    images = {
        10: (40, 60),
        11: (40, 60),
        12: (40, 60),
        13: (20, 60),
        14: (40, 60),
        15: (40, 60),
        16: (40, 60),
        17: (40, 60),
    }

    def box(left: float, top: float, width: float, height: float) -> list[float]:
        right, bottom = left + width, top + height
        return [left, top, right, top, right, bottom, left, bottom]

    crowd = np.zeros((40, 60), np.uint8)
    crowd[5:15, 8:9] = 1
    crowd[20:25, 30:40] = 1
    flat = np.concatenate([[0], crowd.T.ravel(), [2]])
    counts = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [crowd.size]])).tolist()
    objects: list[tuple[int, int, Any]] = [
        (10, 18, [box(10, 5, 20, 10)]),
        (11, 7, [box(1, 1, 5, 5)]),
        (12, 3, [box(1, 1, 5, 5)]),
        (13, 47, [box(1, 1, 5, 5)]),
        (15, 47, {"counts": counts, "size": [40, 60]}),
        (16, 47, [box(2, 2, 6, 6)]),
        (16, 47, [box(40, 20, 10, 4)]),
        (17, 38, [box(2, 2, 6, 6), box(20, 2, 6, 6)]),
    ]
    content = {
        "images": [
            {"id": key, "file_name": f"{key:012d}.png", "height": size[0], "width": size[1]} for key, size in images.items()
        ],
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
        "annotations": [
            {"id": 900 - number, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": int(isinstance(shape, dict))}
            for number, (image, category, shape) in enumerate(objects)
        ],
    }  # fmt: skip
    for key, size in images.items():
        write(f"coco/train2017/{key:012d}.png", size=size)
    file = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    return tmp_path / "coco"


@pytest.fixture
def camvid(tmp_path: Path, write: Write) -> Path:
    """Four training scenes, half of them with pedestrians and bicyclists, one for validation and two for testing."""
    every = np.resize(np.arange(12), CAMVID_SIZE).astype(np.uint8)
    without = np.resize(np.arange(9), CAMVID_SIZE).astype(np.uint8)
    for part, labels in {"train": [every, without, every, without], "val": [every], "test": [every, without]}.items():
        for index, label in enumerate(labels):
            write(f"{part}/0001TP_{part}{index}.{'jpg' if index else 'png'}", size=CAMVID_SIZE)
            write(f"{part}annot/0001TP_{part}{index}.png", label)
    return tmp_path
