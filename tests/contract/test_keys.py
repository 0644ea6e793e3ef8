"""Names that others give to the keys of batches and predictions."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_suite.contract import as_batch, as_prediction
from anomaly_suite.contract.batch import names_in
from anomaly_suite.contract.keys import OF_BATCHES
from anomaly_suite.errors import ConfigError, ShapeError

IMAGE = torch.rand(3, 1, 4, 5)
LABEL = torch.tensor([0, 1, 1])
CLASSES = torch.tensor([0, 1, 7])
MASK = torch.zeros(3, 4, 5, dtype=torch.bool)
MASK[1:, 1:3, 2:4] = True
Pair = namedtuple("Pair", ["image", "is_anomaly"])


@dataclass
class Item:
    image: Tensor
    gt_label: Tensor
    gt_mask: Tensor
    explanation: str = "kept"


@pytest.mark.parametrize("name", OF_BATCHES["label"])
@pytest.mark.parametrize("value", [LABEL, LABEL.bool(), LABEL.float()[:, None], LABEL.tolist(), LABEL.numpy()])
def test_every_common_name_of_a_label_is_read(name: str, value: Any) -> None:
    batch = as_batch({"image": IMAGE, name: value})
    assert batch["label"].tolist() == [0, 1, 1]
    assert name not in batch


@pytest.mark.parametrize("name", OF_BATCHES["mask"])
@pytest.mark.parametrize("value", [MASK, MASK[:, None].float(), (255 * MASK.byte()).numpy()])
def test_every_common_name_of_a_mask_is_read(name: str, value: Any) -> None:
    batch = as_batch({"image": IMAGE, name: value})
    assert torch.equal(batch["mask"], MASK[:, None])
    assert batch["label"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "raw",
    [
        Item(IMAGE, LABEL, MASK),
        Pair(IMAGE, LABEL),
        SimpleNamespace(image=IMAGE, targets=LABEL),
        (IMAGE, LABEL, ["a", "b", "c"]),
        (IMAGE, {"labels": LABEL}),
    ],
    ids=["dataclass", "named tuple", "attributes", "paths", "nested"],
)
def test_what_is_no_mapping_is_read_too(raw: Any) -> None:
    batch = as_batch(raw)
    assert batch["label"].tolist() == [0, 1, 1]
    if isinstance(raw, Item):
        assert torch.equal(batch["mask"], MASK[:, None])
        assert batch["explanation"] == "kept"  # type: ignore[typeddict-item] # another key
    if isinstance(raw, tuple) and len(raw) == 3:
        assert batch["image_path"] == ["a", "b", "c"]


def test_places_of_a_tuple_can_be_named() -> None:
    batch = as_batch((IMAGE, CLASSES, MASK, LABEL), key_map={"image": "0", "label": "3", "mask": "2"})
    assert batch["label"].tolist() == [0, 1, 1]
    assert torch.equal(batch["mask"], MASK[:, None])
    assert as_batch((IMAGE, LABEL, torch.arange(3))).keys() == {"image", "label", "numbers"}


def test_our_own_name_comes_first() -> None:
    batch = as_batch({"image": IMAGE, "labels": 1 - LABEL, "label": LABEL, "gt_label": 1 - LABEL})
    assert batch["label"].tolist() == [0, 1, 1]
    assert torch.equal(batch["labels"], 1 - LABEL)  # type: ignore[typeddict-item] # another key


@pytest.mark.parametrize(
    "other",
    [
        {"targets": [{"boxes": 1}, {"boxes": 2}]},
        {"labels": torch.zeros(3, 6, dtype=torch.long)},
        {"labels": ["good", "bad", "bad"]},
        {"masks": LABEL},
        {"masks": MASK[:2]},
        {"masks": MASK[:, :3]},
        {"targets": LABEL[:2]},
        {"gt": "a"},
        {"target": MASK.long()},
    ],
)
def test_what_has_not_the_form_of_a_key_is_left_alone(other: dict[str, Any]) -> None:
    batch = as_batch({"image": IMAGE, **other})
    assert not {"label", "mask"} & batch.keys()
    assert other.keys() <= batch.keys()


def test_classes_of_another_name_hinder_no_method_but_are_no_truth() -> None:
    batch = as_batch({"image": IMAGE, "labels": CLASSES})
    assert "label" not in batch
    with pytest.raises(ShapeError, match=r"label must be 0 .*; got 7"):
        as_batch({"image": IMAGE, "labels": CLASSES}, needs_image=False)


def test_without_an_image_the_truth_is_a_batch() -> None:
    batch = as_batch({"tokens": CLASSES, "labels": LABEL, "masks": MASK}, needs_image=False)
    assert batch["label"].tolist() == [0, 1, 1]
    assert torch.equal(batch["mask"], MASK[:, None])
    batch = as_batch({"images": (255 * IMAGE).byte()}, needs_image=False)
    torch.testing.assert_close(batch["image"], IMAGE, atol=1 / 255, rtol=0)
    assert "image" not in as_batch((CLASSES, LABEL), needs_image=False)
    with pytest.raises(ShapeError, match="needs the key 'image'"):
        as_batch({"images": IMAGE, "labels": LABEL})  # a method is given what it asks for by name


@pytest.mark.parametrize("key_map", [{"label": "broken", "image": "photo"}, {"broken": "label", "photo": "image"}])
def test_a_key_map_wins_in_both_directions(key_map: dict[str, str]) -> None:
    raw = {"photo": IMAGE, "broken": LABEL, "label": CLASSES, "y": 1 - LABEL}
    batch = as_batch(raw, key_map=key_map)
    assert batch["label"].tolist() == [0, 1, 1]
    assert batch["image"] is IMAGE
    assert "label" not in as_batch({"photo": IMAGE, "y": LABEL}, key_map=key_map)  # it is read under that name alone
    again = as_batch(as_batch({"image": IMAGE, "label": LABEL, "broken": 1 - LABEL}), key_map={"label": "broken"})
    assert again["label"].tolist() == [1, 0, 0]


def test_scores_get_their_axes() -> None:
    found = as_prediction({"pred_scores": np.array([[0.1], [0.9]]), "anomaly_maps": MASK.float(), "logits": 3})
    assert found["anomaly_score"].tolist() == [0.1, 0.9]
    assert found["anomaly_map"].shape == (3, 1, 4, 5)
    assert found["logits"] == 3  # type: ignore[typeddict-item] # another key
    assert as_prediction({"anomaly_score": torch.tensor(0.5)})["anomaly_score"].shape == (1,)
    for nothing in (None, torch.ones(3), 3.0, "loss", [1, 2], (torch.ones(3), torch.ones(3))):
        assert as_prediction(nothing) == {}


def test_a_key_map_needs_a_name_of_ours() -> None:
    with pytest.raises(ConfigError, match=r"'a': 'b', and neither is one of image, label"):
        as_batch({"image": IMAGE}, key_map={"a": "b"})


def test_what_is_found_is_named() -> None:
    assert names_in({"image": 1, 3: 2}) == ["image", "3"]
    assert names_in(Item(IMAGE, LABEL, MASK)) == ["image", "gt_label", "gt_mask", "explanation"]
    assert [names_in(raw) for raw in (None, (1, 2), torch.ones(1))] == [["nothing"], ["a tuple of 2"], ["a Tensor"]]
