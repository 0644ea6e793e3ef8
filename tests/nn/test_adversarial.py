from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.nn.adversarial import (
    CodeDiscriminator,
    between,
    critic_loss,
    gradient_norm,
    logistic_loss,
    untracked,
)
from anomaly_suite.nn.residual import ResidualEncoder


def critic_of_images() -> ResidualEncoder:
    return ResidualEncoder(in_channels=1, image_size=(8, 8), width=4, out_features=1, norm="layer")


class Linear(nn.Module):
    """D(u) = <w, u>."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weight).sum((1, 2, 3)).unsqueeze(1)


class TestFormulas:
    def test_critic_loss_by_hand(self) -> None:
        real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [0.5]])
        assert critic_loss(real, fake, torch.tensor([1.0, 3.0])).item() == 10 * (0 + 4) / 2 - (2 - 0.5)

    def test_gradient_norm_of_a_linear_critic_is_that_of_its_weights(self) -> None:
        weight = torch.randn(2, 3, 5)
        norm = gradient_norm(Linear(weight), torch.randn(4, 2, 3, 5))
        torch.testing.assert_close(norm, weight.norm().expand(4))

    def test_gradient_norm_against_the_jacobian_of_each_image(self) -> None:
        critic = critic_of_images()
        point = torch.rand(3, 1, 8, 8)
        slow = [torch.autograd.functional.jacobian(lambda u: critic(u[None])[0, 0], image).norm() for image in point]
        torch.testing.assert_close(gradient_norm(critic, point), torch.stack(slow))

    def test_gradient_norm_is_differentiable_in_the_weights(self) -> None:
        critic = Linear(torch.randn(1, 4, 4))
        gradient_norm(critic, torch.randn(1, 1, 4, 4)).sum().backward()
        torch.testing.assert_close(critic.weight.grad, critic.weight.detach() / critic.weight.detach().norm())

    def test_a_flat_critic_has_finite_gradients(self) -> None:
        critic = Linear(torch.zeros(1, 4, 4))
        norm = gradient_norm(critic, torch.randn(2, 1, 4, 4))
        (norm - 1).square().sum().backward()
        assert norm.tolist() == pytest.approx([1e-6, 1e-6])
        assert critic.weight.grad is not None
        assert critic.weight.grad.isfinite().all()

    def test_gradient_norm_is_float32_under_any_precision(self) -> None:
        critic = critic_of_images()
        point = torch.rand(3, 1, 8, 8)
        exact = gradient_norm(critic, point)
        with torch.autocast("cpu", torch.bfloat16):
            assert critic(point).dtype == torch.bfloat16
            assert torch.equal(gradient_norm(critic, point), exact)
        half = gradient_norm(critic.bfloat16(), point.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, exact, rtol=0.05, atol=0)
        assert not torch.equal(half, half.bfloat16().float())  # it was computed in float32, not only converted to it


class TestPenalty:
    @pytest.mark.parametrize("length", [1.0, 2.5])
    def test_of_a_linear_critic_is_known(self, length: float) -> None:
        weight = torch.randn(1, 4, 4)
        critic = Linear(length * weight / weight.norm())
        norm = gradient_norm(critic, torch.randn(6, 1, 4, 4))
        zero = torch.zeros(6, 1)
        assert critic_loss(zero, zero, norm).item() == pytest.approx(10 * (length - 1) ** 2, abs=1e-5)
        assert critic_loss(zero, zero, norm, penalty_weight=3.0).item() == pytest.approx(
            3 * (length - 1) ** 2, abs=1e-5
        )

    def test_is_taken_between_real_and_generated_images(self) -> None:
        class Bowl(nn.Module):
            def forward(self, image: Tensor) -> Tensor:
                return image.square().sum((1, 2, 3)).unsqueeze(1) / 2

        real, fake = torch.ones(40_000, 1, 1, 1), torch.zeros(40_000, 1, 1, 1)
        point = between(real, fake, generator=torch.Generator().manual_seed(0))
        assert len(point.unique()) > 30_000  # a place of its own for each
        assert gradient_norm(Bowl(), point).sub(1).square().mean().item() == pytest.approx(1 / 3, abs=0.01)

    def test_gradient_of_an_image_does_not_depend_on_its_neighbours(self) -> None:
        critic = ResidualEncoder(
            in_channels=1, image_size=(8, 8), channels=[4, 4], out_features=1, norm="group"
        ).train()
        point = torch.rand(4, 1, 8, 8)
        others = torch.cat([point[:1], torch.rand(3, 1, 8, 8)])
        torch.testing.assert_close(gradient_norm(critic, point)[0], gradient_norm(critic, others)[0])

    def test_one_critic_step_parts_what_can_be_parted(self) -> None:
        critic = critic_of_images()
        real, fake = torch.rand(8, 1, 8, 8) * 0.2 + 0.8, torch.rand(8, 1, 8, 8) * 0.2 - 1
        optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
        gaps = []
        for _ in range(2):
            of_real, of_fake = critic(real), critic(fake)
            gaps.append(float(of_real.mean() - of_fake.mean()))
            norm = gradient_norm(critic, between(real, fake, generator=torch.Generator().manual_seed(0)))
            optimizer.zero_grad()
            critic_loss(of_real, of_fake, norm).backward()
            optimizer.step()
        assert gaps[1] > gaps[0]


class TestLogistic:
    def test_a_discriminator_that_knows_nothing_loses_2_ln_2(self) -> None:
        logit = torch.zeros(5, 1)
        assert (logistic_loss(logit, real=True) + logistic_loss(logit, real=False)).item() == pytest.approx(
            2 * math.log(2)
        )

    def test_against_the_logarithm_of_the_probability(self) -> None:
        logit = torch.randn(7, 1)
        probability = logit.sigmoid()
        torch.testing.assert_close(logistic_loss(logit, real=True), -probability.log().mean())
        torch.testing.assert_close(logistic_loss(logit, real=False), -(1 - probability).log().mean())

    def test_it_does_not_saturate_where_the_generator_loses(self) -> None:
        logit = torch.tensor([[-20.0]], requires_grad=True)
        logistic_loss(logit, real=True).backward()
        assert logit.grad is not None
        assert logit.grad.item() == pytest.approx(-1)

    def test_half_precision_is_summed_in_float32(self) -> None:
        assert logistic_loss(torch.zeros(2, 1, dtype=torch.bfloat16), real=True).dtype == torch.float32


def test_untracked_norms_go_by_the_batch_and_remember_nothing() -> None:
    norm = nn.BatchNorm2d(2)
    image = 3 + torch.randn(4, 2, 5, 5)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with untracked(norm):
        found = norm(image)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    torch.testing.assert_close(norm(image), found)  # as in training
    assert norm.num_batches_tracked == 1


def test_discriminator_of_codes() -> None:
    net = CodeDiscriminator(128, (256, 128, 64))
    assert sum(weight.numel() for weight in net.parameters()) == 74_241  # adgan.md, 2
    assert net(torch.randn(3, 128)).shape == (3, 1)
    assert CodeDiscriminator(5, ())(torch.randn(3, 5)).shape == (3, 1)
