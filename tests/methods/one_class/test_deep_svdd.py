from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.losses import MSSSIM, away_from_zero, squared_distance, squared_error
from anomaly_suite.methods.one_class.deep_svdd import DeepSVDD, boundary_radius, soft_boundary_loss
from anomaly_suite.nn.lenet import LeNetEncoder, global_contrast_normalization

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"image_size": 16, "widths": [8, 4], "latent_dim": 16, "lr": 1e-3, "ae_lr": 1e-3}
REC: dict[str, Any] = {"reconstruction_weight": 1.0, "width": 4}


def blobs(count: int, *, seed: int = 0, channels: int = 1, size: int = 16) -> Tensor:
    """A bright blob near the middle on noise."""
    generator = torch.Generator().manual_seed(seed)
    place = 0.2 * torch.randn(2, count, 1, 1, 1, generator=generator)
    row, column = torch.meshgrid(*[torch.linspace(-2, 2, size)] * 2, indexing="ij")
    blob = torch.exp(-((row - place[0]) ** 2) - (column - place[1]) ** 2)
    return (blob + 0.05 * torch.rand(count, channels, size, size, generator=generator)).clamp(0, 1)


def loader(image: Tensor, *, batch_size: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(image, torch.zeros(len(image), dtype=torch.long)), batch_size=batch_size)


def fit(trainer: Trainer, image: Tensor, *, batch_size: int = 8, **options: Any) -> DeepSVDD:
    seed_everything(0, verbose=False)
    model = DeepSVDD(**{**TINY, **options})
    trainer.fit(model, loader(image, batch_size=batch_size))
    return model.eval()


class TestNetworks:
    @pytest.mark.parametrize(
        ("channels", "size", "widths", "latent", "count"),
        [(1, 28, (8, 4), 32, 7_272), (3, 32, (32, 64, 128), 128, 2_400 + 51_200 + 204_800 + 262_144)],
    )
    def test_no_biases_no_affine_norms(
        self, channels: int, size: int, widths: tuple[int, ...], latent: int, count: int
    ) -> None:
        model = DeepSVDD(in_channels=channels, image_size=size)
        encoder = LeNetEncoder(in_channels=channels, image_size=(size, size), widths=widths)
        assert str(model.encoder) == str(encoder)  # these are the defaults
        assert model.head.out_features == latent
        assert sum(p.numel() for part in (model.encoder, model.head) for p in part.parameters()) == count
        assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
        assert norms
        assert all(not norm.affine and norm.eps == 1e-4 for norm in norms)

    def test_decoders_of_the_two_papers_sizes(self) -> None:
        grey = DeepSVDD(image_size=28).decoder
        colour = DeepSVDD(in_channels=3, image_size=32).decoder
        assert grey is not None
        assert colour is not None
        layers = [[(c.in_channels, c.out_channels, c.padding) for c in d.convolutions] for d in (grey, colour)]  # type: ignore[union-attr]
        assert layers[0] == [(2, 4, (2, 2)), (4, 8, (3, 3)), (8, 1, (2, 2))]
        assert layers[1] == [(8, 128, (2, 2)), (128, 64, (2, 2)), (64, 32, (2, 2)), (32, 3, (2, 2))]
        assert grey.normalize is None
        assert isinstance(colour.normalize, nn.BatchNorm1d)

    def test_refused_options(self) -> None:
        with pytest.raises(ConfigError, match="multiple of 16"):
            DeepSVDD(latent_dim=20)
        with pytest.raises(ConfigError, match="only lenet can be pre-trained"):
            DeepSVDD(backbone="resnet18", ae_epochs=1)
        for nu in (0.0, 1.1):
            with pytest.raises(ConfigError, match="nu must be above 0"):
                DeepSVDD(nu=nu)
        with pytest.raises(ConfigError, match="residual backbone has no ImageNet weights"):
            DeepSVDD(backbone="residual", image_size=16)
        for weight, score in ((-1.0, "distance"), (0.0, "sum")):
            with pytest.raises(ConfigError, match=r"reconstruction_weight must be (at least 0|0 or above)"):
                DeepSVDD(**TINY, reconstruction_weight=weight, score=score)
        with pytest.raises(ConfigError, match="28-pixel sets to 32"):
            DeepSVDD(reconstruction_weight=1.0)


