"""Cityscapes on a tiny look-alike with the published names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import Cityscapes
from anomaly_suite.data.scenes.cityscapes import CLASSES, LABEL_IDS, TRAIN_IDS
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageReadError
from anomaly_suite.io.images import read_image

Write = Callable[..., Path]


def build(root: Path, **options: Any) -> Splits:
    return Cityscapes(root=str(root), **{"crop_size": None, "scales": [1.0], "flip": 0.0, **options}).require_splits()


def everything(part: Any) -> Batch:
    batch: Batch = part.batch(list(range(len(part))))
    return batch


def cities(part: Any) -> list[str]:
    return sorted({Path(name).parent.name for name in part.source.names})


def test_lookup_table() -> None:
    known = [LABEL_IDS[number] for number in range(34)]
    assert sorted(set(known)) == [*range(19), 255]
    assert (LABEL_IDS[[7, 8, 33, 29, 255]] == [0, 1, 18, 255, 255]).all()
    assert known.count(255) == 34 - 19
    assert (LABEL_IDS[34:255] == -1).all()
    assert CLASSES["train"] == 31
    assert list(CLASSES).index("train") == 16


def test_scenes_and_targets(cityscapes: Path) -> None:
    train, val, test = build(cityscapes)
    assert val is not None
    assert [len(part) for part in (train, val, test)] == [8, 3, 3]  # type: ignore[arg-type] # BatchedDatasets
    assert cities(val) == cities(test) == ["frankfurt", "lindau", "munster"]
    expected = torch.from_numpy(np.resize([0, 1, 13, 255, 18, 255, 255], (16, 24)))  # of ids 7, 8, 26, 0, 33, -1, 29
    for part in (train, val, test):
        batch = everything(part)
        assert all(torch.equal(target, expected) for target in batch["target"])
        for path, image in zip(batch["image_path"], batch["image"], strict=True):
            assert torch.equal(image, torch.from_numpy(read_image(Path(path))).permute(2, 0, 1) / 255)
    assert everything(val)["label"].tolist() == [0, 0, 0]
    assert set(everything(test)) == {"image", "image_path", "target", "label"}


def test_train_ids_give_the_same_targets_and_are_told_from_ids(cityscapes: Path, write: Write) -> None:
    with pytest.raises(
        DatasetError, match=r"has no label; looked for '.*_gtFine_labelTrainIds.png' \(8 images without one\)"
    ):
        build(cityscapes, labels="labelTrainIds")
    before = everything(build(cityscapes).train)["target"]
    for file in (cityscapes / "gtFine").rglob("*_labelIds.png"):
        name = file.relative_to(cityscapes.parent).as_posix().replace("labelIds", "labelTrainIds")
        write(name, LABEL_IDS[np.resize([7, 8, 26, 0, 33, 255, 29], (16, 24))].astype(np.uint8))
    assert torch.equal(everything(build(cityscapes, labels="labelTrainIds").train)["target"], before)
    for file in (cityscapes / "gtFine").rglob("*_labelIds.png"):
        file.rename(file.with_name(file.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(DatasetError, match="holds 26, which is no label of this data set"):
        everything(build(cityscapes, labels="labelTrainIds").train)
    assert (TRAIN_IDS[:19] == np.arange(19)).all()


def test_cv2_moves_the_official_validation_cities_into_training(cityscapes: Path) -> None:
    train, val, _ = build(cityscapes, split="cv2")
    assert cities(val) == ["monchengladbach", "strasbourg", "stuttgart"]
    assert cities(train) == ["aachen", "frankfurt", "lindau", "munster"]
    assert [len(train), len(val)] == [5, 6]  # type: ignore[arg-type] # BatchedDatasets
    for scene in ("monchengladbach", "strasbourg", "stuttgart"):
        for file in (cityscapes / "leftImg8bit" / "train" / scene).iterdir():
            file.unlink()
    with pytest.raises(
        DatasetNotFoundError, match="split: cv2 validates on monchengladbach, strasbourg, stuttgart; none"
    ):
        build(cityscapes, split="cv2")


def test_images_and_labels_are_paired_by_id(cityscapes: Path) -> None:
    lost = cityscapes / "gtFine" / "train" / "aachen" / "aachen_000000_000000_gtFine_labelIds.png"
    lost.unlink()
    with pytest.raises(
        DatasetError, match=r"aachen_000000_000000_leftImg8bit.png' has no label; .* \(1 images without one\)"
    ):
        build(cityscapes)
    (cityscapes / "leftImg8bit" / "train" / "aachen" / "aachen_000000_000000_leftImg8bit.png").unlink()
    train = build(cityscapes).train
    assert len(train) == 7  # type: ignore[arg-type] # a BatchedDataset
    for scene in train.source.scenes:  # type: ignore[attr-defined] # a TrainingScenes
        assert scene.label.name.removesuffix("_gtFine_labelIds.png") == scene.image.name.removesuffix(
            "_leftImg8bit.png"
        )


def test_other_label_files_are_refused(cityscapes: Path) -> None:
    label = cityscapes / "gtFine" / "train" / "aachen" / "aachen_000000_000000_gtFine_labelIds.png"
    label.with_name("aachen_000000_000000_gtFine_instanceIds.png").replace(label)
    with pytest.raises(DatasetError, match=r"labelIds.png' holds numbers up to 26001"):
        everything(build(cityscapes).train)
    label.with_name("aachen_000000_000000_gtFine_color.png").replace(label)
    with pytest.raises(DatasetError, match="must hold one number per pixel; its mode is RGB"):
        everything(build(cityscapes).train)


def test_counts_are_logged_where_they_differ(cityscapes: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    build(cityscapes)
    assert "8 official training and 3 validation images" in caplog.text
    assert "Cityscapes has published 2975 and 500" in caplog.text


def test_repeated_and_damaged_images_are_found_before_training(cityscapes: Path) -> None:
    folder = cityscapes / "leftImg8bit"
    image = folder / "val" / "lindau" / "lindau_000000_000000_leftImg8bit.png"
    whole = image.read_bytes()
    image.write_bytes((folder / "train" / "aachen" / "aachen_000000_000001_leftImg8bit.png").read_bytes())
    with pytest.raises(
        DatasetError, match=r"the validation image '.*lindau.*' has the same content as the training image"
    ):
        build(cityscapes)
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageReadError, match=r"lindau.* is truncated"):
        build(cityscapes)


def test_wrong_root_and_options(cityscapes: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=f"root should be '{cityscapes}'"):
        build(cityscapes / "leftImg8bit")
    with pytest.raises(DatasetNotFoundError, match=r"expects .*leftImg8bit/train and gtFine.* after registration"):
        build(tmp_path / "missing")
    with pytest.raises(ConfigError, match="split must be 'cv0' or 'cv2'; got 'cv1'"):
        Cityscapes(split="cv1")  # type: ignore[arg-type] # on purpose


def test_defaults_are_those_of_pebal(cityscapes: Path, coco: Path) -> None:
    data = Cityscapes(
        root=str(cityscapes), outliers=str(coco), outlier_fraction=0.5, outlier_min_size=30, train_batch_size=4
    )
    batches = list(data.train_dataloader())
    assert sum(len(batch["image"]) for batch in batches) == 8 + 4
    assert all(batch["image"].shape[1:] == (3, 900, 900) for batch in batches)
    assert data.crop.scales == [0.5, 0.75, 1.0, 1.5, 1.75, 2.0]
    assert data.num_classes == 19
    values = torch.cat([batch["target"].unique() for batch in batches]).unique()
    assert set(values.tolist()) <= {*range(19), 254, 255}
    assert 254 in values
    assert int(0.1 * 2975) == 297  # what outlier_fraction: 0.1 means on the whole data set
