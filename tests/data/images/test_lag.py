"""LAG on a tiny look-alike, both protocols, and every way in which a copy can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomaly_suite.contract import Splits
from anomaly_suite.data import LAG
from anomaly_suite.data.images import lag
from anomaly_suite.errors import AnomalySuiteError, ConfigError, DatasetError, DatasetNotFoundError

Write = Callable[..., Path]
SICK = "suspicious_glaucoma"
LISTS = {"train": {"0": ["0001.jpg", "0003.jpg"]}, "test": {"0": ["0005.jpg"], "1": ["0002.jpg", "0004.jpg"]}}


@pytest.fixture
def fundus(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """12 normal images, of odd numbers, and 5 anomalous ones, of even numbers, with soft maps of another size."""
    monkeypatch.setattr(lag, "CLASSES", {"non_glaucoma": 12, SICK: 5})
    monkeypatch.setattr(lag, "TRAIN", 9)
    monkeypatch.setattr(lag, "TEST", 3)
    monkeypatch.setattr(lag, "LISTED", {"train": 2, "test normal": 1, "test anomalous": 2})
    soft = np.zeros((6, 6), np.uint8)
    soft[:, 3:] = [60, 100, 200]
    for number in range(1, 25, 2):
        write(f"non_glaucoma/image/{number:04d}.jpg", size=(20, 20))
    for number in range(2, 12, 2):
        write(f"{SICK}/image/{number:04d}.jpg", size=(20, 20))
        write(f"{SICK}/attention_map/{number:04d}.png", soft)
    (tmp_path / "data.json").write_text(json.dumps(LISTS), encoding="utf-8")
    return tmp_path


def build(root: Path, **options: Any) -> Splits:
    return LAG(root=str(root), **{"threshold_set": "none", "validation": "none", **options}).require_splits()


def numbers(part: Any) -> list[str]:
    return [item.path.stem for item in part.items]


def test_the_protocol_of_the_thesis(fundus: Path) -> None:
    data = LAG(root=str(fundus), threshold_images=1, image_size=20)
    train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [9, 2, 6]  # type: ignore[arg-type]
    assert [item.label for item in test.items] == [0] * 2 + [1] * 4  # type: ignore[attr-defined]
    assert data.dataset_version == (
        "protocol thesis; masks are attention regions, not lesions (at least 0.5 of a map's maximum); "
        "threshold images apart (1 normal and 1 anomalous are taken out of the test set)"
    )
    assert numbers(build(fundus, seed=1).train) != numbers(build(fundus).train)


def test_attention_maps_are_resized_and_cut(fundus: Path) -> None:
    soft = np.zeros((6, 6), np.float32)
    soft[:, 3:] = [60, 100, 200]
    large = cv2.resize(soft, (20, 20), interpolation=cv2.INTER_LINEAR)
    for share in (0.5, 0.25):
        batch = build(fundus, image_size=None, attention_threshold=share).test.__getitems__([0, 4])  # type: ignore[attr-defined]
        assert not batch["mask"][0].any()
        assert (batch["mask"][1, 0].numpy() == (large >= share * large.max())).all()
    assert "mask" not in build(fundus, attention=False).test.__getitems__([4])  # type: ignore[attr-defined]


def test_the_protocol_of_medianomaly(fundus: Path) -> None:
    train, _, test = build(fundus, protocol="medianomaly")
    assert numbers(train) == ["0001", "0003"]
    assert numbers(test) == ["0005", "0002", "0004"]
    other = fundus / "elsewhere.json"
    (fundus / "data.json").rename(other)
    assert numbers(build(fundus, protocol="medianomaly", split_file=str(other)).test) == ["0005", "0002", "0004"]
    with pytest.raises(ConfigError, match=r"split_file belongs to protocol: medianomaly; got 'a.json' with thesis"):
        LAG(split_file="a.json")
    with pytest.raises(
        DatasetNotFoundError, match=r"expects the lists of MedIAnomaly at '.*data.json', which does not exist\. Give"
    ):
        build(fundus, protocol="medianomaly")


def test_lists_that_do_not_fit_the_folders(fundus: Path) -> None:
    def relisted(**test: Any) -> None:
        (fundus / "data.json").write_text(json.dumps({**LISTS, "test": {**LISTS["test"], **test}}), encoding="utf-8")

    relisted(**{"1": ["0002.jpg", "0007.jpg"]})
    with pytest.raises(
        DatasetError, match=r"lists '0007.jpg' under label 1, but it is in the folder 'non_glaucoma' \(1 such"
    ):
        build(fundus, protocol="medianomaly")
    relisted(**{"1": ["0002.jpg", "0999.jpg"]})
    with pytest.raises(DatasetNotFoundError, match=r"1 files listed in '.*data.json' do not exist: .*0999.jpg"):
        build(fundus, protocol="medianomaly")
    with pytest.warns(UserWarning, match="test anomalous 1 of 2"):
        assert len(build(fundus, protocol="medianomaly", subset=True).test) == 2  # type: ignore[arg-type]


def test_published_numbers() -> None:
    assert lag.TRAIN + lag.TEST == lag.CLASSES["non_glaucoma"] == 3143
    assert sum(lag.CLASSES.values()) == 4854
    assert sum(lag.LISTED.values()) == 1500 + 2 * 811


def wrong_level(root: Path) -> Path:
    return root / SICK / "image"


def packed(root: Path) -> Path:
    shutil.rmtree(root / SICK)
    (root / "LAG_database_part_1.rar").touch()
    return root


def without_map(root: Path) -> Path:
    (root / SICK / "attention_map/0004.png").unlink()
    return root


def without_image(root: Path) -> Path:
    (root / SICK / "image/0004.jpg").unlink()
    return root


def twice(root: Path) -> Path:
    shutil.copy(root / "non_glaucoma/image/0001.jpg", root / SICK / "image")
    return root


def leaking(root: Path) -> Path:
    for number in range(2, 12, 2):
        shutil.copy(root / f"non_glaucoma/image/{2 * number + 1:04d}.jpg", root / SICK / f"image/{number:04d}.jpg")
    return root


def other_label(root: Path) -> Path:
    (root / SICK / "label").mkdir()
    (root / SICK / "label/0002.txt").write_text("1\n", encoding="utf-8")
    (root / SICK / "label/0004.txt").write_text("0\n", encoding="utf-8")
    return root


def too_few(root: Path) -> Path:
    (root / "non_glaucoma/image/0001.jpg").unlink()
    return root


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (wrong_level, r"LAG: root should be '.*', which holds non_glaucoma and suspicious_glaucoma; got"),
        (packed, r"holds the archive 'LAG_database_part_1.rar'\. Unpack it in"),
        (
            without_map,
            r"0004.jpg' has no attention map; looked for '.*attention_map/0004.jpg' \(1 images.*attention: false",
        ),
        (without_image, r"found suspicious_glaucoma 4 of 5\. Complete the data set, or set subset: true"),
        (twice, r"0001.jpg' and '.*0001.jpg' are images of one number, and only one can be used"),
        (leaking, r"the test image '.*' has the same content as the training image '.*'"),
        (other_label, r"label/0004.txt' says '0', but its image is in 'suspicious_glaucoma', whose label is 1"),
        (too_few, r"found non_glaucoma 11 of 12"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_copy_is_one_sentence(fundus: Path, spoil: Callable[[Path], Path], sentence: str) -> None:
    root = spoil(fundus)
    with pytest.raises(AnomalySuiteError, match=sentence) as caught:
        build(root)
    assert "\n" not in str(caught.value)


def test_detection_does_without_maps_and_a_subset_without_images(fundus: Path) -> None:
    without_map(fundus)
    assert len(build(fundus, attention=False).test) == 8  # type: ignore[arg-type]
    (fundus / SICK / "image/0004.jpg").unlink()
    with pytest.warns(UserWarning, match=r"suspicious_glaucoma 4 of 5"):
        assert len(build(fundus, subset=True).test) == 7  # type: ignore[arg-type]
