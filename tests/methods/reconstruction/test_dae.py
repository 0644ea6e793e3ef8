from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.losses import MSSSIM
from anomaly_suite.methods.reconstruction.dae import (
    DAE,
    VAE,
    cross_entropy,
    kl_to_standard_normal,
    residual_scores,
    sample_latent,
    with_noise,
)
from anomaly_suite.nn.dcgan import to_signed

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"in_channels": 1, "image_size": 16, "widths": [16, 32], "latent_dim": 16, "lr": 2e-3}


def stripes(count: int, *, channels: int = 1, size: int = 16) -> Tensor:
    """Images that differ in the place and slope of one soft edge."""
    generator = torch.Generator().manual_seed(0)
    slope, offset = torch.randn(2, count, 1, 1, 1, generator=generator)
    row, column = torch.meshgrid(*[torch.linspace(-2, 2, size)] * 2, indexing="ij")
    return torch.sigmoid(4 * (row + slope * column + offset)).expand(count, channels, size, size).clone()


def fit(trainer: Trainer, model: Any, image: Tensor, *, batch_size: int = 16) -> Any:
    data = TensorDataset(image, torch.zeros(len(image), dtype=torch.long))
    trainer.fit(model, DataLoader(data, batch_size=batch_size, shuffle=True))
    return model.eval()


class TestFunctions:
    def test_kl_by_hand(self) -> None:
        zero, one = torch.zeros(1, 5), torch.ones(1, 5)
        assert kl_to_standard_normal(zero, zero).item() == 0
        assert kl_to_standard_normal(one, zero).item() == pytest.approx(5 / 2)
        assert kl_to_standard_normal(zero, one).item() == pytest.approx(5 * (math.e - 2) / 2)

    def test_kl_equals_torch_distributions(self) -> None:
        mean, log_variance = torch.randn(2, 4, 6)
        given = torch.distributions.Normal(mean, (log_variance / 2).exp())
        expected = torch.distributions.kl_divergence(given, torch.distributions.Normal(0.0, 1.0)).sum(1)
        torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)

    def test_samples_have_mean_and_variance_and_pass_gradients(self) -> None:
        mean = torch.full((100_000, 1), 1.5, requires_grad=True)
        log_variance = torch.full((100_000, 1), math.log(4.0), requires_grad=True)
        sample = sample_latent(mean, log_variance, generator=torch.Generator().manual_seed(0))
        assert sample.mean().item() == pytest.approx(1.5, abs=0.02)
        assert sample.var().item() == pytest.approx(4.0, rel=0.02)
        (sample.sum() + (sample**2).sum() / 2).backward()  # d/dmean = 1 + z, d/dlogvar = (1 + z)(z - mean) / 2
        torch.testing.assert_close(mean.grad, 1 + sample.detach())
        torch.testing.assert_close(log_variance.grad, (1 + sample.detach()) * (sample.detach() - 1.5) / 2)

    def test_residual_by_hand(self) -> None:
        image = torch.rand(2, 3, 4, 5)
        score, anomaly_map = residual_scores(image, image + 0.5)
        torch.testing.assert_close(score, torch.full((2,), 3 * 4 * 5 * 0.25))
        torch.testing.assert_close(anomaly_map, torch.full((2, 1, 4, 5), 0.25))
        assert residual_scores(image, image)[0].tolist() == [0, 0]

    def test_cross_entropy_pixel_by_pixel(self) -> None:
        image, logits = torch.rand(2, 3, 4, 5), 3 * torch.randn(2, 3, 4, 5)
        for row in range(2):
            total = 0.0
            for x, logit in zip(image[row].flatten().tolist(), logits[row].flatten().tolist(), strict=True):
                p = 1 / (1 + math.exp(-logit))
                total -= x * math.log(p) + (1 - x) * math.log(1 - p)
            assert cross_entropy(image, logits)[row].item() == pytest.approx(total, rel=1e-5)
        torch.testing.assert_close(
            cross_entropy(torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, 1, 2, 2)), torch.tensor([4 * math.log(2)])
        )

    def test_cross_entropy_of_extreme_logits_in_half_precision(self) -> None:
        image, logits = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), torch.tensor([100.0, -100.0]).view(1, 1, 1, 2)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(image, logits.bfloat16())
        assert loss.dtype == torch.float32
        assert loss.item() == 200  # log(1 - sigmoid(100)) is -inf in float32


