"""CamVid on a tiny look-alike and on the real data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import CamVid
from anomaly_suite.data.scenes.camvid import CLASSES
from anomaly_suite.data.scenes.labels import read_label
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.io.images import read_image

Write = Callable[..., Path]
SIZE = (12, 16)
HELD_OUT = ["pedestrian", "bicyclist"]


def build(root: Path, **options: Any) -> Splits:
    return CamVid(root=str(root), **{"flip": 0.0, **options}).require_splits()


def everything(part: Any) -> Batch:
    batch: Batch = part.batch(list(range(len(part))))
    return batch


def test_ordinary_segmentation(camvid: Path) -> None:
    train, val, test = build(camvid)
    assert val is not None
    assert [len(part) for part in (train, val, test)] == [4, 1, 2]  # type: ignore[arg-type] # BatchedDatasets
    every = np.resize([*range(11), 255], SIZE)
    assert (everything(train)["target"][0].numpy() == every).all()
    assert (everything(test)["target"][0].numpy() == every).all()
    assert set(everything(test)) == {"image", "image_path", "target", "label"}
    assert CamVid().num_classes == 11


def test_held_out_classes(camvid: Path) -> None:
    data = CamVid(root=str(camvid), anomalous_classes=["car", "sky"])
    assert data.num_classes == 9
    assert data.classes == [
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "pedestrian",
        "bicyclist",
    ]
    train, val, test = build(camvid, anomalous_classes=["car", "sky"])
    expected = np.resize([255, 0, 1, 2, 3, 4, 5, 6, 255, 7, 8, 255], SIZE)
    batch = everything(test)
    for target in (everything(train)["target"][0], everything(val)["target"][0], batch["target"][0]):
        assert (target.numpy() == expected).all()
    assert (batch["ood_mask"][0].numpy() == np.resize([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 255], SIZE)).all()
    assert "ood_mask" not in everything(val)
    assert batch["label"].tolist() == [1, 1]
    assert everything(build(camvid, anomalous_classes=HELD_OUT).test)["label"].tolist() == [1, 0]


def test_scenes_with_held_out_classes_can_be_dropped(camvid: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train, val, test = build(camvid, anomalous_classes=HELD_OUT, training_anomalies="drop")
    assert [len(part) for part in (train, val, test)] == [2, 1, 2]  # type: ignore[arg-type] # BatchedDatasets
    assert "drop leaves 2 of 4 training scenes" in caplog.text
    assert not (everything(train)["target"] == 255).any()
    with pytest.raises(DatasetError, match="every training scene has one of road"):
        build(camvid, anomalous_classes=["road"], training_anomalies="drop")


def test_smaller_images(camvid: Path) -> None:
    batch = everything(build(camvid, image_size=(6, 8)).test)
    path = Path(batch["image_path"][0])
    areas = read_image(path).reshape(6, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(batch["image"][0].permute(1, 2, 0).numpy() * 255 - areas).max() <= 0.51
    assert batch["target"].shape == (2, 6, 8)
    assert everything(build(camvid, image_size=(6, 8)).train)["target"].shape == (4, 6, 8)


def test_wrong_options_and_files(camvid: Path) -> None:
    with pytest.raises(ConfigError, match=r"got 'bicycle'\. Did you mean 'bicyclist'\?"):
        CamVid(anomalous_classes=["bicycle"])
    with pytest.raises(ConfigError, match="leaves fewer than two classes"):
        CamVid(anomalous_classes=CLASSES[1:])
    with pytest.raises(ConfigError, match="training_anomalies must be 'void' or 'drop'; got 'keep'"):
        CamVid(training_anomalies="keep")  # type: ignore[arg-type] # on purpose
    with pytest.raises(ConfigError, match="outlier_on_road needs a class 'road'"):
        build(camvid, anomalous_classes=["road"], outliers="shapes", outlier_fraction=1.0, outlier_on_road=True)
    with pytest.raises(DatasetNotFoundError, match="root should be"):
        build(camvid / "train")
    (camvid / "testannot" / "0001TP_test1.png").unlink()
    with pytest.raises(DatasetError, match=r"test1.jpg' has no label; looked for '.*testannot/0001TP_test1.png'"):
        build(camvid)


def test_an_image_in_two_parts_is_found(camvid: Path) -> None:
    (camvid / "test" / "0001TP_test0.png").write_bytes((camvid / "train" / "0001TP_train0.png").read_bytes())
    with pytest.raises(DatasetError, match=r"the test image '.*test0.png' has the same content as the training image"):
        build(camvid)


def test_real_data(real_data: Path) -> None:
    root = real_data / "camvid"
    if not root.is_dir():
        pytest.skip("no CamVid among the real data")
    train, val, test = build(root, anomalous_classes=HELD_OUT, outliers="shapes", outlier_fraction=0.1)
    assert val is not None
    assert [len(part) for part in (train, val, test)] == [367 + 36, 101, 233]  # type: ignore[arg-type] # BatchedDatasets
    mixed = train.batch([0, 367, 400])  # type: ignore[attr-defined] # a BatchedDataset
    assert mixed["image"].shape == (3, 3, 360, 480)
    assert set(mixed["target"].unique().tolist()) <= {*range(9), 254, 255}
    assert (mixed["target"] == 254).flatten(1).any(1).tolist() == [False, True, True]
    batch = test.batch([0])  # type: ignore[attr-defined] # a BatchedDataset
    raw = read_label(root / "testannot" / f"{Path(batch['image_path'][0]).stem}.png")
    assert set(np.unique(raw)) <= set(range(12))
    assert torch.equal(batch["ood_mask"][0] == 1, torch.from_numpy(np.isin(raw, [9, 10])))
    assert torch.equal(batch["ood_mask"][0] == 255, torch.from_numpy(raw == 11))
    inlier = batch["target"][0] != 255
    assert torch.equal(inlier, torch.from_numpy(raw < 9))  # the classes before the held-out ones keep their numbers
    assert torch.equal(batch["target"][0][inlier], torch.from_numpy(raw[raw < 9]).long())


def test_two_images_with_one_label(camvid: Path, write: Write) -> None:
    write("test/0001TP_test1.png", size=SIZE)
    message = r"'.*test/0001TP_test1\.jpg' and '.*test/0001TP_test1\.png' both have the label '.*0001TP_test1\.png'"
    with pytest.raises(DatasetError, match=message):
        build(camvid)
