"""Training scenes with outliers, drawn anew every epoch; evaluation scenes with their truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import as_batch
from anomaly_suite.data import SyntheticStreets
from anomaly_suite.data.scenes.datasets import EvaluationScenes, TrainingScenes
from anomaly_suite.data.scenes.labels import label_table
from anomaly_suite.errors import ConfigError, DatasetError, ShapeError

Write = Callable[..., Path]


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
