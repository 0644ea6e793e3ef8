"""Images in memory: batches, masks, pseudo-anomalies and the draws of a transform."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from anomaly_suite.data.images.image_set import ImageSet


def test_a_batch_is_float_and_has_masks_where_the_set_has() -> None:
    image = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(-1, 3, 8, 8) * 51
    mask = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
    mask[4, 0, 2, 3] = True
    label = mask.flatten(1).any(1).long()
    data = ImageSet(image=image, label=label, names=list("abcdef"), mask=mask)
    batch = data.__getitems__([4, 1])
    assert torch.equal(batch["image"], torch.tensor([0.8, 0.2]).view(2, 1, 1, 1).expand(-1, 3, 8, 8))
    assert torch.equal(batch["mask"], mask[[4, 1]])
    assert batch["label"].tolist() == [1, 0]
    assert batch["image_path"] == ["e", "b"]
    assert "mask" not in ImageSet(image=image, label=label, names=list("abcdef")).__getitems__([0])


def test_pseudo_anomalies_are_made_once() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 1, 16, 16), generator=generator, dtype=torch.uint8)
    both = ImageSet(image=image, label=torch.zeros(3, dtype=torch.long), names=list("abc")).with_pseudo_anomalies(5)
    assert torch.equal(both.image[:3], image)
    assert both.label.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(both.names) == ["a", "b", "c", "a#pseudo", "b#pseudo", "c#pseudo"]
    assert (both.image[3:] != image).flatten(1).any(1).all()


def jitter(image: Tensor, generator: Generator) -> Tensor:
    return image + torch.rand(len(image), 1, 1, 1, generator=generator)


def test_training_draws_follow_seed_epoch_and_indices() -> None:
    def draw(seed: int, epoch: int, indices: list[int]) -> Tensor:
        data = ImageSet(
            image=torch.zeros(8, 1, 4, 4, dtype=torch.uint8),
            label=torch.zeros(8, dtype=torch.long),
            names=[""] * 8,
            transform=jitter,
            seed=seed,
        )
        data.epoch = epoch
        return data.__getitems__(indices)["image"]

    first = draw(0, 0, [1, 2])
    assert torch.equal(first, draw(0, 0, [1, 2]))
    for other in (draw(1, 0, [1, 2]), draw(0, 1, [1, 2]), draw(0, 0, [2, 3])):
        assert not torch.equal(first, other)
