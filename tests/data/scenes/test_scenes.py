"""What all driving-scene data modules share: reading, tables, crops, mixing, loaders."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_suite.contract import as_batch
from anomaly_suite.data import CamVid, SyntheticStreets
from anomaly_suite.data.files import read_image
from anomaly_suite.data.scenes.scenes import (
    CropScenes,
    EvaluationScenes,
    TrainingScenes,
    label_table,
    read_label,
    relabel,
    resize,
)
from anomaly_suite.errors import ConfigError, DatasetError, ImageReadError, ShapeError
from anomaly_suite.nn.encoders import standardize

Write = Callable[..., Path]
COLOURS = np.array([(250, 10, 20), (10, 240, 30), (20, 30, 230), (200, 200, 10)], np.uint8)


def crop(**options: Any) -> CropScenes:
    return CropScenes(**{"size": None, "flip": 0.0, "scales": [1.0], "scale_range": None, "steps": [], **options})


def blocks(height: int = 24, width: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """A target of blocks of 6 px and an image whose colour is the target's."""
    target = (
        np.random.default_rng(0).integers(0, 4, (height // 6, width // 6)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
    )
    return COLOURS[target], target


def run(crop: CropScenes, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    image, target = crop(*blocks(), rng=np.random.default_rng(seed), words=(seed,))
    return image.permute(1, 2, 0).numpy() * 255, target.numpy()


# Reading ---------------------------------------------------------------------------------------------------------


def test_palette_labels_are_indices_not_colours(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, (9, 7)).astype(np.uint8)
    file = Image.fromarray(values)
    file = file.convert("P")
    file.putpalette([200, 30, 40, 1, 2, 3, 250, 250, 250, 9, 8, 7, 100, 100, 5])
    file.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert (read_label(tmp_path / "a.png") == values).all()


def test_16_bit_labels_are_read_whole(write: Write) -> None:
    values = np.array([[7, 255], [0, 33]], np.uint16)
    assert read_label(write("a.png", values)).tolist() == values.tolist()
    with pytest.raises(DatasetError, match=r"b\.png' holds numbers up to 26001; .* not that of instances"):
        read_label(write("b.png", np.array([[7, 26001]], np.uint16)))


def test_coloured_labels_are_refused(write: Write) -> None:
    with pytest.raises(DatasetError, match=r"a\.png' must hold one number a pixel; its mode is RGB"):
        read_label(write("a.png"))


def test_damaged_labels_are_named(tmp_path: Path, write: Write) -> None:
    path = write("a.png", np.random.default_rng(0).integers(0, 5, (90, 70)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageReadError, match=r"a\.png"):
        read_label(path)
    (tmp_path / "b.png").write_bytes(b"no image" * 20)
    with pytest.raises(ImageReadError, match=r"b\.png' is not a readable image"):
        read_label(tmp_path / "b.png")


def test_gamma_chunks_of_images_are_ignored(tmp_path: Path, write: Write) -> None:
    path = write("a.png")
    plain = read_image(path)
    data = path.read_bytes()
    content = b"gAMA" + (100_000).to_bytes(4, "big")  # exponent 1: applied, it would lighten every pixel
    chunk = (4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    path.write_bytes(data[:33] + chunk + data[33:])  # after the header chunk
    assert Image.open(path).info["gamma"] == 1.0
    assert (read_image(path) == plain).all()


@pytest.mark.parametrize("suffix", ["webp", "jpg", "png"])
def test_images_of_any_format(tmp_path: Path, suffix: str) -> None:
    smooth = np.linspace(20, 220, 32 * 48).reshape(32, 48)[..., None].repeat(3, 2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}")
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - smooth).max() <= 8


def test_tables_map_and_refuse() -> None:
    table = label_table({7: 0, 8: 1}, void=[0])
    label = np.array([[7, 8], [0, 255]], np.uint8)
    assert relabel(label, table, source="a").tolist() == [[0, 1], [255, 255]]
    with pytest.raises(
        DatasetError, match=r"label of 'a' holds 9, which is no label of this data set \(2 such values\)"
    ):
        relabel(np.array([[7, 9, 13]], np.uint8), table, source="a")


# Crops -----------------------------------------------------------------------------------------------------------


def test_without_options_nothing_changes() -> None:
    image, target = run(crop())
    assert (image.round() == blocks()[0]).all()
    assert (target == blocks()[1]).all()


def test_flips_are_joint_and_as_frequent_as_asked() -> None:
    flipped = 0
    for seed in range(200):
        image, target = run(crop(flip=0.25), seed)
        assert (image.round() == COLOURS[target]).all()
        flipped += bool((target == blocks()[1][:, ::-1]).all())
    assert 30 <= flipped <= 70


def test_crops_lie_inside_and_reach_every_place() -> None:
    image, target = blocks()
    numbered = np.arange(target.size).reshape(target.shape)
    image[..., 0], image[..., 1] = numbered // 256, numbered % 256  # every pixel tells its place
    places = set()
    for seed in range(300):
        got, part = crop(size=(20, 30))(image, target, rng=np.random.default_rng(seed), words=(seed,))
        codes = (got[:2] * 255).round().long()
        where = codes[0] * 256 + codes[1]
        top, left = divmod(int(where[0, 0]), 36)
        places.add((top, left))
        assert (where.numpy() == numbered[top : top + 20, left : left + 30]).all()
        assert (part.numpy() == target[top : top + 20, left : left + 30]).all()
    assert places == {(top, left) for top in range(5) for left in range(7)}


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_image_and_target_stay_in_step_when_scaled(factor: float) -> None:
    image, target = run(crop(scales=[factor], size=(round(24 * factor), round(36 * factor))))
    rows, columns = (((np.arange(length) + 0.5) / factor).astype(int) for length in target.shape)
    assert (target == blocks()[1][rows][:, columns]).all()
    near = np.abs(image - COLOURS[target]).max(2) < 60
    assert near.mean() > 0.75  # all but pixels between blocks, which are blended
    assert (np.abs(image - COLOURS[np.roll(target, 2, 1)]).max(2) < 60).mean() < near.mean() - 0.05


def test_scales_are_drawn_from_the_list_or_range() -> None:
    def heights(**options: Any) -> set[int]:
        # On a large canvas, what is not void is the scaled scene.
        return {int((run(crop(size=100, **options), seed)[1] != 255).any(1).sum()) for seed in range(100)}

    assert heights(scales=[0.5, 1.0, 2.0]) == {12, 24, 48}
    drawn = heights(scales=[3.0], scale_range=(0.5, 1.5))
    assert min(drawn) >= 12
    assert max(drawn) <= 36
    assert len(drawn) > 15


def test_padding_is_central_and_zero_once_standardised() -> None:
    image, target = crop(size=(31, 50))(*blocks(), rng=np.random.default_rng(0), words=(0,))
    inside = np.zeros((31, 50), bool)
    inside[3:27, 7:43] = True
    assert (target.numpy()[inside].reshape(24, 36) == blocks()[1]).all()
    assert (target.numpy()[~inside] == 255).all()
    assert not standardize(image[None])[0][:, torch.from_numpy(~inside)].any()
    assert ((image * 255).round().permute(1, 2, 0).numpy()[inside].reshape(24, 36, 3) == blocks()[0]).all()


def test_steps_change_colours_inside_the_padding_alone() -> None:
    steps = [{"class": "InvertImg", "p": 1.0}]
    image, target = crop(size=(30, 40), steps=steps)(*blocks(), rng=np.random.default_rng(0), words=(0,))
    plain, _ = crop(size=(30, 40))(*blocks(), rng=np.random.default_rng(0), words=(0,))
    void = target == 255
    assert torch.equal(image[:, void], plain[:, void])
    assert torch.allclose(image[:, ~void], 1 - plain[:, ~void], atol=1e-6)
    with pytest.raises(ConfigError, match="train_transform must keep the size"):
        run(crop(steps=[{"class": "RandomCrop", "height": 4, "width": 4}]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size must be positive; got 0"),
        ({"flip": 1.5}, r"flip is a probability in \[0, 1\]; got 1.5"),
        ({"scales": []}, r"scales needs factors above 0; got \[\]"),
        ({"scales": [0.0]}, r"scales needs factors above 0; got \[0.0\]"),
        ({"scale_range": (2.0, 1.0)}, r"scale_range is a smallest and a largest factor above 0; got \[2.0, 1.0\]"),
        ({"outlier_rescale": (0.0, 1.0)}, "outlier_rescale is a smallest and a largest factor"),
        ({"outlier_fraction": -0.1}, "outlier_fraction must be at least 0; got -0.1"),
        ({"outlier_share": 0.0}, r"outlier_share must be in \(0, 1\]; got 0.0"),
        ({"validation": "augmented"}, "validation of driving scenes is holdout, test or none; got 'augmented'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticStreets(**options)


def test_resize_averages_areas_and_keeps_label_numbers() -> None:
    image, target = blocks()
    small, label = resize(image, target, (8, 12))
    assert (small == image.reshape(8, 3, 12, 3, 3).mean((1, 3)).round()).all()
    assert (label == target[1::3, 1::3]).all()  # the middle of each 3 x 3, so in step with the average
    assert set(np.unique(resize(image, target, (31, 47))[1])) <= set(np.unique(target))


# Training sets ---------------------------------------------------------------------------------------------------


def streets(**options: Any) -> SyntheticStreets:
    data = SyntheticStreets(train_size=10, val_size=2, test_size=4, image_size=(32, 48), **options)
    data.setup()
    return data


def training(data: Any, epoch: int = 0) -> TrainingScenes:
    train: TrainingScenes = data.splits.train
    train.epoch = epoch
    return train


def test_draws_repeat_by_seed_epoch_and_index_alone() -> None:
    options: dict[str, Any] = {
        "outlier_fraction": 0.5,
        "scales": [0.75, 1.0],
        "crop_size": 28,
        "train_transform": [{"class": "RandomBrightnessContrast", "p": 1.0}],
    }
    order = [0, 3, 11, 14]
    first = training(streets(**options)).batch(order)
    again = training(streets(**options)).batch(order[::-1])  # whatever the batch
    assert torch.equal(first["image"], again["image"].flip(0))
    assert torch.equal(first["target"], again["target"].flip(0))
    other = training(streets(**options), epoch=1).batch(order)
    assert not torch.equal(first["image"][0], other["image"][0])
    assert not torch.equal(first["image"], training(streets(seed=1, **options)).batch(order)["image"])


def test_outliers_are_added_and_drawn_anew_each_epoch() -> None:
    train = training(streets(outlier_fraction=0.5))
    assert len(train) == 15
    drawn = []
    for epoch in range(4):
        train.epoch = epoch
        targets = train.batch(list(range(15)))["target"]
        assert (targets == 254).flatten(1).any(1).tolist() == [False] * 10 + [True] * 5
        drawn.append(train.drawn().tolist())
        assert len(set(drawn[-1])) == 5
    assert len({number for numbers in drawn for number in numbers}) == 20
    assert (
        len(training(streets(outlier_fraction=0.0)))
        == len(training(streets(outliers=None, outlier_fraction=0.5)))
        == 10
    )
    with pytest.raises(ConfigError, match=r"outlier_fraction=0\.05 of 10 training scenes is none"):
        streets(outlier_fraction=0.05)


def test_a_share_of_the_pool_is_drawn_by_the_seed_alone() -> None:
    def used(**options: Any) -> set[int]:
        train, found = training(streets(outlier_fraction=1.0, **options)), set()
        for epoch in range(6):
            train.epoch = epoch
            found |= set(train.drawn().tolist())
        return found

    pool = len(training(streets(outlier_fraction=1.0)).mix.pool)  # type: ignore[union-attr] # there are outliers
    part = used(outlier_share=8 / pool)
    assert len(part) == 8
    assert used(outlier_share=8 / pool) == part
    assert used(outlier_share=8 / pool, seed=1) != part
    assert len(used()) > 8


def test_backgrounds_are_uniformly_random_training_scenes() -> None:
    train = training(streets(outlier_fraction=1.0))
    seen = []
    for epoch in range(30):
        train.epoch = epoch
        seen += train.batch(list(range(10, 20)))["image_path"]
    assert set(seen) == set(train.source.names)


def test_a_pool_smaller_than_the_epoch_goes_round(write: Write, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(f"pool/images/{name}.png")
        write(f"pool/masks/{name}.png", np.full((12, 10), 255, np.uint8))
    train = training(streets(outliers=str(tmp_path / "pool"), outlier_fraction=0.8))
    assert np.bincount(train.drawn()).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_one_pasted_cutout_has_exactly_its_pixels(write: Write, tmp_path: Path) -> None:
    mask = np.zeros((12, 10), np.uint8)
    mask[2:9, 3:8] = 255
    write("pool/images/a.png")
    write("pool/masks/a.png", mask)
    train = training(streets(outliers=str(tmp_path / "pool"), outlier_fraction=1.0, flip=0.5))
    targets = train.batch(list(range(20)))["target"]
    assert (targets == 254).flatten(1).sum(1).tolist() == [0] * 10 + [35] * 10
    small = training(streets(outliers=str(tmp_path / "pool"), outlier_fraction=1.0, outlier_rescale=(0.4, 0.4)))
    assert (small.batch([15])["target"] == 254).sum() == 3 * 2


def test_on_road_outliers_stand_on_the_road(write: Write, tmp_path: Path) -> None:
    write("pool/images/a.png", size=(4, 5))
    write("pool/masks/a.png", np.full((4, 5), 255, np.uint8))
    data = streets(outliers=str(tmp_path / "pool"), outlier_fraction=1.0, outlier_on_road=True, flip=0.0)
    train = training(data)
    batch = train.batch(list(range(10, 20)))
    for name, target in zip(batch["image_path"], batch["target"].numpy(), strict=True):
        rows, columns = np.nonzero(target == 254)
        label = train.source.read(train.source.names.index(name))[1]
        assert label[rows.max(), columns.min() + 2] == 0


def test_workers_and_the_main_process_give_the_same_batches() -> None:
    def first_epoch(workers: int) -> list[torch.Tensor]:
        data = streets(outlier_fraction=0.5, num_workers=workers, train_batch_size=4)
        return [batch["image"] for batch in data.train_dataloader()]

    with_workers, without = first_epoch(2), first_epoch(0)
    assert [len(image) for image in without] == [4, 4, 4, 3]
    assert all(torch.equal(one, other) for one, other in zip(with_workers, without, strict=True))


def test_padding_of_another_process_is_marked() -> None:
    batch = training(streets())[-3]
    assert batch["padding"].tolist() == [True]
    assert torch.equal(batch["image"], training(streets()).batch([2])["image"])


# Evaluation sets -------------------------------------------------------------------------------------------------


class Memory:
    def __init__(self, *labels: np.ndarray) -> None:
        self.labels = labels
        self.names = [f"scene{index}" for index in range(len(labels))]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        label = self.labels[index].astype(np.uint8)
        return np.full((*label.shape, 3), index * 50, np.uint8), label


def test_evaluation_batches_have_keys_types_and_labels() -> None:
    target, ood_mask = label_table({0: 0, 1: 1}, void=[2]), label_table({0: 0, 1: 0, 2: 1})
    labels = np.array([[0, 1, 255]]), np.array([[2, 2, 0]])
    batch = EvaluationScenes(Memory(*labels), tables={"target": target, "ood_mask": ood_mask}).batch([0, 1])
    assert batch["target"].tolist() == [[[0, 1, 255]], [[255, 255, 0]]]
    assert batch["ood_mask"].tolist() == [[[0, 0, 255]], [[1, 1, 0]]]
    assert batch["label"].tolist() == [0, 1]
    assert (batch["target"].dtype, batch["ood_mask"].dtype, batch["image"].dtype) == (
        torch.int64,
        torch.uint8,
        torch.float32,
    )
    assert torch.equal(batch["image"][1], torch.full((3, 1, 3), 50 / 255))
    assert set(as_batch(batch)) == {"image", "image_path", "target", "ood_mask", "label"}


def test_region_limits_what_is_scored() -> None:
    tables = {"ood_mask": label_table({0: 0, 1: 1})}
    region = np.array([[True, False, False]])
    batch = EvaluationScenes(Memory(np.array([[0, 0, 1]])), tables=tables, region=region).batch([0])
    assert batch["ood_mask"].tolist() == [[[0, 255, 255]]]
    assert batch["label"].tolist() == [0]  # the anomaly lies outside
    with pytest.raises(DatasetError, match=r"region of interest is \(1, 3\), but 'scene0' is \(2, 2\)"):
        EvaluationScenes(Memory(np.zeros((2, 2))), tables=tables, region=region).batch([0])


def test_scenes_of_two_sizes_cannot_share_a_batch() -> None:
    scenes = EvaluationScenes(Memory(np.zeros((2, 2)), np.zeros((3, 2))), tables={"target": label_table({0: 0})})
    with pytest.raises(ShapeError, match=r"'scene0' is \(2, 2\) and 'scene1' is \(3, 2\).*batch size of 1"):
        scenes.batch([0, 1])
    assert scenes.batch([1])["image"].shape == (1, 3, 3, 2)


def test_image_and_label_of_two_sizes_are_refused(write: Write, tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write(f"{part}/{part}.png", size=(10, 12))
        write(f"{part}annot/{part}.png", np.zeros((5, 6) if part == "test" else (10, 12), np.uint8))
    data = CamVid(root=str(tmp_path))
    data.setup()
    assert data.splits is not None
    assert data.splits.train.batch([0])["target"].shape == (1, 10, 12)  # type: ignore[attr-defined] # a BatchedDataset
    with pytest.raises(DatasetError, match=r"testannot/test.png' is \(5, 6\), but its image .* is \(10, 12\)"):
        data.splits.test.batch([0])  # type: ignore[attr-defined] # a BatchedDataset


def test_validation_modes() -> None:
    assert len(list(streets().val_dataloader())) == 2
    assert streets(validation="none").val_dataloader() == []
    first = next(iter(streets(validation="test").val_dataloader()))
    assert set(first) == {"image", "image_path", "target", "ood_mask", "label"}
    assert "ood_mask" not in next(iter(streets().val_dataloader()))
