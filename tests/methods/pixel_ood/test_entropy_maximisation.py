"""Entropy maximisation (Meta-OoD): checks and pitfalls of the card of pixel scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from scene_cases import TARGETS, TINY, WITH_VOID, scenes
from torch.utils.data import DataLoader

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import EntropyMaximisation
from anomaly_suite.methods.pixel_ood.entropy_maximisation import entropy_loss

OUTLIER = torch.full((1, 1, 1), 254)


def make(**options: Any) -> EntropyMaximisation:
    torch.manual_seed(0)
    return EntropyMaximisation(**{**TINY, **options})


def test_uniform_logits_are_the_best_for_outliers() -> None:
    logits = torch.zeros(1, 19, 1, 1, requires_grad=True)
    loss = entropy_loss(logits, OUTLIER, outlier_weight=1.0)
    assert 19 * loss.item() == pytest.approx(2.944439, abs=1e-6)  # the mean is also over the 19 classes
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-8
    for _ in range(20):
        assert entropy_loss(torch.randn(1, 19, 1, 1), OUTLIER, outlier_weight=1.0) > loss


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("weight", [0.0, 0.9, 1.0])
def test_loss_is_the_cross_entropy_with_soft_targets(name: str, weight: float) -> None:
    logits, target = (3 * torch.randn(2, 4, 4, 5)).requires_grad_(), TARGETS[name]
    soft = torch.zeros(2, 4, 4, 5, dtype=torch.float64)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                label = int(target[image, row, column])
                if label < 254:
                    soft[image, label, row, column] = 1 - weight
                elif label == 254:
                    soft[image, :, row, column] = weight / 4
    expected = -(soft * logits.double().softmax(1).log()).mean()
    found = entropy_loss(logits, target, outlier_weight=weight)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_weight_zero_on_known_pixels_is_cross_entropy_by_classes() -> None:
    logits, target = torch.randn(2, 4, 4, 5), TARGETS["no outlier"]
    found = entropy_loss(logits, target, outlier_weight=0.0)
    torch.testing.assert_close(4 * found, F.cross_entropy(logits, target))


def test_void_dilutes_the_mean_but_has_no_gradient() -> None:
    logits = (100 * torch.randn(2, 4, 4, 5)).requires_grad_()
    loss = entropy_loss(logits, WITH_VOID, outlier_weight=0.9)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum(1)[WITH_VOID == 255].max() == 0
    half = torch.cat([WITH_VOID, torch.full_like(WITH_VOID, 255)])
    diluted = entropy_loss(torch.cat([logits, logits]), half, outlier_weight=0.9)
    torch.testing.assert_close(2 * diluted, loss)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_left(kind: torch.dtype) -> None:
    logits = (20 * torch.rand(2, 4, 4, 5)).to(kind)
    found = entropy_loss(logits, WITH_VOID, outlier_weight=0.9)
    assert found.dtype == torch.float32
    assert torch.equal(found, entropy_loss(logits.float(), WITH_VOID, outlier_weight=0.9))


def test_score_is_the_share_of_the_largest_entropy() -> None:
    logits = torch.tensor([[[[0.0, 3.0]], [[0.0, 1.0]], [[0.0, 0.0]], [[0.0, -200.0]]]])
    p = [x / sum(map(math.exp, (3, 1, 0))) for x in map(math.exp, (3, 1, 0))]
    expected = -sum(x * math.log(x) for x in p) / math.log(4)
    found = make().score_map(logits).flatten().tolist()
    assert found == pytest.approx([1.0, expected], rel=1e-5)


def test_every_weight_is_trained(trainer_in: Callable[..., Trainer]) -> None:
    model = make(lr=0.01)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    trainer = trainer_in(limit_train_batches=2)
    trainer.fit(model, DataLoader(scenes(), batch_size=2))
    after = model.network.state_dict()
    kept = {key for key, value in before.items() if torch.equal(value, after[key])}
    assert not kept, "weights and statistics of norms, all of them"
    assert all(weight.grad is not None for weight in model.parameters())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01
    assert float(trainer.callback_metrics["train/loss"]) > 0


def test_training_raises_the_entropy_of_outliers_alone(trainer_in: Callable[..., Trainer]) -> None:
    items = scenes(4)
    for scene in items[1::2]:  # brightness tells the class; outliers are the darkest
        scene["target"][8:24, 8:32] = 254
    for scene in items:
        scene["image"] = (scene["target"] % 250).clamp_max(4)[None].expand(3, -1, -1) / 4 + 0.1 * scene["image"]
        scene["image"][:, scene["target"] == 254] -= 2
    model = make(lr=0.01, width=16)
    trainer_in(max_epochs=25).fit(model, DataLoader(items, batch_size=4))
    batch = torch.utils.data.default_collate(items)
    model.eval()
    with torch.no_grad():
        entropy = model.predict(batch)["anomaly_map"].squeeze(1)
    outlier, known = (entropy[mask].mean().item() for mask in (batch["target"] == 254, batch["target"] < 254))
    assert outlier > known + 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outlier_weight": -0.01}, "outlier_weight must be at least 0"),
        ({"outlier_weight": 1.01}, r"outlier_weight must be in \[0, 1\]"),
        ({"lr": 0.0}, "lr above 0"),
    ],
    ids=["below", "above", "lr"],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)
