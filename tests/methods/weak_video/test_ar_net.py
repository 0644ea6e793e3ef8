"""AR-Net: the checks of its card, losses against loops in float64, what of a training video is taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import ARNet
from anomaly_suite.methods.weak_video.ar_net import center_loss, dynamic_loss, selected_count

LENGTH = torch.tensor([7, 3, 1, 6])
LABEL = torch.tensor([0, 0, 1, 1])


def tiny(**options: Any) -> ARNet:
    return ARNet(**{"feature_dim": 6, "dropout": 0.0, **options})


def logits(crops: int = 2, snippets: int = 7) -> Tensor:
    return torch.randn(4, crops, snippets, dtype=torch.float64)


def slow_scores(logit: Tensor) -> list[list[float]]:
    """Of the snippets of each video, without padding."""
    found = []
    for video, length in zip(logit.tolist(), LENGTH.tolist(), strict=True):
        found.append([sum(1 / (1 + math.exp(-crop[t])) for crop in video) / len(video) for t in range(length)])
    return found


def slow_dynamic(logit: Tensor, alpha: float, variant: str) -> float:
    chosen = []
    for score, label in zip(slow_scores(logit), LABEL.tolist(), strict=True):
        best = sorted(score, reverse=True)[: math.ceil(len(score) / alpha)]
        chosen.append([-math.log(value if label else 1 - value) for value in best])
    if variant == "paper":
        return sum(sum(one) / len(one) for one in chosen) / len(chosen)
    return sum(map(sum, chosen)) / sum(map(len, chosen))


def test_selected_snippets() -> None:
    assert selected_count(torch.tensor([1, 4, 5, 300]), 4).tolist() == [1, 1, 2, 75]


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("alpha", [4, 2, 1])
def test_dynamic_loss_equals_a_loop(alpha: float, variant: Any) -> None:
    logit = logits()
    found = dynamic_loss(logit, LABEL, LENGTH, alpha=alpha, variant=variant)
    assert float(found) == pytest.approx(slow_dynamic(logit, alpha, variant), abs=1e-8)


def test_all_snippets_are_plain_cross_entropy() -> None:
    logit = logits(crops=1)
    length = torch.full((4,), 7)
    plain = torch.nn.functional.binary_cross_entropy(
        logit.squeeze(1).sigmoid(), LABEL.double().unsqueeze(1).expand(4, 7)
    )
    for variant in ("paper", "released"):
        found = dynamic_loss(logit, LABEL, length, alpha=1, variant=variant)  # type: ignore[arg-type]
        assert float(found) == pytest.approx(float(plain), abs=1e-8)


def test_center_loss_equals_a_loop() -> None:
    score = torch.rand(4, 7, dtype=torch.float64)
    slow = 0.0
    for row, length in zip(score.tolist(), LENGTH.tolist(), strict=True):
        mean = sum(row[:length]) / length
        slow += sum((value - mean) ** 2 for value in row[:length]) / length
    assert float(center_loss(score, LENGTH)) == pytest.approx(slow / 4, abs=1e-8)
    padded = 0.0
    for row in score.tolist():
        mean = sum(row) / 7
        padded += sum((value - mean) ** 2 for value in row) / 6
    assert float(center_loss(score, LENGTH, variant="released")) == pytest.approx(padded / 4, abs=1e-8)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("snippets", [1, 7])
def test_constant_scores_have_no_spread(snippets: int, variant: Any) -> None:
    score = torch.full((2, snippets), 0.3)
    assert float(center_loss(score, torch.tensor([snippets, 1]), variant=variant)) < 1e-12  # the mean is rounded


def test_the_center_has_a_gradient() -> None:
    score = torch.tensor([[0.0, 0.5, 1.0, 9.0]], requires_grad=True)
    center_loss(score, torch.tensor([3])).backward()
    assert score.grad[0].tolist() == pytest.approx([-1 / 3, 0, 1 / 3, 0])  # type: ignore[index]


def batch_of(snippets: int = 7) -> dict[str, Tensor]:
    return {"snippet_features": torch.rand(4, 2, snippets, 6), "length": LENGTH, "label": LABEL}


def test_padding_changes_no_loss() -> None:
    model, batch = tiny(), batch_of()
    features = torch.cat([batch["snippet_features"], torch.full((4, 2, 5, 6), 9.0)], 2)
    for row, length in enumerate(LENGTH.tolist()):
        features[row, :, length:] = torch.nan
    padded = {**batch, "snippet_features": features}
    assert float(model.training_step(padded, 0)) == pytest.approx(float(model.training_step(batch, 0)), rel=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_training_step_equals_the_formula(variant: str) -> None:
    model, batch = tiny(variant=variant).double(), batch_of()
    features = batch["snippet_features"].double()
    for row, length in enumerate(LENGTH.tolist()):
        features[row, :, length:] = 0
    with torch.no_grad():
        logit = model.classifier.layers(features).squeeze(-1)
    score = logit.sigmoid().mean(1)[:2]
    expected = slow_dynamic(logit, 4, variant) + 20 * float(center_loss(score, LENGTH[:2], variant=variant))  # type: ignore[arg-type]
    found = model.training_step({**batch, "snippet_features": features}, 0)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(expected, rel=1e-5)  # scores are float32


def test_long_videos_are_averaged_and_short_ones_taken_whole() -> None:
    model, batch = tiny(segments=3), batch_of(6)
    found = model.bags({**batch, "length": torch.tensor([6, 2, 3, 1])}, whole=True)  # type: ignore[typeddict-unknown-key]
    features = batch["snippet_features"]
    assert found.length.tolist() == [3, 2, 3, 1]
    assert torch.allclose(found.snippet_features[0], features[0].view(2, 3, 2, 6).mean(2))
    for row, length in ((1, 2), (2, 3), (3, 1)):
        assert torch.equal(found.snippet_features[row, :, :length], features[row, :, :length])
        assert found.snippet_features[row, :, length:].eq(0).all()


def test_scores_are_means_over_crops_and_of_each_snippet_alone() -> None:
    model = tiny().eval()
    features = torch.rand(2, 3, 5, 6)
    crops = torch.stack([model.classifier(features[:, crop]) for crop in range(3)], 1)
    _, score = model(features, torch.tensor([5, 2]))
    assert torch.allclose(score[0], crops[0].mean(0))
    assert torch.allclose(score[1, :2], model(features[1:, :, :2])[1][0])
    assert score[1, 2:].eq(0).all()


def test_weights_begin_as_in_the_release() -> None:
    model = ARNet(feature_dim=64)
    assert sum(weight.numel() for weight in model.parameters()) == 64 * 64 + 64 + 64 + 1
    bound = math.sqrt(6 / 128)
    assert 0.9 * bound < float(model.classifier.layers[0].weight.abs().max()) <= bound  # type: ignore[union-attr, operator, arg-type]
    assert model.classifier.layers[0].bias.eq(0).all()  # type: ignore[union-attr, operator]


def test_a_share_below_one_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"alpha must be at least 1.*got 0\.5"):
        tiny(alpha=0.5)
