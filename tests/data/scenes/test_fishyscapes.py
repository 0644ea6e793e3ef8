"""Fishyscapes on tiny look-alikes of the official and the repackaged layout."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import LightningModule

from anomaly_suite.callbacks.metrics.result_file import write_section
from anomaly_suite.contract import Batch
from anomaly_suite.data import FishyscapesLostAndFound, FishyscapesStatic
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.images import read_image

Write = Callable[..., Path]
SIZE = (16, 24)
LABEL = np.resize([0, 1, 255], SIZE).astype(np.uint8)


def everything(data: Any) -> Batch:
    data.eval_batch_size = 100
    (batch,) = data.test_dataloader()
    return batch  # type: ignore[no-any-return] # loaders are untyped


@pytest.fixture
def laf_labels(tmp_path: Path, write: Write) -> Path:
    """Labels of a test and a training scene of Lost and Found, numbered in another order than their names."""
    write("fs/0001_02_Hanns_Klemm_Str_44_000000_000010_labels.png", LABEL)
    write("fs/0000_15_Rechbergstr_Deckenpfronn_000000_000010_labels.png", LABEL)
    write("fs/0002_01_Hanns_Klemm_Str_45_000000_000010_labels.png", 1 - LABEL // 255)
    return tmp_path / "fs"


@pytest.fixture
def static(tmp_path: Path, write: Write) -> Path:
    """Two scenes: one base of 250 plus 20, one of 10 less 20."""
    for number, (city, base, change) in enumerate([("frankfurt", 250, 20), ("lindau", 10, -20)]):
        name = f"{city}_000000_000000"
        write(f"base/leftImg8bit/val/{city}/{name}_leftImg8bit.png", np.full((*SIZE, 3), base, np.uint8))
        write(f"fs/{number:04d}_{name}_labels.png", LABEL)
        overlay = np.zeros((*SIZE, 3), np.int16)
        overlay[:4, :, number] = change
        np.savez(tmp_path / "fs" / f"{number:04d}_{name}_rgb.npz", rgb=overlay)
    return tmp_path / "fs"


def test_official_labels_with_images_of_lost_and_found(laf_labels: Path, lost_and_found: Path) -> None:
    batch = everything(FishyscapesLostAndFound(root=str(laf_labels), lost_and_found=str(lost_and_found)))
    scenes = ["15_Rechbergstr_Deckenpfronn", "02_Hanns_Klemm_Str_44", "01_Hanns_Klemm_Str_45"]
    assert [Path(path).parent.name for path in batch["image_path"]] == scenes  # by number, test and training part
    for path, image in zip(batch["image_path"], batch["image"], strict=True):
        assert (image.permute(1, 2, 0).numpy() * 255).round().astype(int).tolist() == read_image(Path(path)).tolist()
    assert (batch["ood_mask"][:2].numpy() == LABEL).all()
    assert batch["label"].tolist() == [1, 1, 1]
    assert set(batch) == {"image", "image_path", "ood_mask", "label"}


def test_both_sets_in_one_folder(laf_labels: Path, lost_and_found: Path, static: Path, tmp_path: Path) -> None:
    assert laf_labels == static
    laf = everything(FishyscapesLostAndFound(root=str(static), lost_and_found=str(lost_and_found)))
    assert len(laf["image"]) == 3
    assert len(everything(FishyscapesStatic(root=str(static), cityscapes=str(tmp_path / "base")))["image"]) == 2


@pytest.mark.parametrize(
    ("name", "version"),
    [("fs_val_v1", "1"), ("fs_val_v3", "3"), ("Static_v2", "2"), ("v1.0.0", "1"), ("val", "unknown"), ("v", "unknown")],
)
def test_version_of_static_is_recorded(static: Path, tmp_path: Path, name: str, version: str, trainer_in: Any) -> None:
    data = FishyscapesStatic(root=str(static.rename(tmp_path / name)), cityscapes=str(tmp_path / "base"))
    assert data.dataset_version is None
    data.setup("test")
    assert data.dataset_version == version
    trainer = trainer_in()
    trainer.datamodule = data
    write_section(trainer, LightningModule(), "metrics.json", None, {})
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["dataset_version"] == version


def test_several_versions_under_one_root_are_refused(static: Path, tmp_path: Path, write: Write) -> None:
    root = tmp_path / "fishyscapes"
    for version in ("fs_val_v1", "fs_val_v3"):
        shutil.copytree(static, root / version)
    with pytest.raises(
        DatasetError, match=r"once; found it in '.*fs_val_v1' and in '.*fs_val_v3'.*give the folder of one"
    ):
        everything(FishyscapesStatic(root=str(root), cityscapes=str(tmp_path / "base")))
    data = FishyscapesStatic(root=str(root / "fs_val_v3"), cityscapes=str(tmp_path / "base"))
    assert len(everything(data)["image"]) == 2
    shutil.rmtree(root / "fs_val_v1")
    for folder in ("original", "labels_with_ROI"):
        write(f"fishyscapes/Static/{folder}/0000_city.png", LABEL if folder != "original" else None, size=SIZE)
    with pytest.raises(DatasetError, match=r"once; found it in '.*Static' and in '.*fs_val_v3'"):
        everything(FishyscapesStatic(root=str(root), cityscapes=str(tmp_path / "base")))


def test_two_copies_of_lost_and_found_are_refused(laf_labels: Path, lost_and_found: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(laf_labels, tmp_path / "copies" / name)
    with pytest.raises(DatasetError, match=r"LostAndFound once; found it in '.*copies/a' and in '.*copies/b'"):
        everything(FishyscapesLostAndFound(root=str(tmp_path / "copies"), lost_and_found=str(lost_and_found)))


def test_static_adds_signed_differences_without_wrapping(static: Path, tmp_path: Path) -> None:
    batch = everything(FishyscapesStatic(root=str(static), cityscapes=str(tmp_path / "base")))
    pixels = (batch["image"] * 255).round().int()
    assert pixels[0, :, 0, 0].tolist() == [255, 250, 250]  # 250 + 20; in 8 bits it would be 14
    assert pixels[1, :, 0, 0].tolist() == [10, 0, 10]  # 10 - 20; in 8 bits it would be 246
    assert pixels[:, :, 4:].flatten(2).unique(dim=2).squeeze(2).tolist() == [[250] * 3, [10] * 3]
    assert (batch["ood_mask"].numpy() == LABEL).all()


def test_overlays_of_another_kind_are_refused(static: Path, tmp_path: Path) -> None:
    data = FishyscapesStatic(root=str(static), cityscapes=str(tmp_path / "base"))
    overlay = next(static.glob("*_rgb.npz"))
    for content, message in [
        ({"rgb": np.zeros((*SIZE, 3), np.uint8)}, r"signed numbers of shape \(16, 24, 3\); got uint8"),
        ({"rgb": np.zeros((8, 8, 3), np.int16)}, r"got int16 \(8, 8, 3\)"),
        ({"image": np.zeros((*SIZE, 3), np.int16)}, "holds no array 'rgb'"),
        ({"rgb": np.array([{}], object)}, "holds no array 'rgb' .*allow_pickle=False"),
    ]:
        np.savez(overlay, **content)  # type: ignore[arg-type] # objects on purpose
        with pytest.raises(DatasetError, match=message):
            everything(data)
    overlay.unlink()
    with pytest.raises(DatasetError, match="has no difference file; looked for"):
        everything(FishyscapesStatic(root=str(static), cityscapes=str(tmp_path / "base")))


@pytest.mark.parametrize(("kind", "part"), [(FishyscapesLostAndFound, "LostAndFound"), (FishyscapesStatic, "Static")])
def test_repackaged_layout_prefers_labels_with_void(tmp_path: Path, write: Write, kind: Any, part: str) -> None:
    for index in range(2):
        write(f"fs/{part}/original/{index:04d}_city_leftImg8bit.png", size=SIZE)
        write(f"fs/{part}/labels/{index:04d}_city_labels.png", (LABEL == 1).astype(np.uint8))
        write(f"fs/{part}/labels_with_ROI/{index:04d}_city_labels.png", LABEL)
    for root in (tmp_path / "fs", tmp_path / "fs" / part):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            batch = everything(kind(root=str(root)))
        assert (batch["ood_mask"].numpy() == LABEL).all()
        assert all("/original/" in path for path in batch["image_path"])
    (tmp_path / "fs" / part / "labels_with_ROI").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"no label in '.*labels' holds 255: void is scored as normal"):
        batch = everything(kind(root=str(tmp_path / "fs")))
    assert (batch["ood_mask"].numpy() == (LABEL == 1)).all()
    (tmp_path / "fs" / part / "labels" / "0001_city_labels.png").unlink()
    with pytest.raises(DatasetError, match=r"0001_city_leftImg8bit.png' has no label of its name"):
        everything(kind(root=str(tmp_path / "fs")))


def test_other_numbers_are_refused(laf_labels: Path, lost_and_found: Path, write: Write) -> None:
    write("fs/0001_02_Hanns_Klemm_Str_44_000000_000010_labels.png", np.full(SIZE, 2, np.uint8))
    with pytest.raises(DatasetError, match="holds 2, which is no label"):
        everything(FishyscapesLostAndFound(root=str(laf_labels), lost_and_found=str(lost_and_found)))


def test_what_is_missing_is_named(laf_labels: Path, lost_and_found: Path, static: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"takes its images from leftImg8bit/train\|test in '.*none', which holds none"
    ):
        everything(FishyscapesLostAndFound(root=str(laf_labels), lost_and_found=str(tmp_path / "none")))
    with pytest.raises(
        DatasetNotFoundError, match=r"Fishyscapes Static expects <nnnn>_<id>_labels\.png, or folders original"
    ):
        everything(FishyscapesStatic(root=str(tmp_path / "none"), cityscapes=str(tmp_path / "base")))
    next((tmp_path / "base").rglob("lindau*.png")).unlink()
    with pytest.raises(
        DatasetError, match=r"belongs to the image 'lindau_000000_000000', which '.*base' does not have"
    ):
        everything(FishyscapesStatic(root=str(static), cityscapes=str(tmp_path / "base")))


def test_it_cannot_be_trained_on(static: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FishyscapesStatic is for testing.* Train on Cityscapes"):
        FishyscapesStatic(root=str(static), cityscapes=str(tmp_path / "base")).train_dataloader()


def test_two_labels_of_one_scene(laf_labels: Path, lost_and_found: Path, write: Write) -> None:
    write("fs/0007_02_Hanns_Klemm_Str_44_000000_000010_labels.png", LABEL)
    with pytest.raises(
        DatasetError, match=r"Str_44_000000_000010_leftImg8bit\.png' is in the test part, and in the test part before"
    ):
        everything(FishyscapesLostAndFound(root=str(laf_labels), lost_and_found=str(lost_and_found)))