class TestFormulas:
    def test_distance_and_its_gradient(self) -> None:
        center = torch.tensor([1.0, -2.0])
        code = torch.tensor([[1.0, -2.0], [4.0, 2.0], [101.0, -2.0]], requires_grad=True)
        distance = squared_distance(code, center)
        assert distance.tolist() == [0, 25, 10_000]
        distance.mean().backward()
        assert code.grad is not None
        torch.testing.assert_close(code.grad, 2 * (code.detach() - center) / 3)
        assert code.grad[2].norm() / code.grad[1].norm() == 20  # grows with the distance, 100 to 5

    def test_center_keeps_away_from_zero(self) -> None:
        center = torch.tensor([0.0, 0.05, -0.05, 0.1, -0.3, 2.0])
        torch.testing.assert_close(away_from_zero(center), torch.tensor([0.1, 0.1, -0.1, 0.1, -0.3, 2.0]))

    def test_soft_boundary(self) -> None:
        distance = torch.tensor([1.0, 4.0, 9.0], requires_grad=True)
        torch.testing.assert_close(soft_boundary_loss(distance, torch.tensor(0.0), nu=0.1), distance.mean() / 0.1)
        assert soft_boundary_loss(distance, torch.tensor(2.0), nu=0.5).item() == pytest.approx(4 + 5 / 3 / 0.5)
        inside = soft_boundary_loss(distance, torch.tensor(10.0), nu=0.1)
        inside.backward()
        assert inside.item() == 100
        assert distance.grad is not None
        assert distance.grad.tolist() == [0, 0, 0]

    def test_radius_is_a_quantile_of_distances_not_of_their_squares(self) -> None:
        assert boundary_radius(torch.arange(1.0, 11.0) ** 2, nu=0.1).item() == pytest.approx(9.1)


class Watch(Callback):
    """What the optimiser was told in each epoch, and the centre after it."""

    def __init__(self) -> None:
        self.rates: list[list[tuple[float, float]]] = []
        self.steps: list[float] = []
        self.weights: list[dict[str, Tensor]] = []
        self.center: list[Tensor] = []
        self.radius: list[float] = []
        self.loss: list[float] = []
        self.distance: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        self.rates.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])
        self.steps.append(float(next(iter(optimizer.state.values()))["step"]))
        self.weights.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})
        assert isinstance(pl_module, DeepSVDD)
        self.center.append(pl_module.center.clone())
        self.radius.append(pl_module.radius.item())
        self.loss.append(trainer.callback_metrics["train/loss"].item())
        self.distance.append(trainer.callback_metrics.get("train/distance", torch.tensor(torch.nan)).item())


