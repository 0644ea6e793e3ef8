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
from anomaly_suite.methods import OCGAN
from anomaly_suite.methods.reconstruction import ocgan
from anomaly_suite.methods.reconstruction.ocgan import halved, mine
from anomaly_suite.nn.adversarial import logistic_loss

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"in_channels": 1, "image_size": 8, "widths": [4, 6], "latent_dim": 5, "lr": 1e-3}
NETS = ("encoder", "decoder", "classifier", "code_discriminator", "image_discriminator")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Discriminators and classifier so small that tests are quick."""
    if request.function.__name__ != "test_shapes_and_ranges":
        monkeypatch.setattr(ocgan, "CLASSIFIER_WIDTHS", (4, 6))
        monkeypatch.setattr(ocgan, "DISCRIMINATOR_WIDTHS", (4, 6))


def make(**options: Any) -> OCGAN:
    seed_everything(0, verbose=False)
    return OCGAN(**{**TINY, **options})


def data(count: int = 8) -> DataLoader[Any]:
    image = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(image, torch.zeros(count, dtype=torch.long)), batch_size=4)


def state(model: nn.Module, nets: tuple[str, ...] = NETS) -> dict[str, Tensor]:
    return {
        key: value.clone() for net in nets for key, value in getattr(model, net).state_dict(prefix=f"{net}.").items()
    }


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {key.split(".")[0] for key, value in state(model).items() if not torch.equal(value, before[key])}


class TestNetworks:
    @pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
    def test_shapes_and_ranges(self, size: int, channels: int) -> None:
        model = OCGAN(in_channels=channels, image_size=size, latent_dim=16).eval()
        image = 2 * torch.rand(2, channels, size, size) - 1
        code = model.encoder(image)
        assert code.shape == (2, 16)
        assert code.abs().max() < 1
        made = model.decoder(5 * torch.randn(2, 16))
        assert made.shape == image.shape
        assert made.abs().max() <= 1
        assert model.image_discriminator(made).shape == model.classifier(made).shape == (2, 1)
        assert [model.encoder[0].head.in_features, model.classifier.head.in_features] == [4096, 4096]
        assert model.image_discriminator.head.in_features == 48 * 16
        layers = [part for part in model.encoder.modules() if isinstance(part, nn.Conv2d)]
        assert {(part.kernel_size, part.stride, part.padding) for part in layers} == {((5, 5), (2, 2), (2, 2))}

    def test_those_of_the_release(self) -> None:
        model = make(preset="released61", image_size=61, widths=[2, 3, 4]).eval()
        image = torch.rand(2, 1, 61, 61)
        assert [tuple(part(image).shape[2:]) for part in (model.encoder[:1], model.encoder[:-1])] == [(29, 29), (1, 1)]
        assert model.encoder(image).shape == (2, 5)
        assert model.reconstruct(image).image.shape == image.shape
        assert [part.p for part in model.modules() if isinstance(part, nn.Dropout)] == [0.5]
        for options in ({"image_size": 32}, {"image_size": 61, "widths": [4, 4]}):
            with pytest.raises(ConfigError, match="released61 needs image_size=61 and three widths"):
                make(preset="released61", **options)

    def test_initial_weights(self) -> None:
        model = make(widths=[64, 64])
        assert model.encoder[0].levels[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
        scale = model.encoder[0].levels[3].weight.detach()
        assert 0 < (scale - 1).abs().max() < 0.1


class TestMining:
    def test_a_small_step_makes_codes_look_less_like_the_class_and_leaves_all_weights(self) -> None:
        model = make().eval()
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.5)  # at first codes hardly matter
        before = state(model)
        code = 2 * torch.rand(6, 5) - 1
        code[0, 0] = 1.0  # the edge itself

        def logit(z: Tensor) -> Tensor:
            return model.classifier(model.decoder(z))

        found = mine(code, logit, steps=1, rate=1e-2)
        assert found.abs().max() < 1
        assert logistic_loss(logit(found), real=False) < logistic_loss(logit(code.clamp(-0.999, 0.999)), real=False)
        assert not found.requires_grad
        assert not moved(before, model)
        assert all(weight.grad is None for weight in model.parameters())

    def test_one_step_by_hand_and_each_code_alone(self) -> None:
        weight = torch.tensor([[0.5], [-2.0]])
        code = torch.tensor([[0.2, -0.4], [0.0, 0.9]])
        found = mine(code, lambda z: z @ weight, steps=1, rate=2.0)
        for row in range(2):
            z = code[row]
            slope = torch.sigmoid(z @ weight) * weight[:, 0] * (1 - z**2)  # of log(1 + exp(logit)) in atanh(z)
            torch.testing.assert_close(found[row], torch.tanh(z.atanh() - 2 * slope))

    def test_no_steps_leave_codes(self) -> None:
        code = torch.rand(3, 2)
        torch.testing.assert_close(mine(code, lambda z: z.sum(1, keepdim=True), steps=0, rate=2.0), code)


class TestTraining:
    def test_each_step_moves_its_own_networks_alone(self, monkeypatch: pytest.MonkeyPatch, trainer_in: Make) -> None:
        steps: list[set[str]] = []
        step_alone, begun = OCGAN.step_alone, {}

        def watched(self: OCGAN, *optimizers: Any, losses: Any) -> None:
            step_alone(self, *optimizers, losses=losses)
            steps.append(moved(begun, self))
            begun.update(state(self))

        class Begin(Callback):
            def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
                begun.update(state(pl_module))

        monkeypatch.setattr(OCGAN, "step_alone", watched)
        model = make()
        trainer_in(max_epochs=1, limit_train_batches=1, callbacks=[Begin()]).fit(model, data())
        # Running statistics of the autoencoder move once, as it reconstructs, before the first step.
        assert steps[0] == {"classifier", "encoder", "decoder"}
        assert steps[1:] == [{"code_discriminator", "image_discriminator"}, {"encoder", "decoder"}]
        counts = {key: int(value) for key, value in model.state_dict().items() if key.endswith("batches_tracked")}
        assert {value for key, value in counts.items() if key.startswith(("encoder", "decoder"))} == {1}

    def test_discriminator_steps_leave_the_weights_of_the_autoencoder(self, trainer_in: Make) -> None:
        model = make(latent_weight=0.0, reconstruction_weight=0.0)
        before = {name: weight.clone() for name, weight in model.encoder.named_parameters()}
        trainer_in(max_epochs=1, limit_train_batches=1).fit(model, data())
        # Nothing but decoded random codes trains the autoencoder: the encoder stays.
        assert all(torch.equal(weight, before[name]) for name, weight in model.encoder.named_parameters())

    def test_discriminators_that_know_nothing_lose_ln_2(self) -> None:
        zero = torch.zeros(4, 1)
        assert halved(zero, zero).item() == pytest.approx(math.log(2))

    def test_losses_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make(latent_weight=3.0, reconstruction_weight=7.0)
        logged: dict[str, Tensor] = {}
        monkeypatch.setattr(model, "log_dict", lambda values, **named: logged.update(values))
        monkeypatch.setattr(model, "log", lambda name, value, **named: logged.update({name: value}))
        x, code, uniform, random = 2 * torch.rand(4, 1, 8, 8) - 1, torch.rand(4, 5), torch.rand(4, 5), torch.rand(4, 5)
        before = state(model)
        made = torch.rand(4, 1, 8, 8)
        latent, visual, error = model._autoencoder_losses(x, made, code, random)
        assert not moved(before, model)  # no running statistics
        torch.testing.assert_close(latent, -3 * model.code_discriminator(code).sigmoid().log().mean())
        torch.testing.assert_close(error, 7 * ((x - made) ** 2).mean())
        torch.testing.assert_close(logged["train/code_std"], code.std(0, correction=0).mean())
        fake = model.decoder(random)
        torch.testing.assert_close(visual, -model.image_discriminator(fake).sigmoid().log().mean())
        of_codes, of_images = model._discriminator_losses(x, fake, code, uniform)
        judged = model.code_discriminator(uniform).sigmoid().log(), (1 - model.code_discriminator(code).sigmoid()).log()
        torch.testing.assert_close(of_codes, -(judged[0].mean() + judged[1].mean()) / 2)
        judged = model.image_discriminator(x).sigmoid().log(), (1 - model.image_discriminator(fake).sigmoid()).log()
        torch.testing.assert_close(of_images, -(judged[0].mean() + judged[1].mean()) / 2)
        loss = model._classifier_loss(made, fake)
        judged = model.classifier(made).sigmoid().log(), (1 - model.classifier(fake).sigmoid()).log()
        torch.testing.assert_close(loss, -(judged[0].mean() + judged[1].mean()) / 2)

    @pytest.mark.parametrize(("start", "order"), [("drawn", "cdm"), ("released", "mdc")])
    def test_order_and_share_of_mining(
        self, start: Any, order: str, monkeypatch: pytest.MonkeyPatch, trainer_in: Make
    ) -> None:
        seen: list[str] = []
        given: list[tuple[Tensor, Tensor]] = []
        model = make(mining_start=start, mining_from=0.5)
        for name, letter in (("_classifier_loss", "c"), ("_discriminator_losses", "d"), ("_mine", "m")):
            own = getattr(model, name)
            monkeypatch.setattr(model, name, lambda *args, own=own, letter=letter: seen.append(letter) or own(*args))
        losses = model._autoencoder_losses
        monkeypatch.setattr(
            model,
            "_autoencoder_losses",
            lambda x, made, code, random: (
                seen.append(".") or given.append((code, random)) or losses(x, made, code, random)
            ),
        )
        trainer_in(max_epochs=2).fit(model, data())  # two batches an epoch
        early = order.replace("m", "")
        assert "".join(seen) == (early + ".") * 2 + (order + ".") * 2
        bound = math.tanh(1) if start == "released" else 1.0
        assert max(float(random.abs().max()) for _, random in given[:2]) <= bound
        assert all(random.abs().max() < 1 for _, random in given)

    def test_uniform_codes(self) -> None:
        model = make(latent_dim=50)
        drawn = model.sample(torch.empty(400, 1, 8, 8), torch.Generator().manual_seed(3))
        assert drawn.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.02)
        assert -1 <= drawn.min() < -0.99 < 0.99 < drawn.max() <= 1

    def test_without_noise_and_adversaries_it_is_an_autoencoder(
        self, monkeypatch: pytest.MonkeyPatch, trainer_in: Make
    ) -> None:
        model = make(noise_std=0.0, latent_weight=0.0, reconstruction_weight=1e9)
        seen: list[Tensor] = []
        losses = model._autoencoder_losses

        def watched(x: Tensor, made: Tensor, code: Tensor, random: Tensor) -> list[Tensor]:
            found = losses(x, made, code, random)
            seen.append(torch.stack(found).sum() / 1e9)
            seen.append((x - made).square().mean())
            return found

        monkeypatch.setattr(model, "_autoencoder_losses", watched)
        trainer_in(max_epochs=1, limit_train_batches=1).fit(model, data())
        torch.testing.assert_close(seen[0], seen[1])


class TestScore:
    def test_residual_and_visual(self) -> None:
        model, image = make(in_channels=3).eval(), torch.rand(4, 3, 8, 8)
        score, anomaly_map = model(image)
        x = 2 * image - 1
        made = model.decoder(model.encoder(x))
        torch.testing.assert_close(score, (x - made).square().mean((1, 2, 3)))
        torch.testing.assert_close(anomaly_map[:, 0], (x - made).square().mean(1))
        assert torch.equal(model(image)[0], score)
        torch.testing.assert_close(torch.cat([model(one[None])[0] for one in image]), score)
        torch.testing.assert_close(model.reconstruct(image).image, (made + 1) / 2)
        model.score = "visual"
        model.image_discriminator = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 8 * 8, 1)
        )  # whose values are no mere rounding
        torch.testing.assert_close(model(image)[0], -model.image_discriminator(made)[:, 0])
        with pytest.raises(ShapeError, match="built for images of shape"):
            model(torch.rand(1, 3, 16, 16))

    def test_refused_options(self) -> None:
        with pytest.raises(ConfigError, match="mining_from must be"):
            make(mining_from=1.5)


def test_a_cut_run_goes_on_with_its_mining(tmp_path: Path, trainer_in: Make) -> None:
    image = torch.rand(4, 1, 8, 8).repeat(3, 1, 1, 1)
    batches = DataLoader(TensorDataset(image, torch.zeros(12, dtype=torch.long)), batch_size=4)

    class Save(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, out: Any, batch: Any, index: int
        ) -> None:
            if (trainer.current_epoch, index) == (1, 1):
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    whole = make(mining_from=0.5)
    trainer_in(max_epochs=3, callbacks=[Save()]).fit(whole, batches)
    seed_everything(1, verbose=False)
    resumed = OCGAN(**{**TINY, "mining_from": 0.5})
    trainer_in(max_epochs=3).fit(resumed, batches, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    for key, value in whole.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(resumed.state_dict()[key], value), key
