"""BMAD on tiny look-alikes of all layouts in use, and every way in which a copy can be wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomaly_suite.contract import Splits
from anomaly_suite.data import BMAD
from anomaly_suite.data.images import bmad
from anomaly_suite.errors import AnomalySuiteError, ConfigError

Write = Callable[..., Path]
COUNTS = {"train": 4, "valid good": 1, "valid Ungood": 2, "test good": 2, "test Ungood": 3}
README = {"train": "train/good/img", "image": "{part}/{label}/img", "mask": "{part}/Ungood/anomaly_mask"}
LAYOUTS = {  # of folders below the set's, with the name of the validation part
    "readme": ("Brain/", "valid", README),
    "mvfa": ("Brain_AD/", "valid", {**README, "train": "train/good"}),
    "anomalib": (
        "Brain/",
        "valid",
        {"train": "train/good", "image": "{part}/{label}/img", "mask": "{part}/Ungood/label"},
    ),
    "brain script": (
        "own/",
        "val",
        {"train": "train/good", "image": "{part}/{label}/img", "mask": "{part}/Ungood/label"},
    ),
    "liver script": (
        "brain/",
        "val",
        {"train": "train/good", "image": "{part}/img/{label}", "mask": "{part}/label/Ungood"},
    ),
}


def make(write: Write, layout: str, *, masks: bool = True, suffix: str = "png") -> None:
    """4 training images, 1 + 2 for validation, 2 + 3 for testing; masks in the colours of the published ones."""
    top, valid, folders = LAYOUTS[layout]
    colours = np.zeros((12, 10, 4), np.uint8)
    colours[..., 3] = 255
    colours[2:5, 1, :3] = np.array([58, 122, 255])[:, None]
    patient = 10
    counts = {("valid", "good"): 1, ("valid", "Ungood"): 2, ("test", "good"): 2, ("test", "Ungood"): 3}
    for index in range(4):
        write(f"{top}{folders['train']}/0000{index}_60.{suffix}")
    for (part, label), count in counts.items():
        where = valid if part == "valid" else part
        for _ in range(count):
            patient += 1
            name = f"{patient:05d}_70.{suffix}"
            write(f"{top}{folders['image'].format(part=where, label=label)}/{name}")
            if masks and label == "Ungood":
                write(f"{top}{folders['mask'].format(part=where)}/{name}", colours)


PUBLISHED = dict(bmad.SETS)


def test_published_numbers() -> None:
    sums = {
        name: tuple(
            sum(count for key, count in each.counts.items() if key.startswith(part))
            for part in ("train", "valid", "test")
        )
        for name, each in PUBLISHED.items()
    }
    assert sums == {
        "brain": (7500, 83, 3715),
        "liver": (1542, 166, 1493),
        "RESC": (4297, 115, 1805),
        "OCT2017": (26315, 32, 968),
        "RSNA": (8000, 1490, 17194),
        "Camelyon16": (5088, 236, 1997),
    }
    assert [name for name, each in PUBLISHED.items() if each.rule] == ["brain", "liver", "RESC"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published counts of the look-alike."""
    sets = {
        name: each._replace(
            counts={key: COUNTS[key] for key in COUNTS if key in each.counts} or {"train": 4, "valid": 3, "test": 5}
        )
        for name, each in bmad.SETS.items()
    }
    monkeypatch.setattr(bmad, "SETS", sets)


def build(root: Path, **options: Any) -> Splits:
    return BMAD(root=str(root), **{"image_size": None, **options}).require_splits()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_with_masks(tmp_path: Path, write: Write, layout: str) -> None:
    make(write, layout)
    root = tmp_path / "own" if layout == "brain script" else tmp_path  # which has the parts itself
    data = BMAD(root=str(root), image_size=None)
    train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [4, 3, 5]  # type: ignore[arg-type]
    assert sum(item.label for item in val.items) == 2  # type: ignore[union-attr]
    batch = test.__getitems__(list(range(5)))  # type: ignore[attr-defined]
    assert batch["mask"].flatten(1).sum(1).tolist() == [
        3 * label for label in batch["label"].tolist()
    ]  # all three classes
    assert sum(batch["label"].tolist()) == 3
    folder = LAYOUTS[layout][2]["image"].format(part="test", label="Ungood")
    assert data.dataset_version == f"brain, layout {folder}"


def test_the_folders_of_resc_have_parts_twice(tmp_path: Path, write: Write) -> None:
    for index in range(4):
        write(f"RESC/Train/train/good/{index}_1.png")
    for part, name, counts in (("Val", "val", {"good": 1, "Ungood": 2}), ("Test", "test", {"good": 2, "Ungood": 3})):
        for label, count in counts.items():
            for index in range(count):
                write(f"RESC/{part}/{name}/{label}/{part}{label}{index}.png")
                mask = np.eye(12, 10, dtype=np.uint8) * (255 * (label == "Ungood"))
                write(
                    f"RESC/{part}/{name}_label/{label}/{part}{label}{index}.png", mask
                )  # empty ones of normal images, too
    train, val, test = build(tmp_path, dataset="RESC")
    assert [len(part) for part in (train, val, test)] == [4, 3, 5]  # type: ignore[arg-type]
    assert [bool(item.mask) for item in test.items] == [True] * 5  # type: ignore[attr-defined]


