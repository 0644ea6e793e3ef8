"""HyperKvasir on tiny look-alikes of both layouts, every way in which a copy can be wrong, and the real sample."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from anomaly_suite.contract import Splits
from anomaly_suite.data import HyperKvasir
from anomaly_suite.data.images import hyper_kvasir
from anomaly_suite.errors import AnomalySuiteError, ConfigError, DatasetError, DatasetNotFoundError

Write = Callable[..., Path]
COLON = "labeled-images/lower-gi-tract"
COUNTS = {"cecum": 9, "ileum": 2, "bbps-2-3": 10}


@pytest.fixture
def kvasir(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published layout with 21 normal images and 8 polyps, for which the published counts are changed."""
    for name, number in {"NORMAL": COUNTS, "TRAIN": 16, "TEST": 4, "POLYPS": 8}.items():
        monkeypatch.setattr(hyper_kvasir, name, number)
    for index in range(10):
        write(f"{COLON}/quality-of-mucosal-views/bbps-2-3/b{index}.jpg")
    for index in range(9):
        write(f"{COLON}/anatomical-landmarks/cecum/c{index}.jpg")
    for index in range(2):
        write(f"{COLON}/anatomical-landmarks/ileum/i{index}.jpg")
    write(f"{COLON}/pathological-findings/polyps/p0.jpg")  # whole images of polyps are not used
    for index in range(8):
        write(f"segmented-images/images/s{index}.jpg", size=(32, 40))
        write(
            f"segmented-images/masks/s{index}.jpg",
            np.pad(np.full((16, 20, 3), 255, np.uint8), ((0, 16), (0, 20), (0, 0))),
        )
    return tmp_path


