from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.methods.pretraining.ccd import CCD, distribution_contrast
from anomaly_suite.methods.pretraining.contrast import Candidates

TAU = 0.2
Make = Callable[..., Trainer]


def candidates(items: int = 6, *, images: int = 3) -> Candidates:
    feature = torch.randn(2 * items, 5, dtype=torch.float64)
    label = torch.tensor([0, 0, 1, 1, 0, 2])[:items]
    return Candidates(F.normalize(feature, dim=1), label.repeat(2), (torch.arange(items) % images).repeat(2))


def slow(c: Candidates, negatives: str, anchors: str) -> float:
    """The card's formula, item by item and view by view."""
    items = len(c.feature) // 2
    f, k, image = c.feature.view(2, items, -1), c.label[:items].tolist(), c.source[:items].tolist()
    total, views = 0.0, (0, 1) if anchors == "both" else (0,)
    for i in range(items):
        for v in views:
            below = positive = math.exp(float(f[v, i] @ f[1 - v, i]) / TAU)
            for j in range(items):
                for u in (0, 1):
                    if j == i or (negatives == "same_augmentation" and (k[j] != k[i] or image[j] == image[i])):
                        continue
                    below += math.exp(float(f[v, i] @ f[u, j]) / TAU)
            total -= math.log(positive / below)
    return total / (len(views) * items)


@pytest.mark.parametrize("negatives", ["all", "same_augmentation"])
@pytest.mark.parametrize("anchors", ["both", "first"])
def test_the_contrast_is_the_cards(negatives: Any, anchors: Any) -> None:
    c = candidates()
    found = distribution_contrast(c, temperature=TAU, negatives=negatives, anchors=anchors)
    assert found.item() == pytest.approx(slow(c, negatives, anchors), abs=1e-8)


def test_order_of_views_and_items_does_not_matter() -> None:
    c = candidates()
    order = torch.randperm(6)

    def loss(rows: Tensor) -> float:
        moved = Candidates(c.feature[rows], c.label[rows], c.source[rows])
        return distribution_contrast(moved, temperature=TAU, negatives="same_augmentation", anchors="both").item()

    assert loss(torch.arange(12)) == pytest.approx(loss(torch.arange(12).roll(6)))
    assert loss(torch.arange(12)) == pytest.approx(loss(torch.cat([order, order + 6])))


def test_values_of_the_card() -> None:
    label, source = torch.zeros(64).long(), torch.arange(32).repeat(2)
    equal = Candidates(torch.ones(64, 1, dtype=torch.float64), label, source)
    perfect = Candidates(torch.eye(32, dtype=torch.float64).repeat(2, 1), label, source)
    loss = [distribution_contrast(each, temperature=TAU, negatives="all", anchors="both") for each in (equal, perfect)]
    assert loss[0].item() == pytest.approx(math.log(63))
    assert loss[1].item() == pytest.approx(math.log(1 + 62 * math.exp(-5)))


def test_the_length_of_projections_does_not_matter() -> None:
    model = CCD(encoder="residual", encoder_weights=None, image_size=16, width=2)
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    views = model.make_views(torch.rand(8, 3, 16, 16), GeneratorDraws(torch.Generator().manual_seed(0)))
    feature, last = model.encoder(views.image), model.projection[-1]
    before = model.terms(feature, views)["contrast"]
    with torch.no_grad():
        for weight in last.parameters():
            weight.mul_(3)
    torch.testing.assert_close(model.terms(feature, views)["contrast"], before)


def test_an_anchor_without_negatives_has_a_loss_of_0() -> None:
    c = candidates(4)
    for other in (c._replace(label=torch.arange(4).repeat(2)), c._replace(source=torch.zeros(8).long())):
        found = distribution_contrast(other, temperature=TAU, negatives="same_augmentation", anchors="both")
        assert found.item() == 0


def fit(trainer: Trainer, image: Tensor, **options: Any) -> dict[str, float]:
    seed_everything(0, verbose=False)
    tiny = {"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 4, "lr": 0.05}
    model = CCD(**{**tiny, **options})
    trainer.fit(model, DataLoader(TensorDataset(image, torch.zeros(len(image)).long()), batch_size=16, shuffle=True))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_what_has_a_top_and_a_left_can_be_told_and_noise_cannot(trainer_in: Make) -> None:
    ramp = torch.linspace(0, 1, 16)
    image = torch.stack([ramp.expand(16, 16), ramp.view(-1, 1).expand(16, 16), torch.zeros(16, 16)])
    image = (image + 0.05 * torch.randn(64, 3, 16, 16)).clamp(0, 1)
    options = {"contrast_weight": 0.0, "crop_scale": (0.6, 1.0)}
    tellable = fit(trainer_in(max_epochs=15, limit_val_batches=0), image, **options)
    noise = fit(trainer_in(max_epochs=3, limit_val_batches=0), torch.rand(64, 3, 16, 16), **options)
    assert tellable["train/augmentation_accuracy"] > 0.9
    assert noise["train/augmentation_accuracy"] < 0.6


def test_a_few_images_are_learned_by_heart(trainer_in: Make) -> None:
    image = F.interpolate(torch.rand(8, 3, 4, 4), size=8, mode="bicubic").clamp(0, 1)
    easy: dict[str, Any] = {"image_size": 8, "crop_scale": (0.8, 1.0), "colour": False}
    first = fit(trainer_in(max_epochs=1, limit_val_batches=0), image, **easy)["train/loss"]
    last = fit(trainer_in(max_epochs=80, limit_val_batches=0), image, **easy)["train/loss"]
    assert last < 0.5 * first
