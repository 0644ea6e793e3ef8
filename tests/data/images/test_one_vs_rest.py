"""The protocol of one normal class against the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from anomaly_suite.data.images.digits import Digits
from anomaly_suite.data.images.one_vs_rest import OneVsRest, Pool, one_vs_rest
from anomaly_suite.errors import ConfigError, DatasetError


class Toy(OneVsRest):
    """Three classes of 20 training and 10 test images; an image's grey level is its position in the pool."""

    classes = ("cat", "dog", "frog")

    def load(self) -> Pool:
        target = np.tile(np.arange(3), 30)
        image = torch.arange(90, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
        return Pool(image, target, np.arange(90) < 60)


def parts(**options: Any) -> dict[str, tuple[list[int], list[int]]]:
    """Positions and labels of each part."""
    data = Toy(**options)
    data.setup()
    assert data.splits is not None
    return {
        name: (part.image[:, 0, 0, 0].tolist(), part.label.tolist())
        for name, part in data.splits._asdict().items()
        if part is not None
    }


def test_official_protocol_with_held_out_normals() -> None:
    got = parts(normal_class="dog", val_size=5)
    dogs = list(range(1, 60, 3))
    assert got["test"] == (list(range(60, 90)), [int(index % 3 != 1) for index in range(60, 90)])
    assert sorted(got["train"][0] + got["val"][0]) == dogs
    assert len(got["val"][0]) == 5
    assert set(got["train"][1] + got["val"][1]) == {0}
    assert got == parts(normal_class=1, val_size=5)
    assert got["val"] != parts(normal_class=1, val_size=5, seed=1)["val"]


@pytest.mark.parametrize("validation", ["test", "none"])
def test_modes_that_hold_nothing_out(validation: Any) -> None:
    data = Toy(validation=validation)
    data.setup()
    assert data.splits is not None
    assert len(data.splits.train) == 20
    assert data.splits.val is None
    loader = data.val_dataloader()
    assert loader == [] if validation == "none" else len(loader.dataset) == 30


def test_augmented_validation_is_the_same_in_every_run() -> None:
    def validation(seed: int) -> tuple[Tensor, Tensor, list[str]]:
        data = Digits(normal_class=3, validation="augmented", val_size=12, seed=seed)
        data.setup()
        assert data.splits is not None
        assert data.splits.val is not None
        batch = data.splits.val.__getitems__(list(range(24)))
        return batch["image"], batch["label"], batch["image_path"]

    image, label, path = validation(0)
    assert label.tolist() == [0] * 12 + [1] * 12
    assert [name + "#pseudo" for name in path[:12]] == path[12:]
    assert ((image[12:] - image[:12]).abs().flatten(1).mean(1) > 0.005).all()
    again = validation(0)
    assert torch.equal(image, again[0])
    assert path == again[2]
    assert path != validation(1)[2]


def test_pooled_protocol() -> None:
    target = np.arange(30_000) % 3
    is_train = np.arange(30_000) < 21_000  # 3,000 test images of each class
    train, test, spare = one_vs_rest(target, is_train, 0, protocol="pooled_2to1", seed=0)
    normal_test = test[target[test] == 0]
    assert (len(train), len(normal_test), len(test), len(spare)) == (6_667, 3_333, 13_333, 10_000)
    assert (np.sort(np.concatenate([train, test, spare])) == np.arange(30_000)).all()
    others = test[target[test] != 0]
    assert (others >= 21_000).sum() == 6_000  # all that the test part has
    other_seed = one_vs_rest(target, is_train, 0, protocol="pooled_2to1", seed=1)
    assert len(np.intersect1d(train, other_seed.train)) < len(train)


def test_fractions_are_nested() -> None:
    picked = [set(parts(validation="none", train_fraction=share)["train"][0]) for share in (0.25, 0.5, 1.0)]
    assert [len(part) for part in picked] == [5, 10, 20]
    assert picked[0] < picked[1] < picked[2]


def test_contamination_comes_from_the_training_part_of_other_classes() -> None:
    got = parts(validation="none", contamination=0.2)
    foreign = [index for index in got["train"][0] if index % 3]
    assert len(foreign) == 5  # 5 of 25
    assert max(foreign) < 60
    assert set(got["train"][1]) == {0}
    assert got["test"] == parts()["test"]


def test_contamination_from_the_test_set_leaves_it() -> None:
    clean, mixed = Digits(normal_class=1, seed=2), Digits(normal_class=1, seed=2, contamination=0.1)
    names: dict[str, list[set[str]]] = {"train": [], "test": []}
    for data in (clean, mixed):
        data.setup()
        assert data.splits is not None
        for part in names:
            names[part].append(set(getattr(data.splits, part).names))
    foreign = names["train"][1] - names["train"][0]
    assert len(foreign) == round(len(names["train"][0]) / 9)
    assert not any(name.startswith("1/") for name in foreign)
    assert names["test"][0] - names["test"][1] == foreign


def test_too_much_contamination() -> None:
    with pytest.raises(
        ConfigError, match=r"contamination=0\.9 needs 180 anomalous images beside 20 normal ones; Toy can give 40"
    ):
        parts(validation="none", contamination=0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normal_class": 3}, "normal_class of Toy must be 0 to 2 or one of cat, dog, frog; got 3"),
        ({"normal_class": -1}, "got -1"),
        ({"normal_class": "forg"}, "Did you mean 'frog'"),
        (
            {"protocol": "pooled"},
            "protocol must be 'official' or 'pooled_2to1'; got 'pooled'. Did you mean 'pooled_2to1'",
        ),
        ({"train_fraction": 0.0}, r"train_fraction must be in \(0, 1\]; got 0.0"),
        ({"train_fraction": 1.1}, r"train_fraction must be in \(0, 1\]; got 1.1"),
        ({"contamination": 1.0}, r"contamination must be in \[0, 1\); got 1.0"),
        ({"val_size": 20}, "leaves no training item out of 20"),
        ({"image_size": 3, "pad": True}, "pad cannot shrink images of 4 px to image_size=3"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parts(**options)


def test_a_class_without_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Toy().load()
    monkeypatch.setattr(Toy, "load", lambda self: Pool(whole.image[:1], whole.target[:1], whole.is_train[:1]))
    with pytest.raises(DatasetError, match="Toy has no training image of class 'dog'"):
        parts(normal_class="dog")


def test_padding_and_resizing() -> None:
    data = Toy(image_size=7, pad=True, validation="none")
    data.setup()
    assert data.splits is not None
    image = data.splits.train.__getitems__([5])["image"][0, 0]
    assert (image[1:5, 1:5] * 255 == 15).all()
    assert image.sum() * 255 == 15 * 16

    data = Toy(image_size=2, validation="none")
    data.setup()
    assert data.splits is not None
    assert (data.splits.train.__getitems__([5])["image"] * 255 == 15).all()


def jitter(image: Tensor, generator: Generator) -> Tensor:
    return image + torch.rand(len(image), 1, 1, 1, generator=generator)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_transform_is_for_training_alone_and_changes_with_the_epoch(workers: int) -> None:
    data = Toy(train_transform=jitter, train_batch_size=20, eval_batch_size=30, validation="none", num_workers=workers)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr] # a ShardSampler
        (batch,) = loader
        epochs.append(batch["image"])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    (batch,) = data.test_dataloader()
    assert torch.equal(batch["image"][:, 0, 0, 0], torch.arange(60, 90) / 255)
    assert set(batch) == {"image", "label", "image_path"}
