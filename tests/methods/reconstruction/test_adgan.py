from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.methods import ADGAN
from anomaly_suite.methods.reconstruction import adgan

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {
    "in_channels": 1, "image_size": 8, "widths": [4], "latent_dim": 6, "gan_epochs": 1, "critic_steps": 2, "lr": 1e-3,
}  # fmt: skip
NETS = ("generator", "critic", "encoder", "discriminator")


def make(**options: Any) -> ADGAN:
    seed_everything(0, verbose=False)
    return ADGAN(**{**TINY, **options})


def loader(count: int, *, size: int = 8) -> DataLoader[Any]:
    image = torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(image, torch.zeros(count, dtype=torch.long)), batch_size=4)


class Watch(Callback):
    """The networks after each batch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._note(pl_module)

    def _note(self, model: LightningModule) -> None:
        self.states.append(
            {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
        )

    def changes(self, net: str) -> str:
        """A 1 for every batch that changed a parameter or buffer of a network."""
        return "".join(
            str(int(any(not torch.equal(before[key], after[key]) for key in before if key.startswith(f"{net}."))))
            for before, after in zip(self.states, self.states[1:], strict=False)
        )


class TestNetworks:
    def test_parameter_counts_of_the_card(self) -> None:
        model = ADGAN()
        counts = [sum(weight.numel() for weight in getattr(model, net).parameters()) for net in NETS]
        assert counts == [8_540_483, 2_586_241, 3_806_144, 74_241]

    @pytest.mark.parametrize(("size", "latent_dim"), [(32, 16), (64, 128)])
    def test_shapes_and_ranges(self, size: int, latent_dim: int) -> None:
        model = ADGAN(image_size=size, latent_dim=latent_dim, widths=[8] * (size // 16)).eval()
        image = model.generator(5 * torch.randn(2, latent_dim))
        assert image.shape == (2, 3, size, size)
        assert image.abs().max() <= 1
        assert model.critic(image).shape == (2, 1)
        code = model.encoder(image)
        assert code.shape == (2, latent_dim)
        assert code.abs().max() < 1
        assert model.discriminator(code).shape == (2, 1)
        with pytest.raises(ShapeError, match="built for images of shape"):
            model.encoder(image[..., 1:])

    def test_the_smaller_networks_of_32_pixels_end_with_4_x_4_x_256(self) -> None:
        model = ADGAN(image_size=32)
        assert model.critic.trunk_features == 256 * 16
        assert model.generator[0].layers[0].out_features == 256 * 16

    def test_norms_and_outputs(self) -> None:
        model = make()
        kinds = {net: {type(part) for part in getattr(model, net).modules()} for net in NETS}
        assert nn.GroupNorm in kinds["critic"]
        assert nn.BatchNorm2d not in kinds["critic"]
        assert not any(nn.Sigmoid in kind for kind in kinds.values())

    def test_initial_weights(self) -> None:
        model = make(widths=[64], latent_dim=128)
        convolution = model.encoder[0].levels[0]
        assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.1)
        for layer in (convolution, model.encoder[0].head, model.discriminator[0], model.critic.head):
            assert not layer.bias.any()
        linear = model.discriminator[0].weight
        assert linear.abs().max().item() == pytest.approx(math.sqrt(6 / (128 + 256)), rel=0.01)  # Glorot's, uniform


class TestScore:
    def test_a_perfect_reconstruction_scores_0_and_one_pixel_its_square(self) -> None:
        model, image = make(in_channels=3).eval(), torch.rand(2, 3, 8, 8)
        model.encoder = nn.Identity()  # type: ignore[assignment]
        model.generator = nn.Identity()  # type: ignore[assignment]
        model.has_encoder.fill_(1)
        assert model(image)[0].tolist() == [0, 0]
        spot = torch.zeros(3, 8, 8)
        spot[1, 2, 3] = 0.1

        class Spot(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x + spot

        model.generator = Spot()  # type: ignore[assignment]
        score, anomaly_map = model(image)
        torch.testing.assert_close(score, torch.full((2,), 0.01))
        assert anomaly_map[0, 0].count_nonzero() == 1
        torch.testing.assert_close(anomaly_map[:, 0, 2, 3], torch.full((2,), 0.01 / 3))

    def test_scores_repeat_and_do_not_depend_on_batch_mates(self) -> None:
        model, image = make().eval(), torch.rand(5, 1, 8, 8)
        model.has_encoder.fill_(1)
        whole = model(image)[0]
        assert torch.equal(whole, model(image)[0])
        torch.testing.assert_close(torch.cat([model(one[None])[0] for one in image]), whole)

    def test_the_reconstruction_is_the_one_that_is_scored(self) -> None:
        model, image = make(in_channels=3).eval(), torch.rand(2, 3, 8, 8)
        model.has_encoder.fill_(1)
        made = model.reconstruct(image).image
        torch.testing.assert_close((4 * (made - image) ** 2).sum((1, 2, 3)), model(image)[0])


class TestTraining:
    def test_who_moves_when(self, trainer_in: Make) -> None:
        model, watch = make(critic_steps=3, gan_epochs=2), Watch()
        trainer_in(max_epochs=4, callbacks=[watch]).fit(model, loader(16))  # four batches an epoch
        assert watch.changes("critic") == "1" * 16
        # Steps of the critic draw images, too: those of batch norm are new in each.
        weights = [name for name, _ in model.generator.named_parameters()]
        moved = "".join(
            str(int(any(not torch.equal(a[f"generator.{name}"], b[f"generator.{name}"]) for name in weights)))
            for a, b in zip(watch.states, watch.states[1:], strict=False)
        )
        assert moved == "001" * 5 + "0"
        assert watch.changes("encoder") == "0" * 8 + "10010010"
        assert watch.changes("discriminator") == watch.changes("encoder")
        assert model.is_fitted

    def test_the_encoder_counts_batches_in_the_second_phase_alone(self, trainer_in: Make) -> None:
        model, watch = make(image_size=16, widths=[4, 8], gan_epochs=1, critic_steps=1), Watch()
        counts = [key for key in model.state_dict() if key.startswith("encoder.") and key.endswith("batches_tracked")]
        trainer_in(max_epochs=2, callbacks=[watch]).fit(model, loader(16, size=16))
        counted = [max(int(state[key]) for key in counts) for state in watch.states]
        assert counted[:5] == [0] * 5
        assert counted[4:] == sorted(set(counted))  # more after each
        assert model.encoder.training

    def test_the_joint_step_moves_neither_critic_nor_discriminator(
        self, monkeypatch: pytest.MonkeyPatch, trainer_in: Make
    ) -> None:
        steps: list[tuple[set[str], set[str]]] = []
        step_alone = ADGAN.step_alone

        def watched(self: ADGAN, *optimizers: Any, losses: Any) -> None:
            before = {key: value.detach().clone() for key, value in self.named_parameters()}
            step_alone(self, *optimizers, losses=losses)
            moved = {key.split(".")[0] for key, value in self.named_parameters() if not torch.equal(value, before[key])}
            steps.append(({"one", "two"} if len(optimizers) == 2 else {"one"}, moved))

        monkeypatch.setattr(ADGAN, "step_alone", watched)
        trainer_in(max_epochs=2).fit(make(critic_steps=1), loader(4))
        assert [moved for _, moved in steps] == [
            {"critic"}, {"generator"}, {"critic"}, {"discriminator"}, {"generator", "encoder"},
        ]  # fmt: skip

    @pytest.mark.parametrize("detach", [False, True])
    def test_what_the_joint_step_compares(
        self, detach: bool, monkeypatch: pytest.MonkeyPatch, trainer_in: Make
    ) -> None:
        seen: dict[str, Any] = {}
        discriminator_loss, latent_losses = ADGAN._discriminator_loss, ADGAN._latent_losses

        def discriminator(self: ADGAN, found: Tensor, drawn: Tensor) -> Tensor:
            seen.update(shown=found, drawn=drawn)
            return discriminator_loss(self, found, drawn)

        def latent(self: ADGAN, x: Tensor, code: Tensor, found: Tensor) -> list[Tensor]:
            weights = list(self.generator.parameters())
            reached = torch.autograd.grad(found.sum(), weights, retain_graph=True, allow_unused=True)
            seen.update(code=code, found=found.detach(), reached=any(each is not None for each in reached))
            return latent_losses(self, x, code, found)

        monkeypatch.setattr(ADGAN, "_discriminator_loss", discriminator)
        monkeypatch.setattr(ADGAN, "_latent_losses", latent)
        trainer_in(max_epochs=2).fit(make(critic_steps=1, detach_visual=detach), loader(4))
        assert torch.equal(seen["shown"], seen["found"])  # codes of made images against drawn ones
        assert not torch.equal(seen["drawn"], seen["code"])
        assert not torch.equal(seen["found"], seen["code"])
        assert seen["reached"] != detach

    @pytest.mark.parametrize("detach", [False, True])
    @pytest.mark.parametrize("izi_weight", [0.0, 1.0])
    def test_latent_losses_reach_the_generator_unless_it_is_detached(
        self, detach: bool, izi_weight: float, trainer_in: Make
    ) -> None:
        model = make(detach_visual=detach, izi_weight=izi_weight)
        model.log = model.log_dict = lambda *args, **named: None  # type: ignore[method-assign, assignment]
        code, x = torch.rand(4, 6) * 2 - 1, torch.rand(4, 1, 8, 8)
        fake = model.generator(code)
        found = model.encoder(fake.detach() if detach else fake)
        losses = model._latent_losses(x, code, found)
        assert len(losses) == 2 + (izi_weight > 0)
        for loss in losses[1:]:  # the cycle, and images drawn from their own codes
            of_generator, of_encoder = (
                torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
                for net in (model.generator, model.encoder)
            )
            assert any(each is not None and each.any() for each in of_encoder)
            assert any(each is not None and each.any() for each in of_generator) != detach

    def test_losses_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make(latent_weight=0.5, cycle_weight=3.0, izi_weight=2.0, penalty_weight=7.0)
        logged: dict[str, Tensor] = {}
        monkeypatch.setattr(model, "log_dict", lambda values, **named: logged.update(values))
        monkeypatch.setattr(model, "log", lambda name, value, **named: logged.update({name: value}))
        code, found, x = torch.rand(4, 6), torch.rand(4, 6), 2 * torch.rand(4, 1, 8, 8) - 1
        latent, cycle, real = model._latent_losses(x, code, found)
        probability = model.discriminator(found).sigmoid()
        torch.testing.assert_close(latent, -0.5 * probability.log().mean())
        torch.testing.assert_close(cycle, 3 * sum((code[b] - found[b]).square().sum() / 6 for b in range(4)) / 4)
        torch.testing.assert_close(real, 2 * (x - model.generator(model.encoder(x))).square().mean())
        torch.testing.assert_close(logged["train/real_error"], real.detach() / 2)
        nn.init.zeros_(model.discriminator[-1].weight)
        torch.testing.assert_close(model._discriminator_loss(found, code).detach(), torch.tensor(2 * math.log(2)))
        nn.init.zeros_(model.critic.head.weight)  # flat: the penalty alone is left
        loss = model._critic_loss(x, torch.Generator().manual_seed(0))
        assert loss.item() == pytest.approx(7.0, rel=1e-4)
        assert model._visual_loss(x).item() == -model.critic.head.bias.item()

    def test_looking_at_real_images_moves_no_statistics(self) -> None:
        model = make().train()
        model.log = model.log_dict = lambda *args, **named: None  # type: ignore[method-assign, assignment]
        before = {key: value.clone() for key, value in model.named_buffers()}
        x = torch.rand(4, 1, 8, 8)
        model._latent_losses(x, torch.rand(4, 6), torch.rand(4, 6))
        assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
        assert all(part.training for part in (*model.generator.modules(), *model.encoder.modules()))

    def test_codes_are_uniform_and_repeat_with_the_seed(self) -> None:
        model = make(latent_dim=50)
        draw = [model.sample(torch.empty(400, 1, 8, 8), torch.Generator().manual_seed(3)) for _ in range(2)]
        assert torch.equal(*draw)
        assert draw[0].shape == (400, 50)
        assert -1 <= draw[0].min() < -0.99 < 0.99 < draw[0].max() <= 1
        assert draw[0].std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)

    def test_with_the_printed_sign_of_the_critic_the_game_is_none(
        self, monkeypatch: pytest.MonkeyPatch, trainer_in: Make
    ) -> None:
        """Real and generated images are not told apart in their favour."""

        def last_distance() -> float:
            trainer = trainer_in(max_epochs=5)
            trainer.fit(make(gan_epochs=100, critic_steps=5, lr=0.01), loader(16))
            return float(trainer.callback_metrics["train/wasserstein"])

        assert last_distance() > 0
        critic_loss = adgan.critic_loss
        monkeypatch.setattr(
            adgan, "critic_loss", lambda real, fake, norm, **named: critic_loss(fake, real, norm, **named)
        )
        assert last_distance() < 0


class SaveAt(Callback):
    def __init__(self, file: Path, epoch: int) -> None:
        self.file, self.epoch = file, epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, out: Any, batch: Any, index: int
    ) -> None:
        if (trainer.current_epoch, index) == (self.epoch, 1):
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("epoch", [1, 3], ids=["visual", "joint"])
def test_any_phase_continues_with_the_turn_it_was_in(epoch: int, tmp_path: Path, trainer_in: Make) -> None:
    image = torch.rand(4, 1, 8, 8).repeat(3, 1, 1, 1)  # batches are alike: a plain loader starts anew within the epoch
    data = DataLoader(TensorDataset(image, torch.zeros(12, dtype=torch.long)), batch_size=4)
    options = {"gan_epochs": 2, "critic_steps": 4}
    whole, save = make(**options), SaveAt(tmp_path / "a.ckpt", epoch)
    trainer_in(max_epochs=5, callbacks=[save]).fit(whole, data)
    seed_everything(1, verbose=False)
    resumed = ADGAN(**{**TINY, **options})
    trainer_in(max_epochs=5).fit(resumed, data, ckpt_path=save.file, weights_only=True)
    for key, value in whole.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(resumed.state_dict()[key], value), key


def test_refused_options() -> None:
    for options in ({"gan_epochs": 0}, {"critic_steps": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            make(**options)
    with pytest.raises(ConfigError, match="image_size must be divisible by 4 for 2 levels"):
        make(image_size=30, widths=[4, 8])
