"""Pseudo-anomalies of a set of normal images."""

from __future__ import annotations

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
