"""MedMNIST on tiny files of its layout, and every way in which a file can be wrong."""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.data import MedMNIST
from anomaly_suite.data.images import medmnist
from anomaly_suite.errors import AnomalySuiteError, ConfigError, DatasetNotFoundError

COUNTS = (6, 4, 5)
LABELS = {"train": [1, 1, 0, 1, 0, 1], "val": [1, 0, 1, 0], "test": [1, 1, 0, 0, 0]}


def arrays(flag: str = "breastmnist", size: int = 28) -> dict[str, np.ndarray[Any, Any]]:
    published = medmnist.SETS[flag]
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for part, labels in LABELS.items():
        shape = (len(labels), size, size) + ((3,) if published.channels == 3 else ())
        found[f"{part}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        found[f"{part}_labels"] = np.array(labels, np.uint8)[:, None]
        if flag == "chestmnist":
            found[f"{part}_labels"] = np.array(labels, np.uint8)[:, None] * np.eye(14, dtype=np.uint8)[3]
    return found


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file of 6, 4 and 5 images, for which counts and md5 of the published one are changed."""

    def make(flag: str = "breastmnist", size: int = 28, **changes: Any) -> Path:
        file = tmp_path / (f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz")
        content = {**arrays(flag, size), **changes}
        np.savez(file, **{name: value for name, value in content.items() if value is not None})
        md5 = hashlib.md5(file.read_bytes()).hexdigest()
        monkeypatch.setitem(medmnist.SETS, flag, medmnist.SETS[flag]._replace(counts=COUNTS, md5=md5))
        return file

    return make


def make(file: Path, flag: Any = "breastmnist", **options: Any) -> MedMNIST:
    data = MedMNIST(root=str(file.parent), flag=flag, **options)
    data.setup()
    return data


def test_benign_is_normal_though_its_label_is_one(save: Callable[..., Path]) -> None:
    data = make(save())
    train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [4, 4, 5]  # type: ignore[arg-type]
    batch = test.__getitems__(list(range(5)))  # type: ignore[attr-defined]
    assert batch["label"].tolist() == [0, 0, 1, 1, 1]
    assert batch["image_path"][2] == "test/0/000002"
    assert not train.__getitems__([0, 1, 2, 3])["label"].any()  # type: ignore[attr-defined]
    images = torch.from_numpy(arrays()["train_images"][[0, 1, 3, 5]] / np.float32(255))
    assert torch.equal(train.__getitems__([0, 1, 2, 3])["image"], images.unsqueeze(1))  # type: ignore[attr-defined]
    assert val.label.tolist() == [0, 1, 0, 1]  # type: ignore[union-attr]
    assert data.dataset_version == "breastmnist, 28 px, normal class 1"


def test_findings_colours_and_sizes(save: Callable[..., Path]) -> None:
    test = make(save("chestmnist"), "chestmnist").require_splits().test
    batch = test.__getitems__([0, 4])  # type: ignore[attr-defined]
    assert batch["label"].tolist() == [1, 0]  # normal is what has no finding
    assert batch["image_path"] == ["test/3/000000", "test/none/000004"]
    test = make(save("bloodmnist", 64), "bloodmnist", size=64, normal_class=0).require_splits().test
    assert test.__getitems__([0])["image"].shape == (1, 3, 64, 64)  # type: ignore[attr-defined]
    pixels = arrays("bloodmnist", 64)["test_images"][0].transpose(2, 0, 1) / np.float32(255)
    assert torch.equal(test.__getitems__([0])["image"][0], torch.from_numpy(pixels))  # type: ignore[attr-defined]


def test_validation_modes(save: Callable[..., Path]) -> None:
    file = save()
    assert make(file, validation="none").require_splits().val is None
    for validation, masked in {"augmented": False, "medmix": True}.items():
        val = make(file, validation=validation).require_splits().val
        assert val.label.tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]
        assert ("mask" in val.__getitems__([0, 3])) is masked  # type: ignore[union-attr]


def test_published_classes_that_are_normal() -> None:
    normal = {flag: MedMNIST(flag=flag).normal for flag, each in medmnist.SETS.items() if each.normal is not None}  # type: ignore[arg-type]
    expected = {
        "pneumoniamnist": 0,
        "octmnist": 3,
        "breastmnist": 1,
        "chestmnist": -1,
        "retinamnist": 0,
        "pathmnist": 6,
    }
    assert normal == {**expected, "dermamnist": 5}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"flag": "brestmnist"}, r"flag must be .*; got 'brestmnist'\. Did you mean 'breastmnist'"),
        ({"flag": "bloodmnist"}, r"normal_class of bloodmnist must be 0 to 7; got None\. Choose"),
        ({"flag": "breastmnist", "normal_class": 2}, r"normal_class of breastmnist must be 0 to 1; got 2"),
        ({"flag": "chestmnist", "normal_class": 2}, r"normal_class of chestmnist must be null \(no finding\); got 2"),
        ({"size": 32}, r"size must be 28, 64, 128 or 224; got 32"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        MedMNIST(**options)


WRONG = arrays()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"val_labels": None}, r"breastmnist.npz' is damaged or no file of MedMNIST \(.*val_labels.*\)\. Delete it"),
        (
            {"val_images": WRONG["val_images"][:3], "val_labels": WRONG["val_labels"][:3]},
            r"found train, val and test \(6, 3, 5\) of \(6, 4, 5\)\. Fetch",
        ),
        ({"test_labels": WRONG["test_labels"] + 1}, r"test of '.*' must have labels of 0 to 1; got 1 to 2"),
        (
            {"test_labels": WRONG["test_labels"][:4]},
            r"test of '.*' must hold uint8 images of \(28, 28\) and as many whole labels of 1; got uint8 \(5, 28, 28\)",
        ),
        ({"train_images": WRONG["train_images"][:, :8]}, r"train of '.*' must hold uint8 images of \(28, 28\)"),
        ({"train_images": WRONG["train_images"].astype(np.float32)}, r"got float32 \(6, 28, 28\)"),
        (
            {"train_labels": WRONG["train_labels"] / 2},
            r"as many whole labels of 1; got uint8 \(6, 28, 28\) and float64 \(6, 1\)",
        ),
        ({"train_labels": WRONG["train_labels"].astype(str)}, r"as many whole labels of 1; got .* and <U\d+ \(6, 1\)"),
        (
            {"train_labels": np.zeros((6, 1), np.uint8)},
            r"has no training image of class 1\. Choose another normal_class",
        ),
    ],
)
def test_a_broken_file_is_one_sentence(save: Callable[..., Path], changes: dict[str, Any], sentence: str) -> None:
    file = save(**changes)
    with pytest.raises(AnomalySuiteError, match=sentence) as caught:
        make(file)
    assert "\n" not in str(caught.value)


def test_other_files_of_the_name(save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"expects the file breastmnist.npz in root='.*'; found nothing\. Set download: true"
    ):
        make(tmp_path / "breastmnist.npz")
    file = save()
    monkeypatch.setitem(medmnist.SETS, "breastmnist", medmnist.SETS["breastmnist"]._replace(md5="0" * 32))
    with pytest.raises(AnomalySuiteError, match=r"the md5 of '.*' must be 0{32}; got [0-9a-f]{32}\. Delete"):
        make(file)
    monkeypatch.setitem(medmnist.SETS, "breastmnist", medmnist.SETS["breastmnist"]._replace(counts=(546, 78, 156)))
    assert make(file, subset=True).dataset_version == (
        "breastmnist, 28 px, normal class 1; subset (train, val and test (6, 4, 5) of (546, 78, 156))"
    )
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(AnomalySuiteError, match=r"is damaged or no file of MedMNIST"):
        make(file)
    (tmp_path / "deeper").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"root should be"):
        make(tmp_path / "deeper" / "breastmnist.npz")


def test_the_package_downloads(save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class BreastMNIST:
        def __init__(self, split: str, *, download: bool, size: int, root: str) -> None:
            asked.append((split, download, size, Path(root)))
            if len(asked) > 1:
                raise RuntimeError("Automatic\n download failed!")
            save()

    package = types.SimpleNamespace(INFO={"breastmnist": {"python_class": "BreastMNIST"}}, BreastMNIST=BreastMNIST)
    monkeypatch.setitem(sys.modules, "medmnist", package)  # type: ignore[arg-type] # has what is used
    make(tmp_path / "breastmnist.npz", download=True)
    assert asked == [("test", True, 28, tmp_path)]
    (tmp_path / "breastmnist.npz").unlink()
    with pytest.raises(
        DatasetNotFoundError, match=r"could not be fetched \(Automatic download failed!\)\. Put the file from Zenodo"
    ):
        make(tmp_path / "breastmnist.npz", download=True)
    monkeypatch.setitem(sys.modules, "medmnist", None)  # type: ignore[arg-type] # imports as if it were not installed
    with pytest.raises(
        ConfigError,
        match=r"needs the package medmnist, which is not installed\. Run pip install 'anomaly-suite\[medmnist\]'",
    ):
        make(tmp_path / "breastmnist.npz", download=True)


def test_kinds_of_labelled_anomalies_are_the_numbers_of_classes(save: Callable[..., Path]) -> None:
    labels = np.array([3, 3, 0, 1, 1], np.uint8)[:, None]
    data = make(
        save("octmnist", train_labels=np.full((6, 1), 3, np.uint8), test_labels=labels),
        "octmnist",
        num_anomalous=1,
        anomalous_types=[1],
    )
    train, _, test = data.require_splits()
    assert (train.kinds, train.label.tolist()) == (["3"] * 6 + ["1"], [0] * 6 + [1])  # type: ignore[attr-defined]
    assert test.kinds == ["3", "3", "0", "1"]  # type: ignore[attr-defined]
