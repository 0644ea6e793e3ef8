"""IGD: the checks and pitfalls of its card."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from anomaly_suite.data import Digits
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import PixelComparison
from anomaly_suite.methods import IGD
from anomaly_suite.methods.one_class.igd import critic_loss, gaussian_from_sums, normality
from anomaly_suite.nn.critic import interpolate
from anomaly_suite.nn.encoders import standardize

TINY: dict[str, Any] = {
    "image_size": 16, "encoder": "residual", "encoder_weights": None, "width": 4, "latent_dim": 6,
}  # fmt: skip


def digits(**options: Any) -> Digits:
    return Digits(**{"normal_class": 3, "image_size": 16, "train_batch_size": 32, "seed": 0, **options})


def state(model: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.named_parameters() if prefix in key}


class TestShapes:
    def test_global(self) -> None:
        model = IGD(image_size=32, encoder="residual", encoder_weights=None, width=4)
        part = model.descriptors["global"]
        latent, reconstruction = part.autoencoder(torch.rand(2, 1, 32, 32))
        assert latent.shape == (2, 128)
        assert reconstruction.shape == (2, 3, 32, 32)
        assert part.critic(reconstruction).shape == (2,)  # not (2, 1): a difference to alpha is (2,) too

    @pytest.mark.parametrize("scope", ["global", "local", "both"])
    def test_scopes(self, scope: Any) -> None:
        model = IGD(**{**TINY, "image_size": 32}, scope=scope, patch_size=8, patch_stride=4).eval()
        for part in model.descriptors.parts():
            part.center, part.variance = torch.full((6,), 0.2), torch.tensor(2.0)
        score, anomaly_map = model(torch.rand(3, 3, 32, 32))
        assert score.shape == (3,)
        assert anomaly_map.shape == (3, 1, 32, 32)
        assert ((score >= 0) & (score <= 1.5)).all()

    def test_both_scopes_are_mixed_by_beta(self) -> None:
        seed_everything(0, verbose=False)
        model = IGD(**TINY, scope="both", patch_size=8, patch_stride=4, beta=0.3).eval()
        image = torch.rand(2, 1, 16, 16)
        for part in model.descriptors.parts():
            part.center = torch.full((6,), 0.2)
        error, distance, error_map = model.descriptors["global"].components(image)
        whole = 0.1 * error + 0.9 * distance
        error, distance, maps = model.descriptors["local"].components(model.descriptors.patches.cut(image))
        local = (0.9 * error + 0.1 * distance).view(2, 9).amax(1)
        score, anomaly_map = model(image)
        assert torch.allclose(score, 0.3 * whole + 0.7 * local)
        joined = model.descriptors.patches.join(maps, height=16, width=16)
        assert torch.allclose(anomaly_map, (error_map + joined) / 2, atol=1e-6)


class TestGaussian:
    def test_at_the_centre_normality_is_one(self) -> None:
        center = torch.tensor([1.0, -2.0])
        assert normality(center.expand(3, 2), center, torch.tensor(0.5)).tolist() == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("radius", [0.1, 0.7, 2.0, 6.0])
    def test_gradient_vanishes_far_away(self, radius: float) -> None:
        variance = 2.0
        latent = torch.tensor([[radius, 0.0]], requires_grad=True)
        (1 - normality(latent, torch.zeros(2), torch.tensor(variance))).sum().backward()
        expected = 2 * radius / variance * math.exp(-(radius**2) / variance)
        assert latent.grad is not None
        assert latent.grad.norm().item() == pytest.approx(expected, rel=1e-5)

    def test_after_an_e_step_the_mean_loss_is_bounded(self) -> None:
        latent = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 4, 8)
        center = latent.mean(0)
        variance = ((latent - center) ** 2).sum(1).mean()
        assert (1 - normality(latent, center, variance)).mean() <= 1 - math.exp(-1)
        ring = torch.nn.functional.normalize(latent - center) * 3
        loss = (1 - normality(ring, torch.zeros(8), torch.tensor(9.0))).mean()
        assert loss.item() == pytest.approx(1 - math.exp(-1), rel=1e-5)

    @pytest.mark.parametrize("clamp", [False, True])
    def test_the_e_step_follows_from_sums(self, clamp: bool) -> None:
        codes = torch.tensor([[3.0, 0.04], [1.0, 0.04], [2.0, 0.01]], dtype=torch.float64)
        sums = torch.cat([codes.sum(0), (codes**2).sum().view(1), torch.tensor([3.0])])
        center, variance = gaussian_from_sums(sums, clamp_center=clamp, variance_floor=0.0)
        assert center.tolist() == pytest.approx([2.0, 0.1 if clamp else 0.03])
        assert variance.item() == pytest.approx(((codes - center) ** 2).sum(1).mean().item())
        assert center.dtype == variance.dtype == torch.float32
        assert gaussian_from_sums(sums, clamp_center=clamp, variance_floor=5.0)[1].item() == 5


def test_critic_loss_by_hand() -> None:
    loss = critic_loss(torch.tensor([0.5, 0.0]), torch.tensor([0.25, 0.5]), torch.tensor([1.0, 2.0]))
    assert loss.item() == pytest.approx((0.25**2 + 0.5**2) / 2 + (1 + 4) / 2)


def test_score_grows_with_a_painted_square() -> None:
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    compare = PixelComparison(image_size=32, rho=0.15)
    errors = []
    for side in range(0, 20, 4):
        painted = image.clone()
        painted[:, :, 6 : 6 + side, 6 : 6 + side] = 1.0
        errors.append(compare(painted, standardize(image)).item())
    assert errors[0] == pytest.approx(0, abs=1e-5)
    assert errors == sorted(errors)
    assert len(set(errors)) == len(errors)


class Snapshots(Callback):
    """Weights before the first step, between generator and critic step, and after it."""

    def __init__(self, model: IGD) -> None:
        self.taken: list[dict[str, Tensor]] = []
        step = model._step

        def watched(optimizer: Any, loss: Tensor, *, idle: list[Any]) -> None:
            if not self.taken:
                self.taken.append({key: value.clone() for key, value in model.named_parameters()})
            step(optimizer, loss, idle=idle)
            if len(self.taken) < 3:
                self.taken.append({key: value.clone() for key, value in model.named_parameters()})

        model._step = watched  # type: ignore[method-assign]


def changed(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> bool:
    return any(not torch.equal(before[key], after[key]) for key in before if part in key)


@pytest.mark.parametrize("frozen", [False, True])
def test_each_step_moves_its_own_weights(frozen: bool, trainer_in: Callable[..., Trainer]) -> None:
    seed_everything(0, verbose=False)
    model = IGD(**TINY, freeze_encoder=frozen)
    watch = Snapshots(model)
    buffers = {key: value.clone() for key, value in model.named_buffers() if ".encoder." in key}
    trainer_in(limit_train_batches=1).fit(model, digits())
    start, middle, end = watch.taken
    assert changed(start, middle, ".projection")
    assert changed(start, middle, ".decoder")
    assert changed(start, middle, ".encoder.") != frozen
    assert not changed(start, middle, ".critic")
    assert changed(middle, end, ".critic")
    assert not changed(middle, end, ".autoencoder")
    same = all(torch.equal(value, buffers[key]) for key, value in model.named_buffers() if key in buffers)
    assert same == frozen  # batch-norm statistics of a frozen encoder stay


def test_without_interpolation_there_is_no_critic(trainer_in: Callable[..., Trainer]) -> None:
    model = IGD(**TINY, interpolation_weight=0.0)
    trainer_in(limit_train_batches=2).fit(model, digits())
    assert not state(model, "critic")
    assert len(model.trainer.optimizers) == 1


def test_critic_gets_no_gradient_from_the_generator_step() -> None:
    part = IGD(**TINY).descriptors["global"]
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    part.critic.with_fixed_weights(image).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in part.critic.parameters())


def test_the_generators_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = IGD(**TINY, gaussian_weight=3.0, interpolation_weight=0.5).eval()
    monkeypatch.setattr(model, "log_dict", lambda *_, **__: None)
    part, image = model.descriptors["global"], torch.rand(4, 3, 16, 16)
    part.target_center, part.target_variance = torch.full((6,), 0.1), torch.tensor(2.0)
    loss, (reconstruction, _, alpha) = model._generator_loss("", part, image, torch.Generator().manual_seed(0))
    latent, _ = part.autoencoder(image)
    abnormality = 1 - (-((latent - 0.1) ** 2).sum(1) / 2).exp()
    fooled = part.critic(part.autoencoder.decoder(interpolate(latent, alpha))) ** 2
    expected = part.compare(image, reconstruction).mean() + 3 * abnormality.mean() + 0.5 * fooled.mean()
    torch.testing.assert_close(loss, expected)
    assert len({float(share) for share in alpha}) == 4


class TestEStep:
    def fit(self, trainer: Trainer, **options: Any) -> IGD:
        seed_everything(0, verbose=False)
        model = IGD(**TINY, **options)
        trainer.fit(model, digits(validation="none"))
        return model

    @torch.no_grad()
    def codes(self, model: IGD) -> Tensor:
        data = digits(validation="none")
        data.setup("fit")
        model.eval()
        return torch.cat([model.descriptors["global"].autoencoder.encode(b["image"]) for b in data.train_dataloader()])

    def test_mean_and_variance_of_the_final_network(self, trainer_in: Callable[..., Trainer]) -> None:
        model = self.fit(trainer_in(), clamp_center=False, variance_floor=0.0)
        codes = self.codes(model)
        part = model.descriptors["global"]
        assert torch.allclose(part.center, codes.mean(0), atol=1e-5)
        expected = ((codes - codes.mean(0)) ** 2).sum(1).mean()
        assert part.variance.item() == pytest.approx(expected.item(), rel=1e-4)

    def test_clamp_and_floor(self, trainer_in: Callable[..., Trainer]) -> None:
        model = self.fit(trainer_in(), variance_floor=1000.0)
        part = model.descriptors["global"]
        assert (part.center.abs() >= 0.1 - 1e-7).all()
        assert part.variance.item() == 1000.0

    def test_variance_is_around_the_clamped_centre(self, trainer_in: Callable[..., Trainer]) -> None:
        model = self.fit(trainer_in(), variance_floor=0.0)
        part = model.descriptors["global"]
        expected = ((self.codes(model) - part.center) ** 2).sum(1).mean()
        assert part.variance.item() == pytest.approx(expected.item(), rel=1e-4)

    def test_schedule_and_modes(self, trainer_in: Callable[..., Trainer]) -> None:
        seen: list[int] = []
        targets: list[Tensor] = []

        class Watch(Callback):
            def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
                targets.append(module.descriptors["global"].target_center.clone())  # type: ignore[union-attr,index]

        model = IGD(**TINY, e_step_every=2)
        estimate = model.estimate

        def counted() -> None:
            seen.append(model.current_epoch)
            model.descriptors["global"].autoencoder.encoder.eval()  # as if somebody had frozen it by hand
            before = [module.training for module in model.modules()]
            estimate()
            assert [module.training for module in model.modules()] == before

        model.estimate = counted  # type: ignore[method-assign]
        trainer = trainer_in(max_epochs=5, limit_train_batches=1, limit_val_batches=1, callbacks=[Watch()])
        trainer.fit(model, digits())
        assert seen == [0, 0, 1, 2, 2, 3, 4, 4]  # before every second epoch for training, after every one for scores
        changed = [not torch.equal(before, after) for before, after in itertools.pairwise(targets)]
        assert changed == [False, True, False, True]
        assert not torch.equal(model.descriptors["global"].center, targets[-1])

    @pytest.mark.slow
    def test_two_processes_give_the_same_gaussian(
        self, trainer_in: Callable[..., Trainer], two_processes: dict[str, Any]
    ) -> None:
        options = {"freeze_encoder": True, "lr": 0.0}  # what two processes train differs; what they estimate must not
        alone = self.fit(trainer_in(), **options).descriptors["global"]
        both = self.fit(trainer_in(**two_processes), **options).descriptors["global"]
        assert torch.allclose(alone.center, both.center, atol=1e-6)
        assert alone.variance.item() == pytest.approx(both.variance.item(), rel=1e-5)


def test_learning_rate_falls_to_zero(trainer_in: Callable[..., Trainer]) -> None:
    rates: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            rates.extend(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)

    trainer_in(max_epochs=2, limit_train_batches=2, callbacks=[Watch()]).fit(IGD(**TINY, lr=1e-3), digits())
    expected = [1e-3 * (1 - step / 4) ** 0.9 for step in range(4) for _ in range(2)]
    assert rates == pytest.approx(expected)


def test_one_image_a_batch(trainer_in: Callable[..., Trainer]) -> None:
    seed_everything(0, verbose=False)
    model = IGD(**TINY)
    trainer_in(limit_train_batches=3).fit(model, digits(train_batch_size=1, val_size=2))
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_pixel_space_unit_scales_back() -> None:
    image = torch.rand(2, 1, 32, 32)
    unit = PixelComparison(image_size=32, rho=1.0, space="unit")
    assert unit(image, standardize(image) + 0.1).tolist() == pytest.approx(
        [0.1 * (0.229 + 0.224 + 0.225) / 3] * 2, rel=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xi_global": 1.5}, "xi_global must be between 0 and 1"),
        ({"beta": -0.1}, "beta must be at least 0"),
        ({"zeta": 2.0}, "zeta must be between 0 and 1"),
        ({"e_step_every": 0}, "e_step_every must be at least 1"),
        ({"image_size": 28}, "image_size must have a shorter side of 8, 16, 32"),
        ({"patch_stride": 40}, "patch_stride must be between 1 and patch_size=32"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IGD(**{**TINY, **options})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_size": 256}, {"global": (11, 5), "local": (3, 4)}),
        ({"image_size": 32}, {"global": (3, 4), "local": (3, 4)}),
        ({"image_size": 32, "ssim_scales": 2}, {"global": (3, 2), "local": (3, 2)}),
        ({"image_size": 32, "ssim_scales": 1, "ssim_window": 11}, {"global": (11, 1), "local": (11, 1)}),
    ],
)
def test_scales_and_window_of_ms_ssim(options: dict[str, Any], expected: dict[str, tuple[int, int]]) -> None:
    with torch.device("meta"):
        model = IGD(**{**TINY, **options}, scope="both", interpolation_weight=0.0)
    found = {name: part.compare.error.ms_ssim for name, part in model.descriptors.named_parts()}
    assert {name: (each.window_size, len(each.exponents)) for name, each in found.items()} == expected
