from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.methods.reconstruction import fanogan
from anomaly_suite.methods.reconstruction.fanogan import EncodedGAN, FAnoGAN, mean_square
from anomaly_suite.nn.adversarial import gradient_norm

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {
    "in_channels": 1, "image_size": 8, "patch_size": 8, "patch_stride": 4, "patches_per_step": 6, "width": 4,
    "latent_dim": 6, "gan_epochs": 1, "lr": 1e-3, "encoder_lr": 1e-3,
}  # fmt: skip
VARIANTS = ("izif", "izi", "ziz")


def blobs(count: int, *, seed: int = 0, size: int = 8) -> Tensor:
    """A bright blob near the middle of a dark image."""
    generator = torch.Generator().manual_seed(seed)
    place = 0.4 * torch.randn(2, count, 1, 1, 1, generator=generator)
    row, column = torch.meshgrid(*[torch.linspace(-2, 2, size)] * 2, indexing="ij")
    return 0.9 * torch.exp(-2 * (row - place[0]) ** 2 - 2 * (column - place[1]) ** 2)


def loader(image: Tensor, *, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(image, torch.zeros(len(image), dtype=torch.long)), batch_size=batch_size)


def make(**options: Any) -> FAnoGAN:
    seed_everything(0, verbose=False)
    return FAnoGAN(**{**TINY, **options})


def only(model: FAnoGAN, scope: str = "global") -> EncodedGAN:
    part = model.scopes[scope]
    assert isinstance(part, EncodedGAN)
    return part


def shake(model: FAnoGAN) -> FAnoGAN:
    """As after a training: statistics of batch norm, so that evaluation differs from training mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    model.has_encoder.fill_(1)
    return model.eval()


class Linear(nn.Module):
    """D(u) = <w, u>."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weight).sum((1, 2, 3)).unsqueeze(1)


class TestFormulas:
    def test_mean_square_is_a_mean_of_each_row(self) -> None:
        first, second = (
            torch.tensor([[[0.0, 1.0], [2.0, 3.0]]] * 2),
            torch.tensor([[[0.0, 1.0], [2.0, 1.0]], [[1.0] * 2] * 2]),
        )
        assert mean_square(first, second).tolist() == [1.0, (1 + 0 + 1 + 4) / 4]


class TestNetworks:
    @pytest.mark.parametrize("size", [32, 64])
    def test_shapes_and_ranges_at_full_width(self, size: int) -> None:
        part = only(FAnoGAN(image_size=size))
        code, image = part.sample(2, like=torch.empty(0), generator=torch.Generator().manual_seed(0))
        assert code.shape == (2, 128)
        assert image.shape == (2, 3, size, size)
        assert image.abs().max() <= 1
        assert part.critic.features(image).shape == (2, 8192)
        assert part.critic(image).shape == (2, 1)
        assert part.encode(image).shape == (2, 128)

    def test_the_generator_keeps_its_range_and_the_encoder_the_dense_region(self) -> None:
        part = only(make()).eval()
        nn.init.normal_(part.head.weight, std=100)
        assert part.generator(1000 * torch.randn(5, 6)).abs().max() <= 1
        code = part.encode(torch.rand(5, 1, 8, 8))
        assert 0.99 < code.abs().max() <= 1

    def test_the_critic_takes_each_image_alone(self) -> None:
        critic = only(make()).critic.train()
        assert not [module for module in critic.modules() if isinstance(module, nn.BatchNorm2d)]
        assert [module for module in critic.modules() if isinstance(module, nn.LayerNorm)]
        image = torch.rand(3, 1, 8, 8)
        alone = torch.cat([critic(one[None]) for one in image])
        torch.testing.assert_close(critic(image), alone)

    def test_codes_come_from_a_standard_normal_and_repeat_with_the_seed(self) -> None:
        part = only(make(latent_dim=50))
        draw = partial(part.sample, 200, like=torch.empty(0))
        code, image = draw(generator=torch.Generator().manual_seed(1))
        again, _ = draw(generator=torch.Generator().manual_seed(1))
        assert torch.equal(code, again)
        assert abs(code.mean()) < 0.05
        assert abs(code.std() - 1) < 0.05
        assert code.abs().max() > 3  # not limited like the encoder's
        torch.testing.assert_close(image, part.generator(code))