class TestFit:
    def test_input_range_and_center_come_from_the_training_images(self, trainer_in: Make) -> None:
        image, model = blobs(21), DeepSVDD(**TINY, ae_epochs=0)
        with torch.no_grad():
            model.head.weight *= 10  # some components farther than 0.1 from 0, some nearer
        encoder = copy.deepcopy(nn.Sequential(model.encoder, model.head)).eval()
        trainer_in().fit(model, loader(image))
        x = global_contrast_normalization(image)
        torch.testing.assert_close(model.input_range, torch.stack([x.min(), x.max()]))
        with torch.no_grad():
            mean = encoder((x - x.min()) / (x.max() - x.min())).mean(0)
        free = mean.abs() >= 0.1
        assert 0 < free.sum() < len(mean)
        torch.testing.assert_close(model.center[free], mean[free], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.center[~free], 0.1 * mean[~free].sign())

    def test_padding_rows_do_not_count(self, trainer_in: Make) -> None:
        image = blobs(6)
        repeated = torch.cat([image, 10 * image[:2]])  # whose range would differ, too
        rows = [{"image": x, "padding": torch.tensor(i >= 6)} for i, x in enumerate(repeated)]
        seed_everything(0, verbose=False)
        padded = DeepSVDD(**TINY, ae_epochs=0)
        trainer_in().fit(padded, DataLoader(rows, batch_size=2))  # type: ignore[arg-type]
        plain = fit(trainer_in(), image, ae_epochs=0)
        torch.testing.assert_close(padded.center, plain.center, rtol=1e-4, atol=1e-5)
        assert torch.equal(padded.input_range, plain.input_range)

    def test_center_is_fixed_and_distances_shrink(self, trainer_in: Make) -> None:
        watch = Watch()
        model = fit(trainer_in(max_epochs=8, callbacks=[watch]), blobs(32), ae_epochs=0)
        assert all(torch.equal(center, watch.center[0]) for center in watch.center)
        assert {"center", "radius", "input_range"} <= dict(model.named_buffers()).keys()
        assert watch.loss[-1] < 0.7 * watch.loss[0]
        assert watch.distance == watch.loss

    def test_phases(self, trainer_in: Make) -> None:
        watch = Watch()
        fit(
            trainer_in(max_epochs=6, callbacks=[watch]), blobs(16), ae_epochs=3,
            ae_lr=4e-3, ae_lr_milestones=[2], ae_weight_decay=1e-2, lr=2e-3, lr_milestones=[1, 2], weight_decay=1e-3,
        )  # fmt: skip
        first = [[(4e-3, 1e-2)] * 2] * 2 + [[(4e-4, 1e-2)] * 2]
        second = [[(rate, 1e-3), (0.0, 1e-3)] for rate in (2e-3, 2e-4, 2e-5)]
        torch.testing.assert_close(torch.tensor(watch.rates), torch.tensor(first + second))
        assert watch.steps == [2, 4, 6, 2, 4, 6]  # two batches an epoch; the state starts anew
        assert [int(center.isfinite().sum()) for center in watch.center] == [0, 0, 0, 16, 16, 16]
        for name, weight in watch.weights[5].items():
            assert torch.equal(weight, watch.weights[2][name]) == name.startswith("decoder."), name
        assert watch.loss[2] < watch.loss[0]
        assert watch.loss[5] < watch.loss[3]

    def test_scores_before_the_center_are_reconstruction_errors(self, trainer_in: Make) -> None:
        with pytest.warns(UserWarning, match=r"only pre-trains.*max_epochs=1 does not exceed ae_epochs=2"):
            model = fit(trainer_in(), blobs(16), ae_epochs=2)
        assert model.decoder is not None
        x = model.normalize(blobs(4, seed=1))
        torch.testing.assert_close(model(blobs(4, seed=1))[0], squared_error(x, model.decoder(model.encode(x))))

    @pytest.mark.parametrize(
        "variant",
        [{"lr_milestones": [1]}, {"objective": "soft-boundary", "warmup_epochs": 1}, REC],
        ids=["one-class", "soft-boundary", "rec"],
    )
    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_resuming_in_any_phase(self, variant: dict[str, Any], stop: int, tmp_path: Path, trainer_in: Make) -> None:
        options = {**variant, "ae_epochs": 2}
        image = blobs(16)
        whole = fit(trainer_in(max_epochs=4), image, **options)
        saver = ModelCheckpoint(dirpath=tmp_path, filename="part")
        fit(trainer_in(max_epochs=stop, enable_checkpointing=True, callbacks=[saver]), image, **options)
        seed_everything(1, verbose=False)
        resumed = DeepSVDD(**{**TINY, **options})
        trainer_in(max_epochs=4).fit(resumed, loader(image), ckpt_path=tmp_path / "part.ckpt", weights_only=True)
        for (name, first), second in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            if isinstance(first, Tensor):
                assert torch.equal(first.nan_to_num(), second.nan_to_num()), name

    def test_soft_boundary_moves_the_radius_after_the_warm_up(self, trainer_in: Make) -> None:
        watch, image = Watch(), blobs(20)
        model = fit(
            trainer_in(max_epochs=4, callbacks=[watch]), image, batch_size=20,
            ae_epochs=1, objective="soft-boundary", nu=0.1, warmup_epochs=2, lr=0.0,
        )  # fmt: skip
        assert watch.radius[:3] == [0, 0, 0]
        # With a rate of 0 only batch norm moves; its running statistics are not used in training.
        model.train()
        with torch.no_grad():
            distance = squared_distance(model.encode(model.normalize(image)), model.center)
        assert watch.radius[3] == pytest.approx(boundary_radius(distance, nu=0.1).item(), rel=1e-4)
        model.eval()
        inside = model(image)[0] + model.radius**2
        torch.testing.assert_close(inside, squared_distance(model.encode(model.normalize(image)), model.center))

    def test_score_does_not_depend_on_the_batch(self, trainer_in: Make) -> None:
        model, image = fit(trainer_in(max_epochs=2), blobs(16), ae_epochs=1), blobs(5, seed=1)
        alone = torch.cat([model(x.unsqueeze(0))[0] for x in image])
        torch.testing.assert_close(alone, model(image)[0], rtol=1e-4, atol=1e-6)

    def test_anomalies_are_farther_away(self, trainer_in: Make) -> None:
        model = fit(trainer_in(max_epochs=20), blobs(64), ae_epochs=10)
        normal, anomalous = blobs(20, seed=1), blobs(20, seed=1).flip(2).roll(6, 3)
        assert (model(anomalous)[0].unsqueeze(1) > model(normal)[0]).float().mean() > 0.9

    def test_images_of_one_colour(self, trainer_in: Make) -> None:
        with pytest.raises(ConfigError, match="not all of one colour"):
            fit(trainer_in(), torch.full((4, 1, 16, 16), 0.5), ae_epochs=0)

    def test_one_colour_image_cannot_pretrain(self, trainer_in: Make) -> None:
        options = {"in_channels": 3, "ae_epochs": 1, "widths": [4, 4]}
        with pytest.raises(ShapeError, match="at least 2 images in every training batch"):
            fit(trainer_in(), blobs(3, channels=3), batch_size=2, **options)
        assert fit(trainer_in(max_epochs=2), blobs(4, channels=3), batch_size=2, **options).is_fitted

    def test_another_size_is_refused(self, trainer_in: Make) -> None:
        with pytest.raises(ShapeError, match=r"\(1, 16, 16\); got \(1, 20, 20\)"):
            fit(trainer_in(), blobs(4, size=20), ae_epochs=0)

    def test_a_timm_network_of_any_size(self, trainer_in: Make) -> None:
        model = fit(trainer_in(), blobs(6, size=40), backbone="resnet18", weights=None, batch_size=3)
        assert model.head.bias is None
        assert model.center.shape == (16,)
        image = blobs(2, channels=3, size=50)
        score, anomaly_map = model(image)
        assert anomaly_map is None
        torch.testing.assert_close(score, squared_distance(model.encode(image), model.center))

    def test_the_rate_falls_polynomially_at_every_step_of_the_run(self, trainer_in: Make) -> None:
        rates: list[float] = []

        class Rates(Callback):
            def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        trainer = trainer_in(max_epochs=3, callbacks=[Rates()])
        fit(trainer, blobs(16), ae_epochs=1, lr_decay="polynomial", betas=[0.0, 0.9])
        assert rates == pytest.approx([1e-3 * (1 - step / 6) ** 0.9 for step in range(6)])
        assert tuple(trainer.optimizers[0].param_groups[0]["betas"]) == (0.0, 0.9)