def test_sets_without_masks_may_be_jpeg(tmp_path: Path, write: Write) -> None:
    make(write, "brain script", masks=False, suffix="jpeg")
    for dataset in ("OCT2017", "RSNA", "Camelyon16"):
        assert "mask" not in build(tmp_path / "own", dataset=dataset).test.__getitems__([4])  # type: ignore[attr-defined]


def test_no_validation_part(tmp_path: Path, write: Write) -> None:
    make(write, "readme")
    shutil.rmtree(tmp_path / "Brain/valid")
    assert build(tmp_path, validation="none").val is None
    with pytest.raises(
        AnomalySuiteError,
        match=r"expects a folder valid in '.*Brain', which does not exist\. Complete the set, or set validation",
    ):
        build(tmp_path)


def test_a_patient_in_two_parts_is_said(tmp_path: Path, write: Write) -> None:
    make(write, "readme")
    path = write("Brain/test/good/img/00001_99.png")
    (tmp_path / "Brain/test/good/img").joinpath(sorted(p.name for p in path.parent.iterdir())[-1]).unlink()
    with pytest.warns(
        UserWarning,
        match=r"BMAD brain: patient '00001' has '.*' in the train part and '.*00001_99.png' in the test part \(1",
    ):
        build(tmp_path)


def test_an_empty_mask_of_an_anomalous_slice_is_a_warning(tmp_path: Path, write: Write) -> None:
    make(write, "readme")
    mask = sorted((tmp_path / "Brain/test/Ungood/anomaly_mask").iterdir())[0]
    cv2.imwrite(str(mask), np.zeros((12, 10), np.uint8))
    test = build(tmp_path).test
    with pytest.warns(UserWarning, match="of an anomalous image is empty"):
        test.__getitems__(list(range(5)))  # type: ignore[attr-defined]


def ungood(root: Path, kind: str = "img") -> Path:
    return sorted((root / "Brain/test/Ungood" / kind).iterdir())[0]


def wrong_level(root: Path) -> Path:
    return root / "Brain" / "test"


def another_set(root: Path) -> Path:
    (root / "Brain").rename(root / "Liver")
    return root


def packed(root: Path) -> Path:
    shutil.rmtree(root / "Brain")
    (root / "bmad.zip").touch()
    return root


def without_training(root: Path) -> Path:
    shutil.rmtree(root / "Brain/train")
    return root


def without_mask(root: Path) -> Path:
    ungood(root, "anomaly_mask").unlink()
    return root


def without_image(root: Path) -> Path:
    ungood(root).unlink()
    return root


def unknown_label(root: Path) -> Path:
    (root / "Brain/test/Ungood").rename(root / "Brain/test/tumour")
    return root


def without_label(root: Path) -> Path:
    shutil.copy(ungood(root), root / "Brain/test/00000.png")
    return root


def anomalous_training(root: Path) -> Path:
    (root / "Brain/train/Ungood/img").mkdir(parents=True)
    shutil.copy(ungood(root), root / "Brain/train/Ungood/img")
    (root / "Brain/train/Ungood/label").mkdir()
    shutil.copy(ungood(root, "anomaly_mask"), root / "Brain/train/Ungood/label")
    return root


def leaking(root: Path) -> Path:
    shutil.copy(ungood(root), sorted((root / "Brain/valid/Ungood/img").iterdir())[0])
    return root


def too_few(root: Path) -> Path:
    sorted((root / "Brain/train/good/img").iterdir())[0].unlink()
    return root


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (wrong_level, r"BMAD: root should be '.*Brain', which holds a folder brain"),
        (another_set, r"BMAD expects a folder brain or brain_ad with train and test in root='.*'; found Liver\."),
        (packed, r"holds the archive 'bmad.zip'\. Unpack it in"),
        (
            without_training,
            r"expects a folder train in '.*Brain', which does not exist; the copies of MVFA-AD have none",
        ),
        (without_mask, r"_70.png' has no mask; looked for '\d+_70' in a folder anomaly_mask or .* \(1 images"),
        (without_image, r"mask '.*_70.png' has no image \(1 such masks\)"),
        (
            unknown_label,
            r"a folder that '.*' lies in, whatever its case, must be one of good, ungood, .*; got 'tumour'",
        ),
        (without_label, r"test/00000.png' lies in no folder good or Ungood, so its label is not known"),
        (anomalous_training, r"train/Ungood/img/.*' is anomalous, but one-class training takes normal images only"),
        (leaking, r"the test image '.*' has the same content as the validation image '.*'"),
        (too_few, r"found train 3 of 4\. Complete the data set, or set subset: true"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_copy_is_one_sentence(
    tmp_path: Path, write: Write, spoil: Callable[[Path], Path], sentence: str
) -> None:
    make(write, "readme")
    root = spoil(tmp_path)
    with pytest.raises(AnomalySuiteError, match=sentence) as caught:
        build(root, subset=spoil in (without_image, anomalous_training, unknown_label, without_label))
    assert "\n" not in str(caught.value)


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset must be 'brain', .*; got 'Brain'\. Did you mean 'brain'"):
        BMAD(dataset="Brain")  # type: ignore[arg-type] # what is tested


def test_patients_are_those_of_the_names() -> None:
    assert BMAD(dataset="brain", root="x").subject_of("a/00123_60.png") == "00123"
    assert BMAD(dataset="OCT2017", root="x").subject_of("a/DRUSEN-1083159-2.jpeg") == "1083159"
    assert BMAD(dataset="RESC", root="x").subject_of("a/00123_60.png") is None