class TestScore:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("feature", ["critic", "encoder"])
    def test_a_generated_image_whose_code_is_found_scores_0(
        self, variant: Any, feature: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = shake(make(variant=variant, feature=feature))
        part = only(model)
        code = torch.randn(3, 6)
        monkeypatch.setattr(part, "encode", lambda x: code)
        score, anomaly_map = model((part.generator(code) + 1) / 2)
        torch.testing.assert_close(score, torch.zeros(3))
        torch.testing.assert_close(anomaly_map, torch.zeros(3, 1, 8, 8), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("feature", ["critic", "encoder"])
    def test_score_and_map_against_the_card(self, feature: Any) -> None:
        model = shake(make(in_channels=3, kappa=0.7, feature=feature))
        part = only(model)
        image = torch.rand(2, 3, 8, 8)
        score, anomaly_map = model(image)
        for row in range(2):
            x = 2 * image[row] - 1
            reconstruction = part.generator(part.encode(x[None]))[0]
            before, after = (
                part.critic.features(i[None])[0] if feature == "critic" else part.encode(i[None])[0]
                for i in (x, reconstruction)
            )
            pixels = sum((a - b) ** 2 for a, b in zip(x.flatten(), reconstruction.flatten(), strict=True)) / (3 * 64)
            features = sum((a - b) ** 2 for a, b in zip(before, after, strict=True)) / len(before)
            torch.testing.assert_close(score[row], pixels + 0.7 * features)
            channels = [(x[c] - reconstruction[c]).abs() for c in range(3)]
            torch.testing.assert_close(anomaly_map[row, 0], (channels[0] + channels[1] + channels[2]) / 3)

    def test_only_izif_has_a_feature_term_and_without_kappa_none_has(self) -> None:
        image = torch.rand(3, 1, 8, 8)
        scores = {variant: shake(make(variant=variant))(image)[0] for variant in VARIANTS}
        assert torch.equal(scores["izi"], scores["ziz"])
        assert (scores["izif"] > scores["izi"] + 1e-3).all()
        torch.testing.assert_close(shake(make(variant="izif", kappa=0.0))(image)[0], scores["izi"])
        _, terms = only_residuals(shake(make(variant="izif")), image)
        torch.testing.assert_close(scores["izif"], terms["image_residual"] + terms["feature_residual"])
        torch.testing.assert_close(scores["izi"], terms["image_residual"])

    @pytest.mark.parametrize("size", [(12, 16), (13, 9), (8, 8)])
    def test_local_scope_is_the_worst_patch_and_the_mean_of_overlapping_maps(self, size: tuple[int, int]) -> None:
        model = shake(make(scope="local"))
        image = torch.rand(2, 1, *size)
        score, anomaly_map = model(image)
        height, width = size
        for row in range(2):
            best, total, count = -1.0, torch.zeros(height + 8, width + 8), torch.zeros(height + 8, width + 8)
            padded = nn.functional.pad(2 * image[row : row + 1] - 1, (0, 8, 0, 8), mode="replicate")
            for top in range(0, height - 8 + 4, 4):
                for left in range(0, width - 8 + 4, 4):
                    patch = padded[:, :, top : top + 8, left : left + 8]
                    reconstruction, terms = model.residuals(only(model, "local"), patch)
                    best = max(best, (terms["image_residual"] + terms["feature_residual"]).item())
                    total[top : top + 8, left : left + 8] += (patch - reconstruction).abs()[0, 0]
                    count[top : top + 8, left : left + 8] += 1
            assert score[row].item() == pytest.approx(best, rel=1e-5)
            torch.testing.assert_close(anomaly_map[row, 0], (total / count)[:height, :width])

    def test_many_patches_score_as_in_one_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, image = shake(make(scope="local")), torch.rand(3, 1, 16, 16)
        whole = model(image)
        monkeypatch.setattr("anomaly_suite.nn.patches.PATCHES_AT_ONCE", 5)
        for first, second in zip(whole, model(image), strict=True):
            torch.testing.assert_close(first, second)

    def test_both_scopes_are_summed(self) -> None:
        both, image = shake(make(scope="both", image_size=16)), torch.rand(2, 1, 16, 16)
        score, anomaly_map = both(image)
        singles = {}
        for scope in ("global", "local"):
            single = shake(make(scope=scope, image_size=16))
            single.scopes.load_state_dict(
                {key: value for key, value in both.scopes.state_dict().items() if key.startswith(scope)}
            )
            singles[scope] = single(image)
        torch.testing.assert_close(score, singles["global"][0] + singles["local"][0])
        torch.testing.assert_close(anomaly_map, singles["global"][1] + singles["local"][1])

    @pytest.mark.parametrize("scope", ["global", "local", "both"])
    def test_batch_size_does_not_matter(self, scope: Any) -> None:
        model, image = shake(make(scope=scope)), torch.rand(5, 1, 8, 8)
        together = model(image)
        for row in range(5):
            for alone, all_of_them in zip(model(image[row : row + 1]), together, strict=True):
                torch.testing.assert_close(alone[0], all_of_them[row])

    def test_images_of_another_size_are_refused_not_resized(self) -> None:
        with pytest.raises(ShapeError, match=r"built for images of shape \(C, H, W\) = \(1, 8, 8\)"):
            shake(make())(torch.rand(1, 1, 16, 16))
        with pytest.raises(ShapeError, match="at least as large as a patch"):
            shake(make(scope="local"))(torch.rand(1, 1, 4, 16))
        assert shake(make(scope="local"))(torch.rand(1, 1, 16, 24))[1].shape == (1, 1, 16, 24)

    def test_refused_options(self) -> None:
        for options in ({"gan_epochs": 0}, {"patches_per_step": 0}):
            with pytest.raises(ConfigError, match="must be at least 1"):
                make(**options)
        with pytest.raises(ConfigError, match="kappa must be at least 0; got -1"):
            make(kappa=-1)
        with pytest.raises(ConfigError, match="shorter side of 8, 16"):
            make(image_size=28)
        make(scope="local", image_size=28)  # which concerns the patches alone


def only_residuals(model: FAnoGAN, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return model.residuals(only(model), 2 * image - 1)


class Watch(Callback):
    """The networks after each step, and what was logged in it."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._note(pl_module)
        self.logged.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def _note(self, model: LightningModule) -> None:
        self.states.append({key: value.clone() for key, value in model.scopes.state_dict().items()})

    def changes(self, network: str, *, parameters: set[str] | None = None) -> list[bool]:
        """Whether a network changed in each step; all of its tensors, or some."""
        return [
            any(
                not torch.equal(value, after[key])
                for key, value in before.items()
                if key.split(".")[1] == network and (parameters is None or key in parameters)
            )
            for before, after in zip(self.states, self.states[1:], strict=False)
        ]


class TestTraining:
    @pytest.mark.parametrize("scope", ["global", "local", "both"])
    def test_five_critic_steps_for_each_generator_step_and_then_the_encoder(self, scope: Any, trainer_in: Make) -> None:
        model, watch = make(scope=scope, gan_epochs=4), Watch()
        trainer_in(max_epochs=5, callbacks=[watch]).fit(model, loader(blobs(12)))  # 3 steps an epoch
        weights = {key for key, _ in model.scopes.named_parameters()}
        fifth = [(step + 1) % 5 == 0 for step in range(12)] + [False] * 3
        assert watch.changes("generator", parameters=weights) == fifth
        assert watch.changes("critic") == [True] * 12 + [False] * 3
        assert watch.changes("generator")[12:] == [False] * 3  # nor do its batch-norm statistics move
        for network in ("encoder", "head"):
            assert watch.changes(network) == [False] * 12 + [True] * 3

    @pytest.mark.parametrize("feature", ["critic", "encoder"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_encoder_steps_leave_the_gan_bit_identical(self, variant: Any, feature: Any, trainer_in: Make) -> None:
        model, watch = make(variant=variant, feature=feature), Watch()
        trainer_in(max_epochs=3, callbacks=[watch]).fit(model, loader(blobs(8)), loader(blobs(4)))
        for network in ("generator", "critic"):
            assert watch.changes(network)[2:] == [False] * 4
            assert not getattr(only(model), network).training
        assert watch.changes("encoder")[2:] == [True] * 4
        assert all(weight.grad is None for weight in model.parameters())

    def test_losses_against_the_card(self) -> None:
        model = make(kappa=0.5)
        part, x = only(model), 2 * blobs(4) - 1
        generator = torch.Generator()
        code = torch.randn(4, 6, generator=generator.manual_seed(3))
        fake = part.generator(code)
        critic_value = model._critic_loss("", part, x, generator.manual_seed(3))
        share = torch.rand(4, 1, 1, 1, generator=generator.manual_seed(3).set_state(after_code(generator)))
        norm = gradient_norm(part.critic, x + share * (fake - x))
        expected = part.critic(fake).mean() - part.critic(x).mean() + 10 * ((norm - 1) ** 2).mean()
        torch.testing.assert_close(critic_value, expected)
        torch.testing.assert_close(
            model._generator_loss("", part, x, generator.manual_seed(3)), -part.critic(fake).mean()
        )
        part.eval()
        _, terms = model.residuals(part, x)
        izif = model._encoder_loss("", part, x, generator)
        torch.testing.assert_close(izif, (terms["image_residual"] + 0.5 * terms["feature_residual"]).mean())
        model.variant = "izi"
        torch.testing.assert_close(model._encoder_loss("", part, x, generator), terms["image_residual"].mean())
        model.variant = "ziz"
        ziz = model._encoder_loss("", part, x, generator.manual_seed(3))
        torch.testing.assert_close(ziz, ((code - part.encode(part.generator(code))) ** 2).mean())

    def test_penalty_of_a_linear_critic(self) -> None:
        model = make()
        part, x = only(model), 2 * blobs(4) - 1
        weight = torch.randn(1, 8, 8)
        part.critic = Linear(weight)  # type: ignore[assignment]
        generator = torch.Generator()
        loss = model._critic_loss("", part, x, generator.manual_seed(0))
        _, fake = part.sample(4, like=x, generator=generator.manual_seed(0))
        distance = ((x - fake) * weight).sum((1, 2, 3)).mean()
        torch.testing.assert_close(loss + distance, 10 * (weight.norm() - 1) ** 2)

    def test_interpolates_lie_between_pairs_with_a_share_of_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make()
        part, x = only(model), 2 * blobs(50) - 1
        points: list[Tensor] = []
        monkeypatch.setattr(fanogan, "gradient_norm", lambda critic, point: points.append(point) or torch.ones(50))
        generator = torch.Generator()
        model._critic_loss("", part, x, generator.manual_seed(0))
        _, fake = part.sample(50, like=x, generator=generator.manual_seed(0))
        share = ((points[0] - x) * (fake - x)).sum((1, 2, 3)) / (fake - x).square().sum((1, 2, 3))
        torch.testing.assert_close(points[0], x + share.view(-1, 1, 1, 1) * (fake - x), atol=1e-5, rtol=0)
        assert share.min() > -1e-5
        assert share.max() < 1 + 1e-5
        assert 0.2 < share.std() < 0.4  # uniform: 0.29

    def test_local_scope_trains_on_patches_per_step_patches(
        self, trainer_in: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[torch.Size] = []
        monkeypatch.setattr(fanogan, "gradient_norm", watching(gradient_norm, seen))
        model = make(scope="both", image_size=16, patches_per_step=7)
        trainer_in(limit_train_batches=1).fit(model, loader(blobs(4, size=16)))
        assert seen == [(4, 1, 16, 16), (7, 1, 8, 8)]

    def test_a_single_image_for_a_timm_encoder_with_one_cell(self, trainer_in: Make) -> None:
        model = make(encoder="resnet18", image_size=32)
        trainer_in(max_epochs=2).fit(model, loader(blobs(3, size=32), batch_size=2))
        score, _ = model.eval()(blobs(3, size=32))
        assert score.isfinite().all()
        assert only(model).encoder.net.net.bn1.num_batches_tracked == 1  # the batch of one used the statistics so far

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_low_precision(self, precision: Any, variant: Any, trainer_in: Make) -> None:
        model = make(variant=variant, scope="both")
        trainer = trainer_in(max_epochs=2, precision=precision)
        trainer.fit(model, loader(blobs(20)))  # five critic steps, then one of the generator
        assert all(weight.isfinite().all() for weight in model.parameters())
        assert trainer.callback_metrics["train/global_wasserstein"].dtype == torch.float32

    def test_terms_are_logged_apart(self, trainer_in: Make) -> None:
        watch = Watch()
        trainer_in(max_epochs=2, callbacks=[watch]).fit(make(kappa=0.0), loader(blobs(4)))
        assert watch.logged[0].keys() == {"train/wasserstein", "train/gradient_norm"}
        assert watch.logged[1].keys() - watch.logged[0].keys() == {"train/image_residual", "train/feature_residual"}
        both = Watch()
        trainer_in(max_epochs=2, callbacks=[both]).fit(make(scope="both", variant="ziz"), loader(blobs(4)))
        assert {"train/global_code_residual", "train/local_code_residual"} <= both.logged[1].keys()

    def test_a_fit_without_encoder_stage_warns(self, trainer_in: Make) -> None:
        with pytest.warns(UserWarning, match="only trains its GAN: max_epochs=1 does not exceed gan_epochs=1"):
            trainer_in(max_epochs=1).fit(make(), loader(blobs(4)))

    def test_encoders_start_from_their_own_weights(self, trainer_in: Make, tmp_path: Path) -> None:
        saved = {}
        for name, size in (("global", 16), ("local", 8)):
            saved[name] = only(make(image_size=size)).encoder
            for weight in saved[name].parameters():
                nn.init.constant_(weight, 0.5 if name == "local" else 0.25)
            torch.save({f"encoder.{k}": v for k, v in saved[name].state_dict().items()}, tmp_path / name)
        model = make(
            scope="both",
            image_size=16,
            encoder_weights=str(tmp_path / "global"),
            local_encoder_weights=str(tmp_path / "local"),
        )
        trainer_in(max_epochs=1).fit(model, loader(blobs(4, size=16)))  # before the encoder stage
        for name, encoder in saved.items():
            found = only(model, name).encoder.state_dict()
            assert all(torch.equal(value, found[key]) for key, value in encoder.state_dict().items())


def after_code(generator: torch.Generator) -> Tensor:
    """State of a generator seeded with 3 once the codes of four images are drawn."""
    torch.randn(4, 6, generator=generator.manual_seed(3))
    return generator.get_state()


def watching(function: Callable[..., Tensor], seen: list[torch.Size]) -> Callable[..., Tensor]:
    def watched(critic: nn.Module, point: Tensor) -> Tensor:
        seen.append(point.shape)
        return function(critic, point)

    return watched


class Progress(Callback):
    """Distance and gradient norm of the critic in each step of the first phase."""

    def __init__(self) -> None:
        self.values: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.current_epoch < 20:
            logged = trainer.callback_metrics
            self.values.append((float(logged["train/wasserstein"]), float(logged["train/gradient_norm"])))


class TestFittedToBlobs:
    @pytest.fixture(scope="class")
    def fitted(self) -> tuple[FAnoGAN, Progress]:
        model, progress = make(width=8, gan_epochs=20, lr=2e-3, encoder_lr=2e-3), Progress()
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(accelerator="cpu", max_epochs=30, callbacks=[progress], **quiet)  # type: ignore[arg-type]
        trainer.fit(model, loader(blobs(160), batch_size=16))
        return model.eval(), progress

    def test_the_critic_loses_ground_and_its_gradient_norm_nears_1(self, fitted: tuple[FAnoGAN, Progress]) -> None:
        distance, norm = torch.tensor(fitted[1].values).T
        assert (distance[-50:] > 0).float().mean() > 0.9  # its loss is the negative
        assert distance[-20:].mean() < 0.3 * distance[:100].max()
        assert (norm[-20:].mean() - 1).abs() < 0.03

    def test_score_and_map_grow_with_a_spot(self, fitted: tuple[FAnoGAN, Progress]) -> None:
        image, spot = blobs(20, seed=5), torch.zeros(1, 1, 8, 8)
        spot[..., :2, :2] = 1
        scores = []
        with torch.no_grad():
            for amplitude in (0.0, 0.2, 0.4, 0.6, 0.8):
                score, anomaly_map = fitted[0]((image + amplitude * spot).clamp(0, 1))
                scores.append(score)
        assert (torch.stack(scores).diff(dim=0) > 0).all()
        assert (anomaly_map[..., :2, :2].mean((1, 2, 3)) > 3 * anomaly_map[..., 2:, 2:].mean((1, 2, 3))).all()


class SameEverywhere(Callback):
    """After training, every process must hold the same weights."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = torch.cat([weight.detach().flatten() for weight in pl_module.parameters()])
        gathered = pl_module.all_gather(weights)
        assert isinstance(gathered, Tensor)
        assert len(gathered) == 2
        assert torch.equal(gathered[0], gathered[1])


@pytest.mark.slow
def test_both_phases_in_two_processes(trainer_in: Make, two_processes: dict[str, Any]) -> None:
    model = make(scope="both")
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = trainer_in(**two_processes, max_epochs=2, callbacks=[SameEverywhere()])
    trainer.fit(model, loader(torch.cat([blobs(20), 1 - blobs(20)])))  # five steps an epoch and process
    for key, value in model.named_parameters():
        assert value.isfinite().all()
        # The critic's last bias cancels in its loss.
        assert torch.equal(value, before[key]) == key.endswith("critic.head.bias"), key


class SaveAt(Callback):
    """Write a checkpoint after one step."""

    def __init__(self, file: Path, *, epoch: int, batch: int) -> None:
        self.file, self.place = file, (epoch, batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == self.place:
            trainer.save_checkpoint(self.file)


class TestResume:
    @pytest.mark.parametrize("batch", [1, 2], ids=["within_an_epoch", "at_its_end"])
    @pytest.mark.parametrize("epoch", [1, 4], ids=["gan", "encoder"])
    def test_any_phase_continues(self, epoch: int, batch: int, tmp_path: Path, trainer_in: Make) -> None:
        # All batches are alike: a loader without a state of its own starts anew within the epoch.
        data = loader(blobs(4).repeat(3, 1, 1, 1))
        whole, save = make(gan_epochs=3, scope="both"), SaveAt(tmp_path / "a.ckpt", epoch=epoch, batch=batch)
        trainer_in(max_epochs=6, callbacks=[save]).fit(whole, data)
        seed_everything(1, verbose=False)
        resumed, watch = FAnoGAN(**{**TINY, "gan_epochs": 3, "scope": "both"}), Watch()
        trainer_in(max_epochs=6, callbacks=[watch]).fit(resumed, data, ckpt_path=save.file, weights_only=True)
        assert len(watch.logged) == 18 - 3 * epoch - batch - 1
        for key, value in whole.state_dict().items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(resumed.state_dict()[key], value, msg=key)


def test_reconstructions_are_those_that_are_scored() -> None:
    image = blobs(3, size=16)
    for scope in ("global", "local"):
        model = shake(make(scope=scope, image_size=16))
        made = model.reconstruct(image)
        assert made.hidden is None
        assert made.image.shape == image.shape
        if scope == "global":  # of the other, differences are averaged, not reconstructions
            torch.testing.assert_close(2 * (image - made.image).abs(), model(image)[1])
        else:
            first = only(model, scope)
            patch = first.generator(first.encode(2 * image[:, :, :8, :8] - 1))
            torch.testing.assert_close(
                made.image[:, :, :4, :4], (patch[:, :, :4, :4] + 1) / 2
            )  # where no other patch lies


class TestOptions:
    def test_image_score_of_an_encoder_trained_with_features(self) -> None:
        image = blobs(3)
        model = shake(make(score="image"))
        with torch.no_grad():
            score, anomaly_map = model(image)
            _, terms = only_residuals(model, image)
            weighted, same_map = shake(make())(image)
        assert torch.equal(score, terms["image_residual"])
        assert terms["feature_residual"].min() > 0
        assert torch.equal(model.weigh(terms), terms["image_residual"] + terms["feature_residual"])  # what trains
        shaken = make()
        shaken.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(shaken.eval()(image)[0], model.weigh(terms))
        assert anomaly_map.shape == same_map.shape
        assert weighted.shape == score.shape

    def test_constants_of_rmsprop(self) -> None:
        for options, expected in (({}, (0.99, 1e-8)), ({"encoder_alpha": 0.9, "encoder_eps": 1e-5}, (0.9, 1e-5))):
            group = make(**options).configure_optimizers()[2].param_groups[0]
            assert (group["alpha"], group["eps"], group["momentum"]) == (*expected, 0)
        for options in ({"encoder_alpha": 1.0}, {"encoder_alpha": -0.1}, {"encoder_eps": 0.0}):
            with pytest.raises(ConfigError, match=r"encoder_(alpha|eps) must be"):
                make(**options)

    def test_released_initial_weights_reach_all_three_networks(self) -> None:
        part = only(make(initialization="released", width=8))
        for net, name in ((part.generator, "layers.0"), (part.critic, "head"), (part.encoder, "net.head")):
            layer = (net[0] if net is part.generator else net).get_submodule(name)
            assert not layer.bias.any()
            assert float(layer.weight.detach().abs().max()) <= (6 / sum(layer.weight.shape)) ** 0.5
        assert not part.head.bias.any()
        assert only(make(width=8)).head.bias.any()  # torch's