KINDS = [DAE, VAE, partial(DAE, loss="ms_ssim"), partial(VAE, likelihood="bernoulli"), partial(VAE, samples=3)]
NAMES = ["DAE", "VAE", "DAE-ms_ssim", "VAE-bernoulli", "VAE-samples"]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
class TestAll:
    @pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 64), (1, 28), (3, (20, 36))])
    def test_shapes_and_independence_of_the_batch(self, kind: Any, channels: int, size: Any) -> None:
        model = kind(in_channels=channels, image_size=size, latent_dim=8).eval()
        height, width = size if isinstance(size, tuple) else (size, size)
        image = torch.rand(3, channels, height, width)
        with torch.no_grad():
            score, anomaly_map = model(image)
            assert torch.equal(model(image)[0], score)
            alone = torch.cat([model(x.unsqueeze(0))[0] for x in image])
        assert anomaly_map.shape == (3, 1, height, width)
        torch.testing.assert_close(alone, score, rtol=1e-4, atol=1e-4)
        if not (isinstance(kind, partial) and "loss" in kind.keywords):  # that one is no sum
            torch.testing.assert_close(anomaly_map.sum((1, 2, 3)) * channels, score)

    def test_another_size_is_refused(self, kind: Any) -> None:
        with pytest.raises(ShapeError, match=r"\(1, 16, 16\); got \(1, 16, 17\)"):
            kind(**TINY)(torch.rand(1, 1, 16, 17))

    def test_bf16_mixed(self, kind: Any, trainer_in: Make) -> None:
        seed_everything(0, verbose=False)
        image = stripes(16)
        trainer = trainer_in(precision="bf16-mixed", max_epochs=2)
        model = fit(trainer, kind(**TINY), image)
        assert all(weight.isfinite().all() for weight in model.parameters())
        (half,) = trainer.predict(model, DataLoader(TensorDataset(image), batch_size=16))  # type: ignore[misc]  # one batch
        torch.testing.assert_close(half["anomaly_score"], model(image)[0], rtol=0.1, atol=0.05)

    def test_a_single_training_image(self, kind: Any, trainer_in: Make) -> None:
        model = fit(trainer_in(), kind(**TINY), stripes(3), batch_size=2)
        assert model(stripes(1))[0].isfinite().all()


