from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from few_labels import images, loader
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import LearningToReweight
from anomaly_suite.methods.few_shot.label_losses import cross_entropy, deviation_loss
from anomaly_suite.methods.few_shot.learning_to_reweight import normalized, usefulness
from anomaly_suite.metrics import auroc
from anomaly_suite.nn.score_network import ScoreNetwork

TINY: dict[str, Any] = {"image_size": 20, "width": 4, "hidden": (16, 8), "lr": 1e-2, "clean_size": 4}


def deviation(score: Tensor, label: Tensor) -> Tensor:
    return deviation_loss(score, label, margin=6.0)


def test_usefulness_is_the_product_of_gradients() -> None:
    net = ScoreNetwork(6, hidden=(8,))
    feature, label, clean, clean_label = torch.randn(7, 6), torch.arange(7) % 2, torch.randn(4, 6), torch.arange(4) % 2
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = usefulness(net, feature, label, clean, clean_label, deviation, step=0.5)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())  # also running statistics
    weights = list(net.parameters())
    of_clean = torch.autograd.grad(deviation(net(clean), clean_label).mean(), weights)
    closed = []
    for row in range(7):
        of_sample = torch.autograd.grad(deviation(net(feature), label)[row], weights, allow_unused=True)
        products = [(a * b).sum() for a, b in zip(of_sample, of_clean, strict=True) if a is not None]
        closed.append(0.5 * torch.stack(products).sum())
    torch.testing.assert_close(found, torch.stack(closed), rtol=1e-5, atol=1e-5)


def test_a_copy_of_the_clean_sample_helps_and_one_with_the_wrong_label_does_not() -> None:
    net = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    clean = torch.randn(1, 3)
    found = usefulness(net, clean.repeat(2, 1), torch.tensor([1.0, 0.0]), clean, torch.ones(1), cross_entropy)
    assert found[0] > 0
    assert found[1] < 0
    assert normalized(found, found.clamp_min(0).sum()).tolist() == pytest.approx([1, 0])


def test_weights_sum_to_one_or_are_all_zero_and_do_not_know_the_step() -> None:
    useful = torch.tensor([3.0, -1.0, 1.0])
    for factor in (1.0, 2.0):
        weight = normalized(factor * useful, (factor * useful).clamp_min(0).sum())
        assert weight.tolist() == pytest.approx([0.75, 0, 0.25])
    assert normalized(-useful.abs(), torch.tensor(0.0)).tolist() == [0, 0, 0]


def test_rare_positives_get_more_than_their_natural_share() -> None:
    net = ScoreNetwork(1, hidden=(8,))
    feature = torch.cat([torch.randn(495, 1), 3 + torch.randn(5, 1)])
    label = (torch.arange(500) >= 495).long()
    clean = torch.cat([torch.randn(5, 1), 3 + torch.randn(5, 1)])
    useful = usefulness(net, feature, label, clean, torch.arange(10) // 5, deviation)
    weight = normalized(useful, useful.clamp_min(0).sum())
    assert weight[label == 1].sum() > 0.02  # twice the share of 1 %


class Kept(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.encoder = {name: value.clone() for name, value in pl_module.encoder.state_dict().items()}  # type: ignore[union-attr, operator]


def test_it_learns_from_anomalies_on_a_frozen_encoder(trainer_in: Callable[..., Trainer]) -> None:
    torch.manual_seed(0)
    model, kept = LearningToReweight(**TINY), Kept()
    trainer = trainer_in(max_epochs=24, callbacks=[kept])
    trainer.fit(model, loader(anomalous=4, batch_size=20))
    assert 0 < float(trainer.callback_metrics["train/anomalous_weight"]) < 1
    assert all(torch.equal(value, kept.encoder[name]) for name, value in model.encoder.state_dict().items())
    image = torch.cat([images(16, anomalous=kind, seed=7) for kind in (False, True)])
    with torch.no_grad():
        score, _ = model.eval()(image)
    assert auroc(score, torch.arange(32) // 16) > 0.95


def test_clean_images_are_those_of_the_content_in_any_order(trainer_in: Callable[..., Trainer]) -> None:
    found = []
    for batch_size in (5, 32):
        model = LearningToReweight(**TINY)
        model.trainer = trainer_in()
        model.training_batches = lambda size=batch_size: (  # type: ignore[method-assign]
            {"image": image, "label": label} for image, label in loader(batch_size=size)
        )
        model.on_train_start()
        found.append(model._clean)
    (first, labels), (second, _) = found  # type: ignore[misc]
    assert torch.equal(first, second)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (first.amax((1, 2, 3)) == 1).tolist() == labels.bool().tolist()


def test_both_labels_are_needed(trainer_in: Callable[..., Trainer]) -> None:
    with pytest.raises(
        ConfigError, match="needs clean images of both labels in training; got 4 normal and 0 anomalous"
    ):
        trainer_in().fit(LearningToReweight(**TINY), loader(anomalous=0))
