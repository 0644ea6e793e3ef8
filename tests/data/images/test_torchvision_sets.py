"""MNIST, FashionMNIST and CIFAR10 on tiny files in the published formats, and on the real ones where present."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_suite.data import CIFAR10, MNIST, FashionMNIST
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8)
TEST = RNG.integers(0, 256, (20, 28, 28), dtype=np.uint8)


def write_idx(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, images in (("train", TRAIN), ("t10k", TEST)):
        head = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        labels = (np.arange(len(images)) % 10).astype(np.uint8)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + np.array(labels.shape, ">u4").tobytes() + labels.tobytes()
        )


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from torchvision.datasets import CIFAR10 as Published  # noqa: N811

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(start: int) -> dict[str, object]:
        return {
            "data": (np.arange(10 * 3072) // 3072 + start).reshape(10, 3072).astype(np.uint8),
            "labels": list(range(10)),
        }

    meta = write("batches.meta", {"label_names": list(CIFAR10.classes)})
    monkeypatch.setattr(Published, "train_list", [write(f"data_batch_{i}", batch(10 * i)) for i in range(1, 6)])
    monkeypatch.setattr(Published, "test_list", [write("test_batch", batch(100))])
    monkeypatch.setattr(Published, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_idx_files(tmp_path: Path, dataset: type[MNIST] | type[FashionMNIST]) -> None:
    write_idx(tmp_path / dataset.__name__ / "raw")
    data = dataset(root=str(tmp_path), normal_class=4, validation="none", train_batch_size=3, eval_batch_size=20)
    (train,), (test,) = data.train_dataloader(), data.test_dataloader()
    assert sorted(train["image_path"]) == ["4/00004", "4/00014", "4/00024"]
    position = int(train["image_path"][0][2:])
    assert torch.equal(train["image"][0, 0], torch.from_numpy(TRAIN[position] / np.float32(255)))
    assert torch.equal(test["image"][:, 0], torch.from_numpy(TEST / np.float32(255)))
    assert test["label"].tolist() == [int(index % 10 != 4) for index in range(20)]


def test_download_leaves_files_that_are_there(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*ubyte")}
    data = MNIST(root=str(tmp_path), download=True)
    data.prepare_data()
    assert len(data.load().image) == 50
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_class_names() -> None:
    assert FashionMNIST(normal_class="ankle boot".capitalize()).normal_class == 9
    assert CIFAR10(normal_class="dog").normal_class == 5
    assert MNIST(normal_class="8").normal_class == MNIST(normal_class=8).normal_class == 8


def test_cifar10(cifar: Path) -> None:
    data = CIFAR10(root=str(cifar), normal_class="cat", validation="none", train_batch_size=5, eval_batch_size=10)
    (train,), (test,) = data.train_dataloader(), data.test_dataloader()
    assert train["image"].shape == (5, 3, 32, 32)
    assert sorted((train["image"][:, 2, 3, 3] * 255).tolist()) == [13, 23, 33, 43, 53]
    assert test["label"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]


def test_cifar10_checksum(cifar: Path) -> None:
    with (cifar / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        DatasetError, match=r"a CIFAR10 file in '.*cifar-10-batches-py' is missing or damaged.*download: true"
    ):
        CIFAR10(root=str(cifar)).setup()


def test_missing_files_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(tmp_path))
    with pytest.raises(
        DatasetNotFoundError,
        match=r"MNIST/raw/train-images-idx3-ubyte at root='.*/mnist', which does not exist.*download: true",
    ):
        MNIST().setup()
    with pytest.raises(DatasetNotFoundError, match=r"CIFAR10 expects .*'nowhere'"):
        CIFAR10(root="nowhere").setup()


def test_wrong_level_and_packed_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    with pytest.raises(DatasetNotFoundError, match=f"root should be '{tmp_path}'"):
        MNIST(root=str(raw)).setup()
    for path in raw.iterdir():
        path.rename(path.with_suffix(".gz"))
    with pytest.raises(DatasetNotFoundError, match=r"holds the archive '.*\.gz'. Unpack it"):
        MNIST(root=str(tmp_path)).setup()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_truncated_or_missing_idx_files(tmp_path: Path, name: str) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DatasetError, match=r"a MNIST file in '.*raw' is missing or damaged"):
        MNIST(root=str(tmp_path)).setup()
    if not name.startswith("train-images"):
        path.unlink()
        with pytest.raises(DatasetError, match="is missing or damaged"):
            MNIST(root=str(tmp_path)).setup()


def test_labels_outside_the_classes(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(DatasetError, match="30 images, 30 labels of 0 to 10"):
        MNIST(root=str(tmp_path)).setup()


TRAIN_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
TEST_COUNTS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


def test_real_mnist_has_the_published_counts(real_data: Path) -> None:
    if not (real_data / "mnist").is_dir():
        pytest.skip("no real MNIST")
    data = MNIST(root=str(real_data / "mnist"), normal_class=8, val_size=150, validation="augmented")
    pool = data.load()
    assert tuple(np.bincount(pool.target[pool.is_train])) == TRAIN_COUNTS
    assert tuple(np.bincount(pool.target[~pool.is_train])) == TEST_COUNTS
    data.setup()
    assert data.splits is not None
    assert [len(part) for part in data.splits if part is not None] == [5851 - 150, 300, 10_000]
    assert int((data.splits.test.label == 0).sum()) == 974
