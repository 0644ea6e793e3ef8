"""Image files in batches, and how a data module on files splits and checks what it found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_suite.contract import Splits
from anomaly_suite.data.images.image_files import Found, ImageFileModule, ImageFiles, Item
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.errors import ConfigError, DatasetError, ShapeError

Write = Callable[..., Path]
KEEP = Pipeline(image_size=None, center_crop=None, steps=[])


def files(items: list[Item], **options: Any) -> ImageFiles:
    return ImageFiles(items, **{"pipeline": KEEP, "channels": 3, "seed": 0, **options})


def test_a_batch_holds_pixels_labels_paths_and_masks(write: Write) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    mask = np.zeros((12, 10), np.uint8)
    mask[2, 3] = 255
    good, bad = write("good.png"), write("bad.png", pixels)
    items = [Item(good, category="bottle"), Item(bad, 1, write("mask.png", mask), "cable", "cut")]
    batch = files(items, masks=True).__getitems__([1, 0])
    assert torch.equal(batch["image"][0].mul(255).byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    assert batch["mask"].flatten(1).sum(1).tolist() == [1, 0]
    assert batch["mask"][0, 0, 2, 3]
    assert batch["label"].tolist() == [1, 0]
    assert batch["image_path"] == [str(bad), str(good)]
    assert batch["category"] == ["cable", "bottle"]
    assert set(files([Item(good)], channels=1).__getitems__([0])) == {"image", "label", "image_path"}
    assert files([Item(good)], channels=1).__getitems__([0])["image"].shape == (1, 1, 12, 10)


def test_images_of_a_batch_have_one_size(write: Write) -> None:
    items = [Item(write("a.png")), Item(write("b.png", size=(12, 11)))]
    with pytest.raises(ShapeError, match=r"a\.png' is \(12, 10\) and '.*b\.png' is \(12, 11\).*Set image_size"):
        files(items).__getitems__([0, 1])


def test_draws_of_training_alone_change_with_the_epoch(write: Write) -> None:
    steps = [{"class": "RandomBrightnessContrast", "p": 1}]
    pipeline = Pipeline(image_size=None, center_crop=None, steps=steps)
    items = [Item(write("a.png")), Item(write("b.png"))]
    training = files(items, pipeline=pipeline, training=True)
    first = training.__getitems__([0, 1])["image"]
    training.epoch = 1
    assert not torch.equal(training.__getitems__([0, 1])["image"], first)
    training.epoch = 0
    assert torch.equal(training.__getitems__([1, 0])["image"].flip(0), first)
    assert not hasattr(files(items, pipeline=pipeline), "epoch")


class Listed(ImageFileModule):
    """A data set that is given what it finds."""

    def __init__(self, found: Found, **options: Any) -> None:
        super().__init__(image_size=None, **options)
        self.found = found

    def read(self) -> Found:
        return self.found


def split(found: Found, **options: Any) -> Splits:
    data = Listed(found, **options)
    data.setup()
    assert data.splits is not None
    return data.splits


@pytest.fixture
def found(write: Write) -> Found:
    """Ten training normals; a normal and an anomalous image set apart; a normal and an anomalous test image."""
    train = [Item(write(f"train/{index}.png")) for index in range(10)]
    val = [Item(write("val/good.png")), Item(write("val/bad.png"), 1, defect="cut")]
    test = [Item(write("test/good.png")), Item(write("test/bad.png"), 1, defect="cut")]
    return Found(train, val, test)


def test_normals_set_apart_make_holding_out_needless(found: Found) -> None:
    def sizes(found: Found, validation: Any) -> tuple[int, int]:
        train, val, _ = split(found, validation=validation, val_size=3)
        return len(train), 0 if val is None else len(val)  # type: ignore[arg-type] # sized

    assert sizes(found, "holdout") == (10, 2)
    assert sizes(found, "augmented") == (10, 2)  # the normal one and its pseudo-anomaly
    assert sizes(found, "medmix") == (10, 2)
    assert sizes(found, "none") == sizes(found, "test") == (10, 0)
    only_bad = found._replace(val=found.val[1:])
    assert sizes(only_bad, "holdout") == (7, 4)
    assert sizes(only_bad, "augmented") == (7, 6)


def test_anomalies_that_are_trained_on_are_not_held_out(found: Found, write: Write) -> None:
    class Labelled(Listed):
        trains_on_anomalies = True

    anomalous = [Item(write(f"train/bad {index}.png"), 1, defect="cut") for index in range(2)]
    for validation, kept in (("holdout", 7), ("none", 10)):
        data = Labelled(Found([*found.train, *anomalous], [], found.test), validation=validation, val_size=3)
        data.setup()
        assert data.splits is not None
        assert len(data.splits.train) == kept + 2  # type: ignore[arg-type] # sized


def test_what_a_data_set_may_not_hold(found: Found, write: Write) -> None:
    with pytest.raises(DatasetError, match=r"val/bad\.png' is anomalous, but one-class training takes normal"):
        split(found._replace(train=[*found.train, found.val[1]]))
    with pytest.raises(DatasetError, match=r"the test image '.*9\.png' has the same content as the training image"):
        split(found._replace(test=[*found.test, found.train[9]]))
    small = write("mask.png", np.zeros((6, 10), np.uint8))
    with pytest.raises(DatasetError, match=r"mask\.png' is 6 x 10, but its image"):
        split(found._replace(test=[found.test[1]._replace(mask=small)]))
    with pytest.raises(NotImplementedError, match=r"ImageFileModule must define read\(\)"):
        ImageFileModule().setup()


def test_pictures_with_rotation_marks_and_their_masks(found: Found, write: Write, tmp_path: Path) -> None:
    """A defect in the upper left corner of what is seen, which is the lower right one of what is stored."""
    seen = np.zeros((12, 10, 3), np.uint8)
    seen[:3, :2] = 255
    mask = write("mask.png", seen[..., 0])
    tags = Image.Exif()
    tags[274] = 3
    Image.fromarray(seen[::-1, ::-1]).save(tmp_path / "turned.png", exif=tags.tobytes())
    bad = Item(tmp_path / "turned.png", 1, mask, defect="cut")
    found = found._replace(val=[], test=[found.test[0], bad])
    with pytest.warns(UserWarning, match="rotation mark") as told:
        test = split(found).test
    assert [str(each.message) for each in told] == [
        f"1 of 1 images with masks have a rotation mark (EXIF), first '{bad.path}': they are turned upright, and masks are taken to be drawn "
        "on the upright picture. Set exif: ignore if they were drawn on the stored one."
    ]
    batch = test.__getitems__([1])  # type: ignore[attr-defined] # a BatchedDataset
    assert torch.equal(batch["image"][:, :1] == 1, batch["mask"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = split(found, exif="ignore").test.__getitems__([1])  # type: ignore[attr-defined] # the same
    assert torch.equal(stored["image"].flip(2, 3), batch["image"])
    assert torch.equal(stored["mask"], batch["mask"])


def test_rows_that_contradict_themselves(found: Found, write: Write) -> None:
    full, empty = write("full.png", np.full((12, 10), 255, np.uint8)), write("empty.png", np.zeros((12, 10), np.uint8))
    split(found._replace(test=[found.test[0]._replace(mask=empty), found.test[1]]))
    for part, items in (("train", found.train), ("val", found.val), ("test", found.test)):
        wrong = found._replace(**{part: [items[0]._replace(mask=full), *items[1:]]})
        with pytest.raises(
            DatasetError, match=r"full\.png' marks 120 pixels as anomalous, but its image is labelled normal"
        ):
            split(wrong)
    with pytest.raises(DatasetError, match=r"train/3\.png' is in the training part, and in the training part before"):
        split(found._replace(train=[*found.train, found.train[3]]))
    with pytest.raises(DatasetError, match=r"bad\.png' is listed as its own mask"):
        split(found._replace(test=[found.test[1]._replace(mask=found.test[1].path)]))
    item = found.test[0]._replace(mask=full)
    with pytest.raises(DatasetError, match=r"full\.png' marks 120 pixels"):  # a file that changed since
        files([item], masks=True).__getitems__([0])


def test_crops_and_steps_that_do_not_fit_name_the_picture(found: Found, write: Write) -> None:
    found.test.append(Item(write("small.png", size=(8, 10))))
    split(found, center_crop=8)
    with pytest.raises(
        ShapeError, match=r"center_crop 9 x 10 must fit into the image; '.*small\.png' is 8 x 10 \(H x W\)"
    ):
        split(found, center_crop=(9, 10))
    steps = [{"class": "RandomCrop", "height": 11, "width": 10}]
    test = split(found, transform=steps).test
    with pytest.raises(ConfigError, match=r"a transform step cannot work on '.*small\.png', 8 x 10 \(H x W\): "):
        test.__getitems__([len(found.test) - 1])  # type: ignore[attr-defined] # a BatchedDataset


def test_pictures_that_differ_in_their_suffix_alone_are_told(found: Found, write: Write) -> None:
    found.train.append(Item(write("train/3.bmp")))
    with pytest.warns(
        UserWarning, match=r"'.*train/3\.png' and '.*train/3\.bmp' differ in their suffix alone \(1 such pairs\)"
    ):
        split(found)
