from __future__ import annotations

from typing import Any

import pytest
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import SyntheticStreets
from anomaly_suite.errors import ConfigError


def build(**options: Any) -> Splits:
    return SyntheticStreets(**{"train_size": 6, "val_size": 4, "test_size": 8, "flip": 0.0, **options}).require_splits()


def everything(part: Any) -> Batch:
    batch: Batch = part.batch(list(range(len(part))))
    return batch


def test_parts_and_keys() -> None:
    train, val, test = build()
    assert [len(part) for part in (train, val, test)] == [6, 4, 8]  # type: ignore[arg-type] # BatchedDatasets
    batches = [everything(part) for part in (train, val, test)]
    for batch in batches:
        assert batch["image"].shape == (len(batch["image"]), 3, 64, 128)
        assert set(batch["target"].unique().tolist()) <= {*range(7), 255}
    assert [set(batch) for batch in batches] == [
        {"image", "target", "image_path"},
        {"image", "target", "image_path", "label"},
        {"image", "target", "image_path", "label", "ood_mask"},
    ]
    assert set(batches[0]["target"].unique().tolist()) == {*range(7), 255}  # every class, and void
    assert len({path for batch in batches for path in batch["image_path"]}) == 18


def test_anomalies_are_in_three_of_four_test_scenes_alone() -> None:
    batch = everything(build(test_size=40).test)
    assert batch["label"].tolist() == [0, 1, 1, 1] * 10
    anomalous = batch["ood_mask"] == 1
    assert torch.equal(anomalous.flatten(1).any(1), batch["label"].bool())
    assert 0.02 < anomalous.float().mean() < 0.08
    assert (batch["target"][anomalous] == 255).all()
    assert torch.equal(batch["ood_mask"] == 255, (batch["target"] == 255) & ~anomalous)
    assert (batch["ood_mask"][:, -3:] == 255).all()  # the bonnet
    assert (batch["ood_mask"][:, :-4] != 255).all()


def test_unknown_objects_change_their_pixels_alone_and_fade() -> None:
    easy, hard, blank = (everything(build(difficulty=difficulty).test) for difficulty in (0.0, 0.9, 1 - 1e-9))
    inside = easy["ood_mask"] == 1
    assert torch.equal(easy["ood_mask"], hard["ood_mask"])
    strong, weak = ((batch["image"] - blank["image"]).abs().mean(1) for batch in (easy, hard))
    assert not strong[~inside].any()
    assert strong[inside].mean() > 0.1
    assert 0.05 < weak[inside].mean() / strong[inside].mean() < 0.2


def test_seed_decides_everything() -> None:
    first, again, other = everything(build().test), everything(build().test), everything(build(seed=1).test)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["ood_mask"], again["ood_mask"])
    assert not torch.equal(first["target"], other["target"])
    longer = everything(build(test_size=12).test)
    assert torch.equal(longer["image"][:8], first["image"])


def test_training_outliers() -> None:
    train = build(train_size=10, outlier_fraction=0.6).train
    assert len(train) == 16  # type: ignore[arg-type] # a BatchedDataset
    counts = (everything(train)["target"] == 254).flatten(1).sum(1)
    assert not counts[:10].any()
    assert (counts[10:] > 0).all()
    assert (counts[10:] < 0.1 * 64 * 128).all()


def test_other_sizes() -> None:
    batch = everything(build(image_size=(48, 48)).test)
    assert batch["image"].shape == (8, 3, 48, 48)
    assert batch["label"].sum() == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size must be at least 1; got 0"),
        ({"test_size": 0}, "test_size must be at least 1"),
        ({"image_size": (31, 64)}, "image_size must be at least 32 x 32 and not higher than wide; got 31 x 64"),
        ({"image_size": (64, 63)}, "not higher than wide; got 64 x 63"),
        ({"difficulty": 1.0}, r"difficulty must be in \[0, 1\); got 1.0"),
        ({"difficulty": -0.1}, "difficulty must be in"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticStreets(**options)
