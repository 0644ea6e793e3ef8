"""MedIAnomaly on tiny look-alikes of its four layouts, and every way in which a copy can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_suite.contract import Splits
from anomaly_suite.data import MedIAnomaly
from anomaly_suite.data.images import medianomaly
from anomaly_suite.errors import AnomalySuiteError, ConfigError

Write = Callable[..., Path]
ISIC = "ISIC2018_Task3/ISIC2018_Task3"
LISTS = {
    "train": {"0": [f"n{i}.png" for i in range(4)], "unlabeled": {"0": ["u0.png"], "1": ["u1.png"]}},
    "test": {"0": ["t0.png", "t1.png"], "1": ["a0.png", "a1.png", "a2.png"]},
}


@pytest.fixture
def sets(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RSNA, ISIC 2018, Camelyon16 and BraTS 2021 with 4 training, 2 normal and 3 anomalous test images each."""
    monkeypatch.setattr(medianomaly, "PUBLISHED", dict.fromkeys(medianomaly.PUBLISHED, (4, 2, 3)))
    for name in (*LISTS["train"]["0"], "u0.png", *LISTS["test"]["0"], *LISTS["test"]["1"]):
        write(f"RSNA/images/{name}")
    (tmp_path / "RSNA/data.json").write_text(json.dumps(LISTS), encoding="utf-8")
    for part, labels in {"Training": [1, 0, 1, 1, 1], "Test": [1, 0, 0, 1, 0]}.items():
        rows = ["image,MEL,NV,BCC"]
        for index, naevus in enumerate(labels):
            write(f"{ISIC}_{part}_Input/ISIC_{part}{index}.jpg")
            rows.append(f"ISIC_{part}{index},{1 - naevus}.0,{naevus}.0,0.0")
        table = tmp_path / f"{ISIC}_{part}_GroundTruth/ISIC2018_Task3_{part}_GroundTruth.csv"
        table.parent.mkdir()
        table.write_text("\n".join(rows), encoding="utf-8")
    folders = {"train/good": 4, "test/good": 2, "test/Ungood": 3}
    brats = {"train": 4, "test/normal": 2, "test/tumor": 3}
    for root, places in {"Camelyon16": folders, "BraTS2021": brats}.items():
        for place, count in places.items():
            for index in range(count):
                write(f"{root}/{place}/{index}_flair_7.png")
    for index in range(3):
        write(f"BraTS2021/test/annotation/{index}_seg_7.png", np.eye(12, 10, dtype=np.uint8) * 40)
    return tmp_path


def build(root: Path, dataset: Any = "RSNA", **options: Any) -> Splits:
    return MedIAnomaly(
        root=str(root), dataset=dataset, **{"validation": "none", "image_size": None, **options}
    ).require_splits()


def stems(part: Any) -> list[str]:
    return [item.path.stem for item in part.items]


@pytest.mark.parametrize("dataset", ["RSNA", "ISIC2018", "Camelyon16", "BraTS2021"])
def test_every_layout(sets: Path, dataset: Any) -> None:
    data = MedIAnomaly(root=str(sets), dataset=dataset, val_size=1)
    train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [3, 1, 5]  # type: ignore[arg-type]
    assert sorted(item.label for item in test.items) == [0, 0, 1, 1, 1]  # type: ignore[attr-defined]
    assert data.dataset_version == dataset


def test_labels_are_those_of_the_lists_and_tables(sets: Path) -> None:
    train, _, test = build(sets)
    assert stems(train) == ["n0", "n1", "n2", "n3"]
    assert stems(test) == ["t0", "t1", "a0", "a1", "a2"]
    train, _, test = build(sets, "ISIC2018")
    assert stems(train) == [f"ISIC_Training{index}" for index in (0, 2, 3, 4)]
    assert {item.path.stem: item.label for item in test.items} == {
        f"ISIC_Test{i}": label for i, label in enumerate([0, 1, 1, 0, 1])
    }  # type: ignore[attr-defined]


def test_masks_of_brain_tumours_are_all_above_zero(sets: Path) -> None:
    batch = build(sets, "BraTS2021").test.__getitems__([0, 2])  # type: ignore[attr-defined]
    assert batch["mask"].flatten(1).sum(1).tolist() == [0, 10]  # the value 40, which a threshold would lose
    assert "mask" not in build(sets, "Camelyon16").test.__getitems__([2])  # type: ignore[attr-defined]