class TestDAE:
    def test_loss_is_the_mean_squared_error_on_the_signed_scale(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = DAE(**TINY).train()
        monkeypatch.setattr(model, "log", lambda *_: None)
        image = stripes(4)
        reconstruction = model.decoder(model.encoder(2 * image - 1))
        expected = nn.functional.mse_loss(reconstruction, 2 * image - 1)
        torch.testing.assert_close(model.training_step({"image": image}, 0), expected)

    def test_ms_ssim_is_loss_score_and_map(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, image = DAE(**TINY, loss="ms_ssim").eval(), stripes(4)
        monkeypatch.setattr(model, "log", lambda *_: None)
        x = 2 * image - 1
        with torch.no_grad():
            reconstruction = model.decoder(model.encoder(x))
            similarity, dissimilarity = MSSSIM(scales=3, window_size=3, value_range=2.0).with_map(
                x, reconstruction, want_map=True
            )
            distance = (x - reconstruction).abs() / 2
            score, anomaly_map = model(image)
            loss = model.training_step({"image": image}, 0)
        expected = 0.85 * (1 - similarity) + 0.15 * distance.mean((1, 2, 3))
        torch.testing.assert_close(score, expected)
        torch.testing.assert_close(loss, expected.mean())
        assert dissimilarity is not None
        torch.testing.assert_close(anomaly_map, 0.85 * dissimilarity + 0.15 * distance)
        assert list(model.state_dict()) == list(DAE(**TINY).state_dict())  # the comparison has nothing to save

    def test_ms_ssim_is_learnt(self, trainer_in: Make) -> None:
        seed_everything(0, verbose=False)
        image = stripes(16)
        model = DAE(**TINY, loss="ms_ssim")
        with torch.no_grad():
            before = model.eval()(image)[0].mean()
        assert fit(trainer_in(max_epochs=80), model, image)(image)[0].mean() < before / 4

    def test_noise_goes_into_the_input_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = DAE(**TINY, noise_std=0.5).eval()
        monkeypatch.setattr(model, "log", lambda *_: None)
        monkeypatch.setattr(type(model), "current_epoch", 0)
        image = stripes(4)
        seen: list[Tensor] = []
        model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        loss = model.training_step({"image": image}, 3)
        assert torch.equal(model.training_step({"image": image}, 3), loss)
        assert (seen[0] - to_signed(image)).std().item() == pytest.approx(0.5, rel=0.1)
        target = model.decoder(model.encoder(seen[0]))
        torch.testing.assert_close(loss, nn.functional.mse_loss(target, to_signed(image)))
        model(image)
        assert torch.equal(seen[-1], to_signed(image))

    def test_sixteen_images_are_learnt_by_heart(self, trainer_in: Make) -> None:
        seed_everything(0, verbose=False)
        image = stripes(16)
        model = fit(trainer_in(max_epochs=150), DAE(**TINY), image)
        variance = (to_signed(image) - to_signed(image).mean(0)).var(unbiased=False)
        assert model(image)[1].mean() < 0.1 * variance


class TestVAE:
    def loss(self, model: VAE, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
        monkeypatch.setattr(model, "log_dict", lambda *_: None)
        monkeypatch.setattr(type(model), "current_epoch", 0)
        return model.training_step({"image": image}, 0)

    def test_loss_sums_within_an_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, image = VAE(**TINY, beta=3.0).eval(), stripes(4)
        mean, log_variance = model.encode(to_signed(image))
        latent = sample_latent(mean, log_variance, generator=model_generator(model, monkeypatch))
        total = 0.0
        for row in range(4):
            error = (model.decoder(latent)[row] - to_signed(image)[row]).pow(2).sum() / 2
            kl = sum(
                (-0.5 * (1 + v - m**2 - v.exp()) for m, v in zip(mean[row], log_variance[row], strict=True)),
                torch.zeros(()),
            )
            total += (error + 3 * kl).item()
        assert self.loss(model, image, monkeypatch).item() == pytest.approx(total / 4, rel=1e-5)

    def test_without_variance_and_beta_it_is_a_dae(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vae, dae, image = VAE(**TINY, beta=0.0).eval(), DAE(**TINY).eval(), stripes(4)
        with torch.no_grad():
            head = vae.encoder.head
            head.weight[16:] = 0
            head.bias[16:] = -100  # clamped to -10: a deviation of 0.0067
            dae.load_state_dict(
                vae.state_dict() | {"encoder.head.weight": head.weight[:16], "encoder.head.bias": head.bias[:16]}
            )
        monkeypatch.setattr(dae, "log", lambda *_: None)
        expected = 0.5 * 1 * 16 * 16 * dae.training_step({"image": image}, 0)
        torch.testing.assert_close(self.loss(vae, image, monkeypatch), expected, rtol=1e-3, atol=0)

    def test_log_variance_is_clamped(self) -> None:
        model = VAE(**TINY)
        with torch.no_grad():
            model.encoder.head.bias[16:] = 1000.0
        assert model.encode(stripes(2))[1].max() == 10
        assert model.eval()(stripes(2))[0].isfinite().all()

    def test_the_three_scores(self) -> None:
        image = stripes(4)
        models = {score: VAE(**TINY, beta=2.0, score=score).eval() for score in ("residual", "elbo", "kl")}
        for model in models.values():
            model.load_state_dict(models["residual"].state_dict())
        with torch.no_grad():
            residual, elbo, kl = (model(image)[0] for model in models.values())
            mean, log_variance = models["kl"].encode(to_signed(image))
            expected = residual_scores(to_signed(image), models["kl"].decoder(mean))[0]
        torch.testing.assert_close(residual, expected)
        torch.testing.assert_close(kl, kl_to_standard_normal(mean, log_variance))
        torch.testing.assert_close(elbo, residual / 2 + 2 * kl)

    def test_bernoulli_loss_and_scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, image = VAE(**TINY, beta=3.0, likelihood="bernoulli").eval(), stripes(4)
        mean, log_variance = model.encode(to_signed(image))
        kl = kl_to_standard_normal(mean, log_variance)
        latent = sample_latent(mean, log_variance, generator=model_generator(model, monkeypatch))
        bce = partial(nn.functional.binary_cross_entropy, reduction="none")
        expected = bce(model.decoder(latent).sigmoid(), image).sum((1, 2, 3)) + 3 * kl
        torch.testing.assert_close(self.loss(model, image, monkeypatch), expected.mean(), rtol=1e-5, atol=0)
        made = model.decoder(mean).sigmoid()
        scores = {
            "residual": 4 * (image - made).pow(2).sum((1, 2, 3)),  # the scale of [-1, 1], as with the other likelihood
            "elbo": bce(made, image).sum((1, 2, 3)) + 3 * kl,
            "kl": kl,
        }
        for name, expected in scores.items():
            model.score = name  # type: ignore[assignment]  # one of the three
            score, anomaly_map = model(image)
            torch.testing.assert_close(score, expected)
            torch.testing.assert_close(anomaly_map, 4 * (image - made) ** 2)

    def test_decoders_of_the_two_likelihoods_differ_in_their_last_function(self) -> None:
        latent = torch.randn(2, 16)
        gaussian, bernoulli = (VAE(**TINY, likelihood=kind).eval() for kind in ("gaussian", "bernoulli"))
        bernoulli.load_state_dict(gaussian.state_dict())
        torch.testing.assert_close(gaussian.decoder(latent), bernoulli.decoder(latent).tanh())

    def test_bernoulli_learns_to_reconstruct(self, trainer_in: Make) -> None:
        seed_everything(0, verbose=False)
        image = stripes(16)
        model = fit(trainer_in(max_epochs=120), VAE(**TINY, likelihood="bernoulli"), image)
        variance = (to_signed(image) - to_signed(image).mean(0)).var(unbiased=False)
        assert model(image)[1].mean() < 0.5 * variance

    @pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
    def test_sampled_scores_are_averages_over_fixed_draws(self, likelihood: Any) -> None:
        image = stripes(5)
        model = VAE(**TINY, likelihood=likelihood, samples=32, score="elbo").eval()
        noise = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean, log_variance = model.encode(to_signed(image))
            drawn = [model.compare(image, mean + (log_variance / 2).exp() * draw) for draw in noise]
            misfit, residual, residual_map = (torch.stack(part).mean(0) for part in zip(*drawn, strict=True))
            score, anomaly_map = model(image)
            torch.testing.assert_close(score, misfit + kl_to_standard_normal(mean, log_variance))
            torch.testing.assert_close(anomaly_map, residual_map)
            assert torch.equal(model(image)[0], score)
            again = VAE(**TINY, likelihood=likelihood, samples=32, score="residual").eval()
            again.load_state_dict(model.state_dict())
            torch.testing.assert_close(again(image)[0], residual)
            at_mean = VAE(**TINY, likelihood=likelihood, score="elbo").eval()
            at_mean.load_state_dict(model.state_dict())
            assert (at_mean(image)[0] - score).abs().min() > 1e-4

    def test_a_negative_count_of_samples_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="samples must be at least 0"):
            VAE(**TINY, samples=-1)

    def test_a_huge_beta_forgets_the_image(self, trainer_in: Make) -> None:
        seed_everything(0, verbose=False)
        image = stripes(64)
        model = fit(trainer_in(max_epochs=60), VAE(**TINY, beta=1000.0), image)
        with torch.no_grad():
            mean, log_variance = model.encode(to_signed(image))
            reconstruction = model.decoder(mean)
        assert kl_to_standard_normal(mean, log_variance).mean() < 0.1
        assert reconstruction.std(0).mean() < 0.1 * to_signed(image).std(0).mean()


def model_generator(model: VAE, monkeypatch: pytest.MonkeyPatch) -> torch.Generator:
    monkeypatch.setattr(type(model), "current_epoch", 0)
    return model.step_generator(0)


class TestLatentNoise:
    def test_codes_are_noisy_in_training_alone(self) -> None:
        seed_everything(0, verbose=False)
        model = DAE(**TINY, latent_noise_std=0.5)
        seen: list[Tensor] = []
        model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        image = stripes(512)
        model.training_step({"image": image}, 0)
        with torch.no_grad():
            clean = model.encoder(to_signed(image))  # batch norm in training mode: the same statistics
        noise = seen[0] - clean
        assert noise.mean().item() == pytest.approx(0, abs=0.02)
        assert noise.std().item() == pytest.approx(0.5, rel=0.03)
        model.eval()
        assert torch.equal(model(image)[0], model(image)[0])
        assert torch.equal(seen[-1], model.encoder(to_signed(image)))

    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
    def test_a_deviation_is_finite_and_not_negative(self, value: float) -> None:
        with pytest.raises(ConfigError, match="latent_noise_std must be"):
            DAE(**TINY, latent_noise_std=value)

    def test_without_it_nothing_is_drawn(self) -> None:
        x = torch.rand(2, 3)
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        assert with_noise(x, 0.0, generator=generator) is x
        assert torch.equal(generator.get_state(), before)


def test_scales_window_and_l1_of_ms_ssim() -> None:
    model = DAE(**TINY, loss="ms_ssim", ssim_scales=1, ssim_window=11, rho=0.0).eval()
    image = stripes(3)
    with torch.no_grad():
        score, _ = model(image)
        reconstruction = model.decoder(model.encoder(to_signed(image)))
        expected = 1 - MSSSIM(scales=1, window_size=11, value_range=2.0)(to_signed(image), reconstruction)
    assert torch.allclose(score, expected)
    default = DAE(**TINY, loss="ms_ssim").error
    assert default is not None
    assert (default.ms_ssim.window_size, len(default.ms_ssim.exponents), default.rho) == (3, 3, 0.15)
