"""Pseudo-anomalies of a set of normal images."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from anomaly_suite.data.images.image_set import ImageSet
from anomaly_suite.data.images.pseudo_anomalies import WithPseudoAnomalies


def test_pseudo_anomalies_are_the_same_in_any_batch() -> None:
    normals = ImageSet(
        image=torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8),
        label=torch.zeros(5, dtype=torch.long),
        mask=torch.zeros(5, 1, 8, 8, dtype=torch.bool),
        names=[f"a/{index}.png" for index in range(5)],
    )
    data = WithPseudoAnomalies(normals, seed=1)
    whole = data.__getitems__(list(range(10)))
    assert whole["label"].tolist() == [0] * 5 + [1] * 5
    assert "mask" not in whole
    assert whole["image_path"][0] == "a/0.png"
    assert whole["image_path"][9] == "a/4#pseudo.png"
    assert torch.equal(whole["image"][:5], normals.batch(list(range(5)))["image"])
    assert ((whole["image"][5:] - whole["image"][:5]).abs().flatten(1).mean(1) > 0.01).all()
    single = torch.cat([data[index]["image"] for index in range(10)])
    assert torch.equal(single, whole["image"])
    other = WithPseudoAnomalies(normals, seed=2).__getitems__(list(range(10)))
    assert not torch.equal(other["image"], whole["image"])


def test_copies_with_lesions_have_masks_and_any_shape() -> None:
    normals = ImageSet(
        image=torch.randint(0, 256, (5, 3, 40, 48), dtype=torch.uint8),
        label=torch.zeros(5, dtype=torch.long),
        names=[f"a/{index}.png" for index in range(5)],
    )
    data = WithPseudoAnomalies(normals, seed=1, kind="medmix")
    whole = data.batch(list(range(10)))
    assert whole["label"].tolist() == [0] * 5 + [1] * 5
    changed = (whole["image"][5:] != whole["image"][:5]).any(1, keepdim=True)
    assert not whole["mask"][:5].any()
    assert whole["pseudo_class"][:5].tolist() == [0] * 5
    assert set(whole["pseudo_class"][5:].tolist()) <= {1, 2, 3}
    parts = [cv2.connectedComponents(mask[0].numpy().astype(np.uint8))[0] - 1 for mask in whole["mask"][5:]]
    assert all(
        some <= number for some, number in zip(parts, whole["pseudo_class"][5:].tolist(), strict=True)
    )  # boxes may touch
    assert whole["mask"][5:].flatten(1).any(1).all()
    assert not (changed & ~whole["mask"][5:]).any()
    assert 0.9 < changed.sum() / whole["mask"].sum() <= 1
    alone = torch.cat([data.batch([index])["image"] for index in range(10)])
    assert torch.equal(alone, whole["image"])
    made = normals.with_pseudo_anomalies(1, "medmix")
    assert made.mask is not None
    assert torch.equal(made.mask, whole["mask"])
    assert torch.equal(made.batch([7, 9])["pseudo_class"], whole["pseudo_class"][[7, 9]])