class TestReconstruction:
    @pytest.mark.parametrize("backbone", ["lenet", "residual"])
    def test_loss_and_scores(self, backbone: str, trainer_in: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {**REC, "backbone": backbone, "weights": None, "ae_epochs": 0, "reconstruction_weight": 2.5}
        model, image = fit(trainer_in(), blobs(16), **options), blobs(6, seed=1)
        with torch.no_grad():
            x = model.normalize(image)
            code = model.head(model.encoder(x))
            assert model.rebuilder is not None
            made = model.rebuilder(code)
            seen, value_range = x, 1.0
            if backbone == "residual":  # which sees three channels, standardised
                mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
                seen, value_range = (image - mean) / std, 4.7579
            assert made.shape == seen.shape
            similarity = MSSSIM(scales=3, window_size=3, value_range=value_range)(seen, made)
            error = 0.85 * (1 - similarity) + 0.15 * (seen - made).abs().mean((1, 2, 3)) / value_range
            distance = squared_distance(code, model.center)
            torch.testing.assert_close(model(image)[0], distance)
            model.score = "sum"
            torch.testing.assert_close(model(image)[0], distance + 2.5 * error)
            monkeypatch.setattr(model, "log", lambda *_: None)
            torch.testing.assert_close(model.training_step({"image": image}, 0), (distance + 2.5 * error).mean())

    def test_without_a_weight_there_is_no_second_decoder(self) -> None:
        model = DeepSVDD(**TINY)
        assert model.rebuilder is None
        with pytest.raises(ConfigError, match="needs a decoder; got reconstruction_weight=0"):
            model.error_of_reconstruction(blobs(2), torch.rand(2, 16))
        names = {name.split(".")[0] for name, _ in DeepSVDD(**TINY, **REC).named_parameters()}
        assert names == {"encoder", "head", "decoder", "rebuilder"}

    def test_each_decoder_learns_in_its_phase(self, trainer_in: Make) -> None:
        watch = Watch()
        fit(trainer_in(max_epochs=8, callbacks=[watch]), blobs(32), **REC, ae_epochs=2, lr=3e-3)
        start, middle, end = dict(DeepSVDD(**TINY, **REC, ae_epochs=2).named_parameters()), *watch.weights[1::6]
        assert start.keys() == middle.keys() == end.keys()
        for name in start:
            if name.startswith("decoder."):
                assert torch.equal(middle[name], end[name]), name
            elif name.startswith("rebuilder."):
                assert torch.equal(watch.weights[0][name], middle[name]), name
                assert not torch.equal(middle[name], end[name]), name
            else:
                assert not torch.equal(middle[name], end[name]), name
        error = [loss - distance for loss, distance in zip(watch.loss[2:], watch.distance[2:], strict=True)]
        assert watch.distance[-1] < watch.distance[2]
        assert 0 < error[-1] < error[0] - 0.1

    @pytest.mark.parametrize("backbone", ["lenet", "residual"])
    def test_bf16_mixed(self, backbone: str, trainer_in: Make) -> None:
        trainer = trainer_in(precision="bf16-mixed", max_epochs=2)
        options = {**REC, "backbone": backbone, "weights": None, "ae_epochs": int(backbone == "lenet"), "score": "sum"}
        model = fit(trainer, blobs(16), **options)
        assert all(weight.isfinite().all() for weight in model.parameters())
        scores: Any = trainer.predict(model, loader(blobs(4, seed=1)))
        assert scores[0]["anomaly_score"].dtype == torch.float32
        # bfloat16 has 8 bits: a relative error of some percent
        torch.testing.assert_close(scores[0]["anomaly_score"], model(blobs(4, seed=1))[0], rtol=0.1, atol=0.05)

    @pytest.mark.slow
    def test_two_processes(self, tmp_path: Path, two_processes: dict[str, Any]) -> None:
        seed_everything(0, verbose=False)
        model = DeepSVDD(**TINY, **REC, ae_epochs=1)
        before = copy.deepcopy(dict(model.named_parameters()))
        trainer = Trainer(
            **two_processes, max_epochs=2, default_root_dir=tmp_path, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, loader(blobs(16)))
        assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())
        assert model(blobs(2))[0].isfinite().all()


