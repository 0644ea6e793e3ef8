"""SceneFolder on tiny folders, and its likeness to CamVid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import Batch
from anomaly_suite.data import CamVid, SceneFolder
from anomaly_suite.data.scenes.camvid import CLASSES
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

Write = Callable[..., Path]
SIZE = (6, 8)
LABEL = np.resize([0, 1, 2, 5, 255], SIZE).astype(np.uint8)
MASK = np.resize([0, 1, 255], SIZE).astype(np.uint8)
IDS = "classes: {road: 0, car: 1, sky: 2}\nanomalous: {animal: 5}\n"
CAMVID_IDS = {
    "classes": {name: index for index, name in enumerate(CLASSES) if name != "bicyclist"},
    "anomalous": {"bicyclist": CLASSES.index("bicyclist")},
    "void": [11],
}
CAMVID_FOLDERS = {
    "train_images": "train", "train_labels": "trainannot", "val_images": "val", "val_labels": "valannot",
    "test_images": "test", "test_labels": "testannot",
}  # fmt: skip


@pytest.fixture
def scenes(tmp_path: Path, write: Write) -> Path:
    """Three training scenes in two folders, none for validation, two test scenes with labels and masks."""
    for name in ("a/0", "a/1", "b/0"):
        write(f"train/images/{name}.jpg", size=SIZE)
        write(f"train/labels/{name}_labels.png", np.where(LABEL == 5, 0, LABEL) if name == "b/0" else LABEL)
    for name in ("x", "y"):
        write(f"test/images/{name}.png", size=SIZE)
        write(f"test/labels/{name}.png", LABEL)
        write(f"test/ood_masks/{name}_mask.png", MASK)
    (tmp_path / "ids.yaml").write_text(IDS)
    return tmp_path


def everything(part: Any) -> Batch:
    batch: Batch = part.batch(list(range(len(part))))
    return batch


def test_own_folders(scenes: Path) -> None:
    data = SceneFolder(root=str(scenes), flip=0.0, val_size=1, seed=3)
    train, val, test = data.require_splits()
    assert val is not None
    assert (len(train), len(val), len(test)) == (2, 1, 2)  # type: ignore[arg-type] # BatchedDatasets
    assert (list(data.classes), data.num_classes) == (["road", "car", "sky"], 3)
    batch = everything(test)
    assert (batch["target"][0].numpy() == np.resize([0, 1, 2, 255, 255], SIZE)).all()
    assert (batch["ood_mask"][0].numpy() == MASK).all()  # the mask decides, not the label's animal
    assert batch["label"].tolist() == [1, 1]
    assert set(everything(val)) == {"image", "image_path", "target", "label"}
    names = {Path(name).parent.name + Path(name).stem for part in (train, val) for name in part.source.names}  # type: ignore[attr-defined]
    assert names == {"a0", "a1", "b0"}
    dropped = SceneFolder(root=str(scenes), validation="none", training_anomalies="drop").require_splits()
    assert len(dropped.train) == 1  # type: ignore[arg-type] # the scene without an animal


def test_smaller_scenes_with_their_masks(scenes: Path) -> None:
    batch = everything(SceneFolder(root=str(scenes), image_size=(3, 4)).require_splits().test)
    assert batch["image"].shape[2:] == batch["ood_mask"].shape[1:] == batch["target"].shape[1:] == (3, 4)


def test_labels_alone_and_masks_alone(scenes: Path) -> None:
    (scenes / "test" / "ood_masks").rename(scenes / "masks")
    batch = everything(SceneFolder(root=str(scenes)).require_splits().test)
    assert (batch["ood_mask"][0].numpy() == np.resize([0, 0, 0, 1, 255], SIZE)).all()
    (scenes / "test" / "labels").rename(scenes / "elsewhere")
    batch = everything(SceneFolder(root=str(scenes), test_masks="masks").require_splits().test)
    assert set(batch) == {"image", "image_path", "ood_mask", "label"}
    assert (batch["ood_mask"][1].numpy() == MASK).all()


def test_scenes_of_which_nothing_is_known_can_be_predicted(scenes: Path) -> None:
    for name in ("labels", "ood_masks"):
        (scenes / "test" / name).rename(scenes / name)
    data = SceneFolder(root=str(scenes))
    data.setup("predict")
    (first, _) = data.predict_dataloader()
    assert set(first) == {"image", "image_path"}
    with pytest.raises(
        ConfigError, match=r"test needs the truth of the test scenes, .*; neither exists\. Give .* or use predict"
    ):
        data.setup("test")


def test_for_testing_alone(scenes: Path) -> None:
    (scenes / "train").rename(scenes / "elsewhere")
    data = SceneFolder(root=str(scenes))
    data.setup("test")
    assert len(list(data.test_dataloader())) == 2
    with pytest.raises(ConfigError, match=r"fit needs training scenes in '.*train/images', which does not exist"):
        data.setup("fit")
    (scenes / "test").rename(scenes / "other")
    with pytest.raises(ConfigError, match=r"test needs test scenes in '.*test/images', which does not exist"):
        SceneFolder(root=str(scenes)).setup("test")


def _two_masks(root: Path, write: Write) -> None:
    write("test/ood_masks/x.png", MASK)


def _two_images(root: Path, write: Write) -> None:
    write("test/images/x.jpg", size=SIZE)


def _label_without_image(root: Path, write: Write) -> None:
    write("train/labels/c.png", LABEL)


def _image_without_label(root: Path, write: Write) -> None:
    write("train/images/b/1.jpg", size=SIZE)


def _leak(root: Path, write: Write) -> None:
    (root / "test/images/x.png").write_bytes((root / "train/images/a/0.jpg").read_bytes())


def _foreign_number(root: Path, write: Write) -> None:
    write("test/labels/x.png", np.full(SIZE, 9, np.uint8))


def _colours(root: Path, write: Write) -> None:
    write("test/labels/x.png", size=SIZE)


def _mask_of_another_size(root: Path, write: Write) -> None:
    write("test/ood_masks/x_mask.png", np.zeros((8, 6), np.uint8))


def _no_labels(root: Path, write: Write) -> None:
    (root / "train/labels").rename(root / "annotations")


def _empty(root: Path, write: Write) -> None:
    (root / "train/images").rename(root / "pictures")
    (root / "train/images").mkdir()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_two_masks, r"x\.png' and '.*x_mask\.png' both belong to '.*images/x\.png'"),
        (_two_images, r"x\.jpg' and '.*x\.png' are images of one name"),
        (_label_without_image, r"train/labels/c\.png' has no image of its name in '.*train/images' \(1 such"),
        (_image_without_label, r"b/1\.jpg' has no file of its name in '.*train/labels' \(1 images without one\)"),
        (_leak, r"test image '.*x\.png' has the same content as the training image '.*a/0\.jpg'"),
        (_foreign_number, r"x\.png' holds 9, which is no label of this data set"),
        (_colours, r"must hold one number per pixel; its mode is RGB"),
        (_mask_of_another_size, r"the ood mask of '.*x\.png' is \(8, 6\), but its image is \(6, 8\)"),
        (_no_labels, r"needs label files in '.*train/labels', which does not exist"),
        (_empty, r"expects images .* in '.*train/images', which holds no image"),
    ],
)  # fmt: skip
def test_broken_folders(break_it: Callable[[Path, Write], None], message: str, scenes: Path, write: Write) -> None:
    break_it(scenes, write)
    with pytest.raises((DatasetError, DatasetNotFoundError), match=message):
        everything(SceneFolder(root=str(scenes)).require_splits().test)


def test_wrong_options(scenes: Path) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"test_labels must name a folder in root='.*'; there is no '.*typo'"
    ):
        SceneFolder(root=str(scenes), test_labels="typo").require_splits()
    with pytest.raises(DatasetNotFoundError, match=r"expects a folder at root='.*none'; there is none"):
        SceneFolder(root=str(scenes / "none")).require_splits()
    with pytest.raises(ConfigError, match=r"there is no file '.*labels/ids\.yaml'"):
        SceneFolder(root=str(scenes / "train" / "labels")).require_splits()


def test_camvid_as_a_folder_gives_the_very_same_batches(camvid: Path) -> None:
    options: dict[str, Any] = {
        "root": str(camvid),
        "outliers": "shapes",
        "outlier_fraction": 0.5,
        "crop_size": 8,
        "seed": 1,
    }
    ours = SceneFolder(ids=CAMVID_IDS, **CAMVID_FOLDERS, **options)
    theirs = CamVid(anomalous_classes=["bicyclist"], **options)
    assert list(ours.classes) == list(theirs.classes)
    for first, second in zip(ours.require_splits(), theirs.require_splits(), strict=True):
        one, other = everything(first), everything(second)
        assert one.keys() == other.keys()
        for key in one:
            same = torch.equal(one[key], other[key]) if key != "image_path" else one[key] == other[key]  # type: ignore[literal-required]
            assert same, key
