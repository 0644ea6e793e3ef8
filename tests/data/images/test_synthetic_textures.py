from __future__ import annotations

from typing import Any

import pytest
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import SyntheticTextures
from anomaly_suite.data.images.synthetic_textures import Weave, plant_defects
from anomaly_suite.errors import ConfigError


def build(**options: Any) -> Splits:
    data = SyntheticTextures(**options)
    data.setup()
    assert data.splits is not None
    return data.splits


def everything(part: Any) -> Batch:
    batch: Batch = part.__getitems__(list(range(len(part))))
    return batch


def test_sizes_labels_and_masks() -> None:
    train, val, test = build(train_size=100, test_size=31, val_anomalies=7, image_size=48)
    assert [len(part) for part in (train, val, test)] == [90, 17, 31]
    assert everything(val)["label"].tolist() == [0] * 10 + [1] * 7
    batch = everything(test)
    assert batch["label"].tolist() == [0] * 16 + [1] * 15
    assert torch.equal(batch["mask"].flatten(1).any(1), batch["label"].bool())
    assert batch["image"].shape == (31, 3, 48, 48)
    assert set(everything(train)) == {"image", "label", "image_path"}
    paths = [path for part in (train, val, test) for path in everything(part)["image_path"]]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    ("validation", "labels"), [("augmented", [0, 0, 1, 1]), ("medmix", [0, 0, 1, 1]), ("holdout", [0, 0, 1])]
)
def test_validation(validation: str, labels: list[int]) -> None:
    val = build(validation=validation, val_size=2, val_anomalies=1, image_size=16).val
    assert everything(val)["label"].tolist() == labels
    assert build(validation="none").val is None


def test_the_seed_repeats_and_changes_everything() -> None:
    first, again, other = (everything(build(seed=seed).test)["image"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_defects_change_their_mask_only() -> None:
    generator = torch.Generator().manual_seed(0)
    weave = Weave.draw(generator, 3)
    clean = weave.render(6 * torch.rand(40, 2, generator=generator), 32)
    assert clean.min() >= 0
    assert clean.max() <= 1
    broken, mask = plant_defects(clean, weave, strength=1.0, generator=generator)
    assert mask.flatten(1).any(1).all()
    assert torch.equal(torch.where(mask, 0.0, broken), torch.where(mask, 0.0, clean))
    inside = ((broken - clean).abs() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
    assert inside.min() > 0.05


def contrast(difficulty: float) -> float:
    """Mean distance of defect pixels to their image's mean, over that of its other pixels."""
    batch = everything(build(difficulty=difficulty, test_size=64).test)
    image, mask = batch["image"][32:], batch["mask"][32:].expand(-1, 3, -1, -1)
    distance = (image - image.mean((2, 3), keepdim=True)).abs()
    return float(distance[mask].mean() / distance[~mask].mean())


def test_difficulty_lowers_the_contrast() -> None:
    assert contrast(0.0) > contrast(0.5) > contrast(0.9) > 0.8
    assert contrast(0.0) > 1.5


def test_grey() -> None:
    assert everything(build(channels=1, image_size=16).train)["image"].shape[1:] == (1, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size must be at least 1; got 0"),
        ({"test_size": 1}, "test_size must be at least 2; got 1"),
        ({"val_anomalies": -1}, "val_anomalies must be at least 0; got -1"),
        ({"image_size": 15}, "image_size must be at least 16; got 15"),
        ({"difficulty": 1.0}, r"difficulty must be in \[0, 1\); got 1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticTextures(**options)
