"""BDDAnomaly on a tiny look-alike with labels of the release and with plain ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_suite.contract import Batch
from anomaly_suite.data import BDDAnomaly
from anomaly_suite.errors import AnomalySuiteError

Write = Callable[..., Path]
Break = Callable[[Path, Write], None]
SIZE = (6, 8)
ROAD, CAR, TRAIN, MOTORCYCLE, BICYCLE, OTHER = 0, 13, 16, 17, 18, 255
SCENES = {
    "train": {"a": [ROAD, CAR, OTHER], "b": [ROAD, TRAIN], "c": [ROAD, BICYCLE, OTHER]},
    "val": {"d": [ROAD, MOTORCYCLE, OTHER], "e": [ROAD, CAR], "f": [ROAD, BICYCLE]},
}


def label_of(values: list[int], *, released: bool) -> Any:
    label = np.resize(values, SIZE)
    return (np.where(label == OTHER, 1, label + 2) if released else label).astype(np.uint8)


@pytest.fixture(params=["train_labels", "labels"])
def bdd(request: pytest.FixtureRequest, tmp_path: Path, write: Write) -> Path:
    """Three scenes of either part."""
    for part, scenes in SCENES.items():
        for name, values in scenes.items():
            write(f"seg/images/{part}/{name}.jpg", size=SIZE)
            label = label_of(values, released=request.param == "train_labels")
            write(f"seg/{request.param}/{part}/{name}_train_id.png", label)
    return tmp_path


def everything(part: Any) -> Batch:
    batch: Batch = part.batch(list(range(len(part))))
    return batch


def names(part: Any) -> list[str]:
    return [Path(name).stem for name in part.source.names]


def test_the_variant_of_the_paper(bdd: Path) -> None:
    data = BDDAnomaly(root=str(bdd), flip=0.0)
    train, val, test = data.require_splits()
    assert [names(part) for part in (train, val, test)] == [["a", "c"], ["e", "f"], ["b", "d"]]
    assert data.num_classes == 17
    assert (list(data.classes)[ROAD], list(data.classes)[CAR], list(data.classes)[16]) == ("road", "car", "bicycle")
    batch = everything(train)
    assert (batch["target"][0].numpy() == np.resize([0, 13, 255], SIZE)).all()
    assert (batch["target"][1].numpy() == np.resize([0, 16, 255], SIZE)).all()
    batch = everything(test)
    assert (batch["ood_mask"][0].numpy() == np.resize([0, 1], SIZE)).all()
    assert (batch["ood_mask"][1].numpy() == np.resize([0, 1, 0], SIZE)).all()  # what has no class is normal
    assert (batch["target"][1].numpy() == np.resize([0, 255, 255], SIZE)).all()
    assert batch["label"].tolist() == [1, 1]
    assert data.mean_over_images


def test_the_variant_with_bicycles(bdd: Path) -> None:
    data = BDDAnomaly(root=str(bdd), variant="train_motorcycle_bicycle")
    train, val, test = data.require_splits()
    assert [names(part) for part in (train, val, test)] == [["a"], ["e"], ["b", "c", "d", "f"]]
    assert data.num_classes == 16
    assert (everything(test)["ood_mask"][1].numpy() == np.resize([0, 1, 0], SIZE)).all()


def _labels(root: Path) -> Path:
    return next(path for path in (root / "seg").iterdir() if path.name.endswith("labels"))


def _no_label(root: Path, write: Write) -> None:
    (_labels(root) / "train" / "a_train_id.png").unlink()


def _foreign(root: Path, write: Write) -> None:
    write(f"seg/{_labels(root).name}/train/a_train_id.png", np.full(SIZE, 40, np.uint8))


def _coloured(root: Path, write: Write) -> None:
    write(f"seg/{_labels(root).name}/val/e_train_id.png", np.zeros((*SIZE, 3), np.uint8))


def _none_anomalous(root: Path, write: Write) -> None:
    for part, name in (("train", "b"), ("val", "d")):
        (root / "seg" / "images" / part / f"{name}.jpg").unlink()


def _no_val(root: Path, write: Write) -> None:
    (root / "seg" / "images" / "val").rename(root / "val")


def _too_high(root: Path, write: Write) -> None:
    (root / "bdd100k").mkdir()
    (root / "seg").rename(root / "bdd100k" / "seg")


def _another_layout(root: Path, write: Write) -> None:
    (root / "seg" / "images").rename(root / "images")


def _no_labels(root: Path, write: Write) -> None:
    _labels(root).rename(root / "other")


def _another_size(root: Path, write: Write) -> None:
    released = _labels(root).name == "train_labels"
    write(f"seg/{_labels(root).name}/train/a_train_id.png", label_of([ROAD], released=released)[:3])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_no_label, r"a\.jpg' has no label; looked for '.*a_train_id\.png' \(1 images"),
        (_foreign, r"a_train_id\.png' holds 40, which is no label of BDDAnomaly\. Give train ids \(seg/labels\)"),
        (_coloured, r"must hold one number per pixel; its mode is RGB"),
        (_none_anomalous, r"no label in '.*labels' has a train or a motorcycle, which the test scenes are told by"),
        (_no_val, r"expects images .* in '.*images/val', which does not exist\. Beside it: train"),
        (_too_high, r"root should be '.*bdd100k', which holds seg/images"),
        (_another_layout, r"BDDAnomaly expects seg/images and seg/train_labels or seg/labels in root='.*'; found images, seg"),
        (_no_labels, r"a\.jpg' has no label; looked for '.*seg/labels/train/a_train_id\.png' \(3 images"),
        (_another_size, r"is \(3, 8\), but its image '.*a\.jpg' is \(6, 8\)"),
    ],
)  # fmt: skip
def test_broken_copies(break_it: Break, message: str, bdd: Path, write: Write) -> None:
    break_it(bdd, write)
    with pytest.raises(AnomalySuiteError, match=message):
        everything(BDDAnomaly(root=str(bdd)).require_splits().train)


def test_labels_of_the_other_numbering(tmp_path: Path, write: Write) -> None:
    write("seg/images/train/a.jpg", size=SIZE)
    write("seg/images/val/b.jpg", size=SIZE)
    for part, name in (("train", "a"), ("val", "b")):
        write(f"seg/train_labels/{part}/{name}_train_id.png", label_of([ROAD, TRAIN], released=False))
    with pytest.raises(
        AnomalySuiteError, match=r"holds 0, which is no label of BDDAnomaly\. .* in which every id is 2 higher"
    ):
        BDDAnomaly(root=str(tmp_path)).require_splits()
