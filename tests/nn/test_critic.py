"""The critic of interpolated codes: ranges, and which gradients it lets through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.critic import InterpolationCritic, interpolate
from anomaly_suite.nn.residual import ResidualEncoder


@pytest.mark.parametrize(
    ("activation", "low", "high"), [("none", -3.0, 3.0), ("sigmoid", 0.0, 1.0), ("half_sigmoid", 0.0, 0.5)]
)
def test_ranges(activation: Any, low: float, high: float) -> None:
    critic = InterpolationCritic(16, width=2, activation=activation)
    nn.init.zeros_(critic.head.weight)
    predicted = []
    for bias in (-20.0, 0.0, 20.0):
        nn.init.constant_(critic.head.bias, bias)
        (value,) = critic(torch.rand(1, 3, 16, 16)).tolist()
        predicted.append(value)
    if activation == "none":
        assert predicted == [-20, 0, 20]
    else:
        assert predicted == pytest.approx([low, (low + high) / 2, high], abs=1e-6)


def test_it_is_a_residual_network_with_one_output_and_no_batch_statistics() -> None:
    critic, plain = InterpolationCritic((16, 24), width=2), ResidualEncoder(
        in_channels=3, image_size=(16, 24), width=2, out_features=1, norm="layer"
    )  # fmt: skip
    plain.load_state_dict(critic.state_dict())
    image = torch.rand(3, 3, 16, 24)
    assert critic(image).shape == (3,)
    assert torch.equal(critic(image), plain(image).squeeze(1))
    torch.testing.assert_close(critic(image)[:1], critic(image[:1]))
    norms = [
        module for module in InterpolationCritic(16, width=2, norm="group").modules() if "Norm" in type(module).__name__
    ]
    assert {type(module) for module in norms} == {nn.GroupNorm}


def test_predictions_are_float32_under_autocast() -> None:
    critic = InterpolationCritic(16, width=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(torch.rand(2, 3, 16, 16)).dtype == torch.float32


def test_fixed_weights_predict_the_same_and_get_no_gradient() -> None:
    critic = InterpolationCritic(16, width=2, activation="half_sigmoid")
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    assert torch.equal(critic.with_fixed_weights(image), critic(image))
    critic.with_fixed_weights(image).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in critic.parameters())
    critic(image).sum().backward()
    assert all(weight.grad is not None for weight in critic.parameters())


def test_a_size_that_cannot_be_halved() -> None:
    with pytest.raises(ConfigError, match="8, 16, 32"):
        InterpolationCritic(28, width=2)


class TestInterpolation:
    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_no_code_is_its_own_partner(self, count: int) -> None:
        latent = torch.arange(count, dtype=torch.float32).unsqueeze(1)
        mixed = interpolate(latent, torch.full((count,), 0.25))
        partner = (mixed - 0.25 * latent) / 0.75
        assert (partner != latent).all()
        assert sorted(partner.flatten().tolist()) == list(range(count))
