"""StreetHazards on a tiny look-alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_suite.contract import Batch
from anomaly_suite.data import StreetHazards
from anomaly_suite.errors import AnomalySuiteError

Write = Callable[..., Path]
Break = Callable[[Path, Write], None]
SIZE = (6, 8)
KNOWN = np.resize(np.arange(1, 14), SIZE).astype(np.uint8)
EVERY = np.resize(np.arange(1, 15), SIZE).astype(np.uint8)
TOWNS = {"train": {"training": ("t1", "t2", "t3"), "validation": ("t4",)}, "test": {"test": ("t5", "t6")}}


@pytest.fixture
def hazards(tmp_path: Path, write: Write) -> Path:
    """A scene of every town; those of two towns have the same name."""
    for archive, parts in TOWNS.items():
        for part, towns in parts.items():
            for town in towns:
                write(f"{archive}/images/{part}/{town}/{1 + (part == 'test')}.png", size=SIZE)
                where = f"{archive}/annotations/{part}/{town}/{1 + (part == 'test')}.png"
                write(where, EVERY if town == "t5" else KNOWN)
    return tmp_path


def everything(part: Any) -> Batch:
    batch: Batch = part.batch(list(range(len(part))))
    return batch


def test_numbers_and_parts(hazards: Path) -> None:
    data = StreetHazards(root=str(hazards), flip=0.0)
    train, val, test = data.require_splits()
    assert val is not None
    assert [len(part) for part in (train, val, test)] == [3, 1, 2]  # type: ignore[arg-type] # BatchedDatasets
    assert (data.num_classes, data.classes[0], data.classes[7], data.classes[12]) == (
        13,
        "unlabeled",
        "road",
        "traffic sign",
    )
    assert (everything(train)["target"][0].numpy() == KNOWN.astype(int) - 1).all()
    batch = everything(test)
    assert (batch["ood_mask"][0].numpy() == (EVERY == 14)).all()
    assert (batch["target"][0].numpy() == np.where(EVERY == 14, 255, EVERY.astype(int) - 1)).all()
    assert batch["label"].tolist() == [1, 0]
    assert not (batch["ood_mask"] == 255).any()  # every pixel is scored
    assert data.mean_over_images


def _anomaly_in_training(root: Path, write: Write) -> None:
    write("train/annotations/training/t1/1.png", EVERY)


def _zero(root: Path, write: Write) -> None:
    write("train/annotations/training/t1/1.png", KNOWN - 1)


def _coloured(root: Path, write: Write) -> None:
    write("train/annotations/training/t1/1.png", np.zeros((*SIZE, 3), np.uint8))


def _no_label(root: Path, write: Write) -> None:
    (root / "train/annotations/training/t2/1.png").unlink()


def _another_town(root: Path, write: Write) -> None:
    (root / "train/annotations/training/t2").rename(root / "train/annotations/training/t9")


def _no_test(root: Path, write: Write) -> None:
    (root / "test").rename(root / "elsewhere")


def _too_high(root: Path, write: Write) -> None:
    (root / "inner").mkdir()
    for part in ("train", "test"):
        (root / part).rename(root / "inner" / part)


def _another_size(root: Path, write: Write) -> None:
    write("train/annotations/training/t1/1.png", np.ones((3, 3), np.uint8))


def _leak(root: Path, write: Write) -> None:
    (root / "test/images/test/t5/2.png").write_bytes((root / "train/images/training/t1/1.png").read_bytes())


def _empty_part(root: Path, write: Write) -> None:
    (root / "train/images/validation/t4/1.png").unlink()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_anomaly_in_training, r"t1/1\.png' holds 14, which is no label of this data set"),
        (_zero, r"t1/1\.png' holds 0, which is no label of this data set"),
        (_coloured, r"must hold one number per pixel; its mode is RGB"),
        (_no_label, r"t2/1\.png' has no label; looked for '.*annotations/training/t2/1\.png' \(1 images"),
        (_another_town, r"t2/1\.png' has no label"),
        (_no_test, r"StreetHazards expects train/images/training, .* in root='.*'; found elsewhere, train\. streethazards_train\.tar"),
        (_too_high, r"root should be '.*inner'"),
        (_another_size, r"is \(3, 3\), but its image '.*' is \(6, 8\)"),
        (_leak, r"the test image '.*t5/2\.png' has the same content as the training image '.*t1/1\.png'"),
        (_empty_part, r"expects images .* in '.*images/validation', which holds no image"),
    ],
)  # fmt: skip
def test_broken_copies(break_it: Break, message: str, hazards: Path, write: Write) -> None:
    break_it(hazards, write)
    with pytest.raises(AnomalySuiteError, match=message):
        everything(StreetHazards(root=str(hazards)).require_splits().train)