def test_a_subset_says_so(sets: Path) -> None:
    (sets / "RSNA/images/a1.png").unlink()
    (sets / f"{ISIC}_Test_Input/ISIC_Test1.jpg").unlink()
    with pytest.warns(UserWarning, match="test anomalous 2 of 3"):
        assert stems(build(sets, subset=True).test) == ["t0", "t1", "a0", "a2"]
    with pytest.warns(UserWarning, match="test anomalous 2 of 3"):
        build(sets, "ISIC2018", subset=True)


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset must be 'RSNA', .*; got 'BrainTumour'\. Did you mean 'BrainTumor'"):
        MedIAnomaly(dataset="BrainTumour")  # type: ignore[arg-type] # what is tested


def relist(root: Path, **changes: Any) -> Path:
    (root / "RSNA/data.json").write_text(json.dumps({**LISTS, **changes}), encoding="utf-8")
    return root


def wrong_level(root: Path) -> Path:
    return root / "RSNA"


def packed(root: Path) -> Path:
    shutil.rmtree(root / "RSNA")
    (root / "RSNA.tar.gz").touch()
    return root


def without_list(root: Path) -> Path:
    (root / "RSNA/data.json").unlink()
    return root


def without_image(root: Path) -> Path:
    (root / "RSNA/images/a1.png").unlink()
    return root


def in_two_lists(root: Path) -> Path:
    return relist(root, test={"0": ["n0.png"], "1": ["a0.png"]})


def unlabeled_is_tested(root: Path) -> Path:
    return relist(root, test={"0": ["u0.png"], "1": ["a0.png"]})


def unknown_label(root: Path) -> Path:
    return relist(root, test={"0": ["t0.png"], "2": ["a0.png"]})


def too_few(root: Path) -> Path:
    return relist(root, test={"0": ["t0.png"], "1": ["a0.png"]})


def same_content(root: Path) -> Path:
    shutil.copy(root / "RSNA/images/n2.png", root / "RSNA/images/a2.png")
    return root


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (wrong_level, r"MedIAnomaly: root should be '.*', which holds the folder RSNA; got"),
        (packed, r"holds the archive 'RSNA.tar.gz'\. Unpack it in"),
        (without_list, r"MedIAnomaly expects the list '.*data.json', which does not exist\. Unpack"),
        (without_image, r"1 files listed in '.*data.json' do not exist: .*a1.png"),
        (in_two_lists, r"lists 'n0.png' in train.0 and in test.0"),
        (unlabeled_is_tested, r"lists 'u0.png' in test.0 and in unlabeled.0"),
        (unknown_label, r"a label in 'test' of '.*' must be one of 0, 1; got '2'"),
        (too_few, r"found test normal 1 of 2, test anomalous 1 of 3\. Complete the data set, or set subset: true"),
        (same_content, r"the test image '.*a2.png' has the same content as the training image '.*n2.png'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_copy_is_one_sentence(sets: Path, spoil: Callable[[Path], Path], sentence: str) -> None:
    root = spoil(sets)
    with pytest.raises(AnomalySuiteError, match=sentence) as caught:
        build(root)
    assert "\n" not in str(caught.value)


def test_broken_copies_of_the_other_layouts(sets: Path, write: Write) -> None:
    write(f"{ISIC}_Test_Input/ISIC_9.jpg")
    with pytest.raises(AnomalySuiteError, match=r"ISIC_9.jpg' has no row in '.*Test_GroundTruth.csv' \(1 such"):
        build(sets, "ISIC2018")
    tests = sets / f"{ISIC}_Test_GroundTruth/ISIC2018_Task3_Test_GroundTruth.csv"
    former = tests.read_text(encoding="utf-8")
    tests.write_text(f"{former.rstrip()}\n{former.splitlines()[1]}\n", encoding="utf-8")
    with pytest.raises(
        AnomalySuiteError, match=r"Test_GroundTruth.csv' lists 'ISIC_Test0' more than once \(1 such images\)"
    ):
        build(sets, "ISIC2018")
    table = sets / f"{ISIC}_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("1,1.0,0.0", "1,1.0,2.0"), encoding="utf-8")
    with pytest.raises(AnomalySuiteError, match=r"a value of NV in '.*' must be one of 0, 1; got '2'"):
        build(sets, "ISIC2018")
    (sets / "BraTS2021/test/annotation/1_seg_7.png").unlink()
    with pytest.raises(
        AnomalySuiteError, match=r"tumor/1_flair_7.png' has no mask; looked for '.*annotation/1_seg_7.png' \(1"
    ):
        build(sets, "BraTS2021")
    (sets / "Camelyon16/test/Ungood").rename(sets / "Camelyon16/test/bad")
    with pytest.raises(AnomalySuiteError, match=r"a folder in '.*test' must be one of good, Ungood; got 'bad'"):
        build(sets, "Camelyon16")