class TestEncoders:
    def test_weights_of_a_pretraining(self, tmp_path: Path, trainer_in: Make) -> None:
        options = {**TINY, "backbone": "residual", "width": 4, "ae_epochs": 0, "lr": 0.0}
        seed_everything(1, verbose=False)
        trained = DeepSVDD(**options, weights=None)
        file = tmp_path / "pretrained.ckpt"
        torch.save({"state_dict": trained.state_dict()}, file)
        seed_everything(0, verbose=False)
        model = DeepSVDD(**options, weights=str(file))
        head = model.head.weight.detach().clone()
        trainer_in().fit(model, loader(blobs(8)))
        for (name, first), second in zip(trained.encoder.named_parameters(), model.encoder.parameters(), strict=True):
            assert torch.equal(first, second), name
        assert torch.equal(model.head.weight, head)
        torch.save({"state_dict": trained.head.state_dict()}, file)
        with pytest.raises(WeightsError, match="none"):
            trainer_in().fit(DeepSVDD(**options, weights=str(file)), loader(blobs(8)))

    def test_all_weights_of_other_backbones_are_trained(self, trainer_in: Make) -> None:
        seed_everything(0, verbose=False)
        model = DeepSVDD(**TINY, backbone="residual", width=4, weights=None)
        before = copy.deepcopy(dict(model.named_parameters()))
        trainer_in().fit(model, loader(blobs(8)))
        assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())

    def test_a_lone_training_image(self, trainer_in: Make) -> None:
        """Its last map is one cell, whose batch norm torch refuses to train on."""
        model = fit(trainer_in(), blobs(5, size=32), backbone="resnet18", weights=None, batch_size=4, image_size=32)
        norms = [m for m in model.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {int(norm.num_batches_tracked) for norm in norms} == {1}
        assert model(blobs(1, size=32))[0].isfinite().all()


def test_the_centre_pass_leaves_persistent_workers_to_the_training_loop(trainer_in: Callable[..., Trainer]) -> None:
    epochs: list[int] = []

    class Recorder(DeepSVDD):
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            epochs.append(self.current_epoch)

    data = TensorDataset(torch.rand(16, 1, 16, 16))
    loader = DataLoader(data, batch_size=8, num_workers=1, persistent_workers=True)
    trainer_in(max_epochs=3).fit(Recorder(image_size=16, widths=[4, 4], ae_epochs=1), loader)
    assert epochs == [0, 0, 1, 1, 2, 2]


def test_scales_and_window_of_ms_ssim_and_initial_weights() -> None:
    default = DeepSVDD(**TINY, **REC).reconstruction_error.ms_ssim
    given = DeepSVDD(**TINY, **REC, ssim_scales=1, ssim_window=5).reconstruction_error.ms_ssim
    assert [(each.window_size, len(each.exponents)) for each in (default, given)] == [(3, 3), (5, 1)]
    layers = [DeepSVDD(**TINY, initialization=kind).encoder.levels[0] for kind in ("torch", "xavier")]  # type: ignore[union-attr, arg-type]
    bounds = [25**-0.5, (2 / (1 + 0.01**2) * 6 / (25 * (1 + 8))) ** 0.5]
    for layer, bound in zip(layers, bounds, strict=True):
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound  # type: ignore[union-attr]


class Others:
    """A strategy, or a sum, with what another process has beside this one's."""

    def __init__(self, *values: Tensor) -> None:
        self.values = list(values)

    def reduce(self, value: Tensor, *, reduce_op: str) -> Tensor:
        other = self.values.pop(0)
        return torch.maximum(value, other) if reduce_op == "max" else value + other


def alone(monkeypatch: pytest.MonkeyPatch, image: Tensor, others: Others, **options: Any) -> DeepSVDD:
    """A model that sees these training images, in a process beside another."""
    model = DeepSVDD(**{**TINY, "latent_dim": 2, "ae_epochs": 0, **options})
    monkeypatch.setattr(model, "_trainer", SimpleNamespace(strategy=others, max_epochs=1, max_steps=-1, world_size=2))
    monkeypatch.setattr(model, "steps_per_epoch", lambda: 1.0)
    monkeypatch.setattr(model, "training_images", lambda: iter(image.split(2)))
    return model


def test_the_centre_is_the_mean_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    others = Others(torch.tensor([10.0, 20.0], dtype=torch.float64), torch.tensor(4.0))
    model = alone(monkeypatch, torch.rand(3, 1, 16, 16), others)
    monkeypatch.setattr(model, "normalize", lambda image: image)
    monkeypatch.setattr(model, "encode", lambda x: x.flatten(1)[:, :2] * 0 + 1)
    assert model._mean_code().tolist() == pytest.approx([13 / 7, 23 / 7])


def test_the_input_range_is_that_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    image = blobs(4)
    x = global_contrast_normalization(image)
    model = alone(monkeypatch, image, Others(torch.tensor([50.0, -100.0])))
    model.on_train_start()
    assert model.input_range.tolist() == pytest.approx([-50.0, float(x.max())])


def test_the_radius_is_a_quantile_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = alone(monkeypatch, blobs(4), Others(), objective="soft-boundary", nu=0.5, warmup_epochs=0)
    monkeypatch.setattr(model, "all_gather", lambda value: torch.stack([value, torch.tensor([16.0, 25.0, 36.0])]))
    monkeypatch.setattr(DeepSVDD, "current_epoch", 0)
    model._update_radius(torch.tensor([1.0, 4.0, 9.0]))
    assert float(model.radius) == pytest.approx(3.5)  # of 1 to 6
