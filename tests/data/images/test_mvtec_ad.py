"""MVTecAD on a tiny look-alike, one test for every way in which a copy can be wrong, and on a real set."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import MVTecAD
from anomaly_suite.errors import DatasetError, DatasetNotFoundError, ImageReadError, ShapeError

Make = Callable[..., Path]


def build(root: Path, **options: Any) -> Splits:
    data = MVTecAD(root=str(root), **options)
    data.setup()
    assert data.splits is not None
    return data.splits


def paths(part: Any) -> list[str]:
    return [str(item.path) for item in part.items]


def everything(part: Any) -> Batch:
    batch: Batch = part.__getitems__(list(range(len(part))))
    return batch


def test_images_labels_and_masks(mvtec: Make) -> None:
    root = mvtec()
    train, val, test = build(root, image_size=None, val_size=2)
    assert val is not None
    assert [len(part) for part in (train, val, test)] == [8, 2, 7]
    batch = everything(test)
    assert batch["label"].tolist() == [1, 1, 0, 0, 0, 1, 1]  # broken, good, scratch
    for row, path in enumerate(batch["image_path"]):
        wanted = torch.from_numpy(cv2.imread(path)[..., ::-1] / np.float32(255)).permute(2, 0, 1)
        assert torch.equal(batch["image"][row], wanted)
        quarter = torch.zeros(1, 12, 10, dtype=torch.bool)
        quarter[:, :6, :5] = "good" not in path
        assert torch.equal(batch["mask"][row], quarter)
    assert set(everything(train)) == {"image", "label", "image_path"}
    assert not everything(train)["label"].any()
    assert not everything(val)["mask"].any()


def test_loaders_yield_the_same_images(mvtec: Make) -> None:
    data = MVTecAD(root=str(mvtec()), image_size=16, train_batch_size=4, eval_batch_size=4)
    seen = [path for batch in data.train_dataloader() for path in batch["image_path"]]
    seen += [path for batch in data.val_dataloader() for path in batch["image_path"]]  # type: ignore[union-attr] # one loader
    assert len(set(seen)) == 10
    batches = list(data.test_dataloader())
    assert [tuple(batch["mask"].shape) for batch in batches] == [(4, 1, 16, 16), (3, 1, 16, 16)]


def test_resize_and_crop_keep_masks_in_step(mvtec: Make) -> None:
    root = mvtec(size=(32, 32))
    batch = everything(build(root, image_size=64, center_crop=(32, 48)).test)
    assert batch["image"].shape == (7, 3, 32, 48)
    mask = torch.zeros(32, 48, dtype=torch.bool)
    mask[:16, :24] = True
    assert torch.equal(batch["mask"][0, 0], mask)


def test_grey_images(mvtec: Make) -> None:
    assert everything(build(mvtec(), channels=1).train)["image"].shape == (9, 1, 256, 256)


def test_train_transform_repeats_by_seed_and_epoch_for_training_alone(mvtec: Make) -> None:
    root = mvtec(size=(16, 16))
    steps = [{"class": "RandomBrightnessContrast", "p": 1.0}]

    def draw(epoch: int, order: list[int], **options: Any) -> torch.Tensor:
        train = build(root, image_size=16, train_transform=steps, **options).train
        train.epoch = epoch  # type: ignore[attr-defined] # what the sampler does
        image: torch.Tensor = train.__getitems__(order)["image"]  # type: ignore[attr-defined] # a BatchedDataset
        return image

    first = draw(0, [0, 1, 2])
    assert torch.equal(first, draw(0, [2, 1, 0]).flip(0))  # an item's draws do not depend on its batch
    assert not torch.equal(first, draw(1, [0, 1, 2]))
    with_steps, without = (build(root, image_size=16, train_transform=chosen) for chosen in (steps, None))
    assert torch.equal(everything(with_steps.test)["image"], everything(without.test)["image"])
    assert not hasattr(with_steps.test, "epoch")


def test_transform_is_for_all_images(mvtec: Make) -> None:
    root = mvtec(size=(16, 16))
    turned = build(root, image_size=16, transform=[{"class": "VerticalFlip", "p": 1.0}]).test
    plain = everything(build(root, image_size=16).test)
    assert torch.equal(everything(turned)["image"], plain["image"].flip(2))
    assert torch.equal(everything(turned)["mask"], plain["mask"].flip(2))


def test_augmented_validation(mvtec: Make) -> None:
    root = mvtec(size=(16, 16))
    got = [everything(build(root, image_size=16, validation="augmented", val_size=3).val) for _ in range(2)]
    assert got[0]["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert "mask" not in got[0]
    assert torch.equal(got[0]["image"], got[1]["image"])


def test_several_categories_are_mixed(mvtec: Make) -> None:
    for category in ("bottle", "screw", "zipper"):
        root = mvtec(category)
    train, _, test = build(root, category=["zipper", "bottle"], image_size=8)
    batch = everything(test)
    assert batch["category"] == ["zipper"] * 7 + ["bottle"] * 7
    assert all(f"/{name}/" in path for name, path in zip(batch["category"], batch["image_path"], strict=True))
    assert set(everything(train)["category"]) == {"zipper", "bottle"}
    assert set(everything(build(root, category="all").test)["category"]) == {"bottle", "screw", "zipper"}
    assert "category" not in everything(build(root, category=["screw"]).test)


def test_splits_do_not_depend_on_the_order_of_the_directory(mvtec: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mvtec()
    before = [paths(part) for part in build(root)]
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listing(self), reverse=True))
    assert [paths(part) for part in build(root)] == before
    assert [paths(part) for part in build(root, seed=1)] != before


def test_unknown_category_names_the_nearest(mvtec: Make) -> None:
    root = mvtec("bottle")
    mvtec("cable")
    with pytest.raises(
        DatasetNotFoundError, match=r"no category 'botle' in root='.*'\. Found bottle, cable\. Did you mean 'bottle'\?"
    ):
        build(root, category="botle")


def test_wrong_level(mvtec: Make, tmp_path: Path) -> None:
    root = mvtec()
    for wrong in (root / "bottle", root / "bottle" / "train"):
        with pytest.raises(DatasetNotFoundError, match=f"root should be '{root}'"):
            build(wrong)
    inner = tmp_path / "mvtec_anomaly_detection"
    inner.mkdir()
    shutil.move(root / "bottle", inner)
    with pytest.raises(DatasetNotFoundError, match=f"root should be '{inner}'"):
        build(tmp_path)


def test_missing_root_and_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DatasetNotFoundError, match=r"MVTecAD expects .*root='nowhere', which does not exist.*after a form"
    ):
        build(Path("nowhere"))
    monkeypatch.setenv("ANOMALY_SUITE_DATA", str(tmp_path))
    (tmp_path / "mvtec_ad").mkdir()
    (tmp_path / "another_set" / "train").mkdir(parents=True)  # no reason to recommend the folder above
    with pytest.raises(DatasetNotFoundError, match=r"found nothing\. The archive comes from"):
        MVTecAD().setup()
    (tmp_path / "mvtec_ad" / "mvtec_anomaly_detection.tar.xz").touch()
    with pytest.raises(
        DatasetNotFoundError, match=r"holds the archive 'mvtec_anomaly_detection.tar.xz'. Unpack it in '.*mvtec_ad'"
    ):
        MVTecAD().setup()


@pytest.mark.parametrize("folder", ["train/good", "test"])
@pytest.mark.parametrize("emptied", [True, False])
def test_missing_or_empty_folders(mvtec: Make, folder: str, emptied: bool) -> None:
    root = mvtec()
    shutil.rmtree(root / "bottle" / folder)
    if emptied:
        (root / "bottle" / folder).mkdir()
    with pytest.raises(
        DatasetNotFoundError, match=f"bottle/{folder}', which {'holds no image' if emptied else 'does not exist'}"
    ):
        build(root)


def test_merged_test_folders(mvtec: Make) -> None:
    root = mvtec()
    (root / "bottle/test/good").rename(root / "bottle/test/0")
    with pytest.raises(DatasetError, match=r"bottle/test' has no folder 'good'; found 0, broken, scratch"):
        build(root)


def test_anomalous_training_images(mvtec: Make, write: Make) -> None:
    write("bottle/train/broken/000.png")
    with pytest.raises(DatasetError, match=r"train/broken/000.png' is anomalous, but one-class training"):
        build(mvtec())


def test_image_without_mask(mvtec: Make) -> None:
    root = mvtec()
    (root / "bottle/ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"scratch/001.png' has no mask; looked for '.*ground_truth/scratch/001_mask.png' \(1 images.*Folder",
    ):
        build(root)
    shutil.rmtree(root / "bottle/ground_truth")
    with pytest.raises(DatasetError, match=r"broken/000.png' has no mask.*\(4 images"):
        build(root)


def test_mask_without_image(mvtec: Make) -> None:
    root = mvtec()
    (root / "bottle/test/broken/000.png").unlink()
    with pytest.raises(
        DatasetError, match=r"ground_truth/broken/000_mask.png' has no image; expected one named 'broken/000'"
    ):
        build(root)


def test_mask_of_another_size(mvtec: Make, write: Make) -> None:
    root = mvtec()
    write("bottle/ground_truth/broken/000_mask.png", np.full((5, 10), 255, np.uint8))
    with pytest.raises(DatasetError, match=r"000_mask.png' is 5 x 10, but its image '.*broken/000.png' is 12 x 10"):
        build(root)


def test_training_image_repeated_in_test(mvtec: Make) -> None:
    root = mvtec()
    shutil.copy(root / "bottle/train/good/003.png", root / "bottle/test/good/001.png")
    with pytest.raises(
        DatasetError, match=r"test image '.*good/001.png' has the same content as the training image '.*good/003.png'"
    ):
        build(root)


def test_truncated_test_image_is_found_before_training(mvtec: Make) -> None:
    root = mvtec()
    path = root / "bottle/test/scratch/000.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageReadError, match=r"scratch/000.png' \(100 bytes\) is truncated"):
        build(root)


def test_sizes_that_do_not_stack(mvtec: Make, write: Make) -> None:
    root = mvtec()
    write("bottle/train/good/004.png", size=(9, 9))
    with pytest.raises(ShapeError, match=r"000.png' is \(12, 10\) and '.*004.png' is \(9, 9\).*Set image_size"):
        everything(build(root, image_size=None, validation="none").train)


def test_junk_files_change_nothing(mvtec: Make) -> None:
    root = mvtec()
    before = [paths(part) for part in build(root)]
    for name in ("train/good/._000.png", "test/good/.DS_Store", "ground_truth/broken/Thumbs.db", "license.txt"):
        (root / "bottle" / name).write_bytes(b"junk")
    (root / "__MACOSX" / "train").mkdir(parents=True)
    assert [paths(part) for part in build(root, category="all")] == before


def test_a_subset_is_logged(mvtec: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        build(mvtec())
    assert "bottle': 10 training, 3 normal and 4 anomalous test images" in caplog.text
    assert "published 209, 20 and 63" in caplog.text


def test_real_industrial_set(real_data: Path) -> None:
    root = real_data / "magnetic_tile"
    if not root.is_dir():
        pytest.skip("no magnetic tile set")
    train, val, test = build(root, category="tile", val_size=52, image_size=64)
    assert val is not None
    assert [len(part) for part in (train, val, test)] == [700, 52, 592]
    assert sum(item.label for item in test.items) == 392
    batch = test.__getitems__([0, 300])
    assert batch["label"].tolist() == [1, 0]
    assert batch["mask"].flatten(1).any(1).tolist() == [True, False]


def test_truth_that_contradicts_itself(mvtec: Make, write: Make) -> None:
    root = mvtec("gro\u0308sse")  # as some systems store it
    assert len(build(root, category="gr\u00f6sse").test) == 7  # type: ignore[arg-type] # a BatchedDataset
    write("gro\u0308sse/ground_truth/scratch/000_mask.bmp", np.full((12, 10), 255, np.uint8))
    with pytest.raises(DatasetError, match=r"'.*000_mask\.bmp' and '.*000_mask\.png' are masks of one name"):
        build(root, category="gr\u00f6sse")
    (root / "gro\u0308sse/ground_truth/scratch/000_mask.bmp").unlink()
    write("gro\u0308sse/ground_truth/good/000_mask.png", np.full((12, 10), 255, np.uint8))
    with pytest.raises(
        DatasetError, match=r"good/000_mask\.png' marks 120 pixels as anomalous, but its image is labelled normal"
    ):
        build(root, category="gr\u00f6sse")
    with pytest.raises(DatasetError, match="is in the training part, and in the training part before"):
        build(mvtec("cable"), category=["cable", "cable"])
