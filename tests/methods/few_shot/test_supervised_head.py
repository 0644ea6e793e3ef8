from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from few_labels import images, loader
from lightning.pytorch import Trainer

from anomaly_suite.methods import SupervisedHead
from anomaly_suite.metrics import auroc

TINY: dict[str, Any] = {"encoder": "residual", "image_size": 16, "width": 4, "lr": 1e-2}


def fit(make: Callable[..., Trainer], *, epochs: int = 6, **options: Any) -> SupervisedHead:
    torch.manual_seed(0)
    model = SupervisedHead(**{**TINY, **options})
    make(max_epochs=epochs).fit(model, loader(side=16, batch_size=16))
    return model.eval()


def test_size_of_densenet121() -> None:
    with torch.device("meta"):
        model = SupervisedHead()
    assert sum(weight.numel() for weight in model.encoder.parameters()) == 6_953_856
    assert sum(weight.numel() for weight in model.scorer.parameters()) == 1_025


@pytest.mark.parametrize(
    "options", [{"augment": "none"}, {"loss": "deviation"}, {"loss": "focal", "freeze_encoder": True, "hidden": (16,)}], ids=str
)  # fmt: skip
def test_it_learns_from_anomalies(options: dict[str, Any], trainer_in: Callable[..., Trainer]) -> None:
    model = fit(trainer_in, **options)
    image = torch.cat([images(16, anomalous=kind, seed=7, side=16) for kind in (False, True)])
    with torch.no_grad():
        score, _ = model(image)
    assert auroc(score, torch.arange(32) // 16) > 0.9


def test_a_frozen_encoder_stays_as_it_is(trainer_in: Callable[..., Trainer]) -> None:
    torch.manual_seed(0)
    before = SupervisedHead(**TINY).encoder.state_dict()
    after = fit(trainer_in, epochs=1, freeze_encoder=True, augment="none").encoder.state_dict()
    assert [key for key, value in before.items() if not torch.equal(after[key], value)] == []


def test_its_loss_is_that_of_its_logits(trainer_in: Callable[..., Trainer]) -> None:
    model = SupervisedHead(**TINY, augment="none", freeze_encoder=True)
    trainer = trainer_in(max_epochs=1, limit_train_batches=1)
    torch.nn.init.zeros_(model.scorer.layers[0].weight)
    trainer.fit(model, loader(side=16))
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(0.693147, abs=1e-5)