@pytest.fixture
def archive(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The authors' ready-made archive with 6, 3 and 4 images."""
    for name, number in {"TRAIN": 6, "TEST": 3, "POLYPS": 4}.items():
        monkeypatch.setattr(hyper_kvasir, name, number)
    for part, count in zip(hyper_kvasir.ARCHIVE, (6, 3, 4), strict=True):
        for index in range(count):
            write(f"{part}/{index}.jpg")
    return tmp_path


def build(root: Path, **options: Any) -> Splits:
    data = HyperKvasir(root=str(root), **{"threshold_images": 1, **options})
    return data.require_splits()


def names(part: Any) -> list[str]:
    return [item.path.stem for item in part.items]


def test_parts_of_the_published_layout(kvasir: Path) -> None:
    data = HyperKvasir(root=str(kvasir), threshold_images=2, image_size=16)
    train, val, test = data.require_splits()
    assert [len(part) for part in (train, val, test)] == [16, 4, 8]  # type: ignore[arg-type] # data sets
    assert not {name[0] for name in names(train)} & {"s", "p"}
    assert [item.label for item in test.items] == [0] * 2 + [1] * 6  # type: ignore[attr-defined]
    assert data.dataset_version == "threshold images apart (2 normal and 2 anomalous are taken out of the test set)"
    everything = names(train) + names(val) + names(test)
    assert len(everything) == len(set(everything)) == 28
    assert names(build(kvasir, seed=1).train) != names(train)
    assert names(build(kvasir).train) == names(train)


def test_image_and_mask_lose_the_same_frame(kvasir: Path) -> None:
    test = build(kvasir, image_size=None, threshold_set="none").test
    batch = test.__getitems__([4])  # type: ignore[attr-defined]
    top, left, bottom, right = 3, 4, 30, 37  # 45/512 and 475/512 of 32 x 40
    stored = cv2.imread(batch["image_path"][0])[top:bottom, left:right, ::-1] / np.float32(255)
    assert torch.equal(batch["image"][0], torch.from_numpy(stored).permute(2, 0, 1))
    assert torch.equal(batch["mask"][0, 0].nonzero().amax(0), torch.tensor([16 - top - 1, 20 - left - 1]))
    whole = build(kvasir, image_size=None, threshold_set="none", crop_frame=False).test.__getitems__([4])  # type: ignore[attr-defined]
    assert whole["mask"].shape == (1, 1, 32, 40)
    assert int(whole["mask"].sum()) == 16 * 20


def test_the_set_known_as_kvasir_seg_serves_too(kvasir: Path) -> None:
    (kvasir / "segmented-images").rename(kvasir / "Kvasir-SEG")
    assert sum(item.label for item in build(kvasir, threshold_set="none").test.items) == 8  # type: ignore[attr-defined]


def test_a_subset_says_so(kvasir: Path) -> None:
    shutil.rmtree(kvasir / COLON / "anatomical-landmarks/cecum")
    with pytest.raises(
        DatasetError, match=r"expects the published number of images in .*; found cecum 0 of 9\. Complete.*subset: true"
    ):
        build(kvasir)
    data = HyperKvasir(root=str(kvasir), subset=True, threshold_images=1)
    with pytest.warns(UserWarning, match=r"is not the published set: cecum 0 of 9\. Its figures do not"):
        train, _, test = data.require_splits()
    assert len(train) == 9  # type: ignore[arg-type] # 12 * 16 // 21
    assert sum(not item.label for item in test.items) == 1  # type: ignore[attr-defined] # 12 * 4 // 21 less one for the threshold
    assert str(data.dataset_version).startswith("subset (cecum 0 of 9); threshold images apart")


def test_the_ready_made_archive(archive: Path, write: Write) -> None:
    train, val, test = build(archive, layout="ccd_archive", image_size=8)
    assert [len(part) for part in (train, val, test)] == [6, 2, 5]  # type: ignore[arg-type]
    assert "mask" not in test.__getitems__([0])  # type: ignore[attr-defined]
    for index in range(4):
        write(f"masks/{index}.png", np.eye(12, 10, dtype=np.uint8) * 255)
    test = build(archive, layout="ccd_archive", image_size=8, mask_dir="masks").test
    assert test.__getitems__([4])["mask"].any()  # type: ignore[attr-defined]


def test_published_numbers() -> None:
    assert sum(hyper_kvasir.NORMAL.values()) == 2166
    assert len(hyper_kvasir.NORMAL) + len(hyper_kvasir.OTHER) == 23
    assert (hyper_kvasir.TRAIN, hyper_kvasir.TEST, hyper_kvasir.POLYPS) == (1600, 500, 1000)


def wrong_level(root: Path) -> Path:
    return root / "labeled-images" / "lower-gi-tract"


def packed(root: Path) -> Path:
    shutil.rmtree(root / "segmented-images")
    (root / "hyper-kvasir-segmented-images.zip").touch()
    return root


def without_mask(root: Path) -> Path:
    (root / "segmented-images/masks/s3.jpg").unlink()
    return root


def without_image(root: Path) -> Path:
    (root / "segmented-images/images/s3.jpg").unlink()
    return root


def leaking(root: Path) -> Path:
    cecum = root / COLON / "anatomical-landmarks/cecum"
    for index in range(8):  # one of the copies is in the training part, whatever the draw
        shutil.copy(cecum / f"c{index}.jpg", root / f"segmented-images/images/s{index}.jpg")
        cv2.imwrite(str(root / f"segmented-images/masks/s{index}.jpg"), np.full((12, 10), 255, np.uint8))
    return root


def unknown_class(root: Path) -> Path:
    (root / COLON / "anatomical-landmarks/cecum").rename(root / COLON / "anatomical-landmarks/caecum")
    return root


def too_few(root: Path) -> Path:
    (root / COLON / "quality-of-mucosal-views/bbps-2-3/b0.jpg").unlink()
    return root


def other_size(root: Path) -> Path:
    cv2.imwrite(str(root / "segmented-images/masks/s1.jpg"), np.full((20, 20), 255, np.uint8))
    return root


def truncated(root: Path) -> Path:
    path = root / "segmented-images/images/s1.jpg"
    path.write_bytes(path.read_bytes()[:200])
    return root


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (wrong_level, r"HyperKvasir: root should be '.*', which holds labeled-images and segmented-images; got"),
        (packed, r"holds the archive 'hyper-kvasir-segmented-images.zip'\. Unpack it in"),
        (without_mask, r"s3.jpg' has no mask; looked for '.*masks/s3.jpg' \(1 images"),
        (without_image, r"found segmented polyps 7 of 8"),
        (leaking, r"the test image '.*/s\d.jpg' has the same content as the training image '.*/c\d.jpg'"),
        (
            unknown_class,
            r"a class folder in '.*labeled-images' must be one of .*; got 'caecum'\. Did you mean 'cecum'\? Restore",
        ),
        (too_few, r"found bbps-2-3 9 of 10\. Complete the data set, or set subset: true"),
        (other_size, r"masks/s1.jpg' is 20 x 20, but its image '.*s1.jpg' is 32 x 40"),
        (truncated, r"s1.jpg' \(200 bytes\) is truncated"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_copy_is_one_sentence(kvasir: Path, spoil: Callable[[Path], Path], sentence: str) -> None:
    root = spoil(kvasir)
    with pytest.raises(AnomalySuiteError, match=sentence) as caught:
        build(root, threshold_set="none")
    assert "\n" not in str(caught.value)


def test_a_broken_archive_is_one_sentence(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"found test_set, train_set\. Both archives.*set layout: ccd_archive"
    ):
        build(archive)
    with pytest.raises(DatasetNotFoundError, match=r"root should be"):
        build(archive / "train_set", layout="ccd_archive")
    with pytest.raises(ConfigError, match=r"threshold_images=3 takes as many .* has 3 and 4\. Give a smaller"):
        build(archive, layout="ccd_archive", threshold_images=3)
    with pytest.raises(DatasetError, match=r"0.jpg' has no mask; looked for '.*none/0.jpg' \(4 images"):
        build(archive, layout="ccd_archive", mask_dir="none")
    (archive / "train_set/0.jpg").unlink()
    with pytest.raises(DatasetError, match=r"found train 5 of 6"):
        build(archive, layout="ccd_archive")
    with pytest.raises(ConfigError, match=r"mask_dir belongs to layout: ccd_archive; got 'masks' with published"):
        HyperKvasir(mask_dir="masks")
    with pytest.raises(
        ConfigError, match=r"need 1 anomalous test images with masks; there are 0\. Give masks, or no groups"
    ):
        build(archive, layout="ccd_archive", subset=True, localisation_groups=1, localisation_size=1)
    with pytest.raises(ConfigError, match=r"layout must be 'published' or 'ccd_archive'; got 'archive'"):
        HyperKvasir(layout="archive")  # type: ignore[arg-type] # what is tested


def test_the_real_sample(real_data: Path) -> None:
    root = real_data / "hyper_kvasir_sample"
    if not root.is_dir():
        pytest.skip("no sample of Hyper-Kvasir")
    with pytest.warns(
        UserWarning, match=r"not the published set: cecum 0 of 1,009, bbps-2-3 0 of 1,148, segmented polyps 60 of 1,000"
    ):
        train, val, test = build(root, subset=True, localisation_groups=5, localisation_size=10, image_size=64)
    assert [len(part) for part in (train, val, test)] == [6, 2, 60]  # type: ignore[arg-type] # 1 + 59 scored
    batch = test.__getitems__(list(range(0, 60, 10)))  # type: ignore[attr-defined]
    assert batch["label"].tolist() == [0, 1, 1, 1, 1, 1]
    assert batch["mask"].flatten(1).any(1).tolist() == [False, True, True, True, True, True]
    assert sorted(item.group for item in test.items) == [0] * 10 + [group for group in range(1, 6) for _ in range(10)]  # type: ignore[attr-defined]
