from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from few_labels import images, loader
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_runs import SaveAt, short_fit
from tiny_runs import tensors as tiny_tensors
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_suite.errors import ConfigError, LabelError, NotFittedError
from anomaly_suite.losses import with_idle_weights
from anomaly_suite.methods import CCD, FSADNet
from anomaly_suite.metrics import auroc
from anomaly_suite.nn.dcgan import to_signed

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"image_size": 20, "width": 4, "hidden": (16, 8), "representation_epochs": 1, "lr": 1e-3}


def tensors(*parts: nn.Module) -> list[Tensor]:
    return [value.clone() for part in parts for value in (*part.parameters(), *part.buffers())]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Steps(Callback):
    """Which parts each step of an optimiser changed, by epoch."""

    def __init__(self) -> None:
        self.changed: dict[int, set[str]] = {}
        self.kept: dict[str, list[Tensor]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.kept = self.parts(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        now = self.parts(pl_module)
        moved = {name for name, value in now.items() if not equal(value, self.kept[name])}
        self.changed.setdefault(trainer.current_epoch, set()).update(moved)

    def parts(self, module: LightningModule) -> dict[str, list[Tensor]]:
        return {name: tensors(part) for name, part in module.named_children() if name != "calibration"}


def fit(
    make: Make, data: DataLoader[Any] | None = None, *, epochs: int = 2, watch: bool = False, **options: Any
) -> Any:
    torch.manual_seed(0)
    model, steps = FSADNet(**{**TINY, **options}), Steps()
    trainer = make(max_epochs=epochs, callbacks=[steps] if watch else [])
    trainer.fit(model, data or loader())
    return (model.eval(), steps.changed) if watch else model.eval()


@pytest.mark.parametrize("representation", ["infomax", "autoencoder"])
def test_each_phase_trains_its_own_parts(representation: str, trainer_in: Make) -> None:
    _, changed = fit(trainer_in, epochs=3, watch=True, representation=representation)
    first = {"encoder", "helpers"} | ({"prior_net"} if representation == "infomax" else set())
    assert changed == {0: first, 1: {"scorer"}, 2: {"scorer"}}  # running statistics of the encoder rest, too


def test_the_encoder_is_trained_with_the_scores_if_it_is_not_frozen(trainer_in: Make) -> None:
    _, changed = fit(trainer_in, epochs=1, watch=True, representation="none", freeze_encoder=False)
    assert changed == {0: {"encoder", "scorer"}}
    _, changed = fit(trainer_in, epochs=1, watch=True, representation="none")
    assert changed == {0: {"scorer"}}


def test_a_step_of_the_prior_discriminator_leaves_the_encoder_as_it_is() -> None:
    model = FSADNet(**TINY)
    model.log = lambda *args, **named: None  # type: ignore[method-assign]
    _, code = model.encoder.net.features(images(8, anomalous=False, seed=0))
    before = tensors(model.encoder), tensors(model.prior_net)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.discriminator_loss(code, torch.Generator().manual_seed(0)).backward()
    optimizer.step()
    assert equal(before[0], tensors(model.encoder))
    assert not equal(before[1], tensors(model.prior_net))  # type: ignore[arg-type]


def test_loss_of_undecided_discriminators() -> None:
    for options, expected in [({}, 0.6), ({"global_weight": 0.5, "local_weight": 1.0, "prior_weight": 0.1}, 1.5)]:
        model = FSADNet(**TINY, **options)  # type: ignore[arg-type]
        for part in (model.helpers, model.prior_net):
            for weight in part.parameters():  # type: ignore[union-attr]
                weight.data.zero_()
        model.log = model.log_dict = lambda *args, **named: None  # type: ignore[method-assign]
        loss = model.encoder_loss(*model.encoder.net.features(images(4, anomalous=False, seed=0)))
        gamma = model.weights[2]
        assert loss.item() == pytest.approx(expected * 1.386294 + gamma * 0.693147, abs=1e-5)
        discriminator = model.discriminator_loss(torch.randn(4, 4), torch.Generator().manual_seed(0))
        assert discriminator.item() == pytest.approx(1.386294, abs=1e-5)


def test_options_of_the_infomax_loss() -> None:
    local, code = torch.randn(5, 8, 5, 5), torch.randn(5, 4)
    model = FSADNet(**TINY, estimator="dv", negatives="all", prior="uniform")
    judge = model.helpers["cells"]
    others = [judge(local[j : j + 1], code[i : i + 1]) for i in range(5) for j in range(5) if i != j]
    expected = (judge(local, code).mean(0) - torch.cat(others).exp().mean(0).log()).mean()
    torch.testing.assert_close(model.information("cells", local, code), expected)
    torch.testing.assert_close(model._of_prior(code), model.prior_net(code.sigmoid()))  # type: ignore[misc]
    model.log = lambda *args, **named: None  # type: ignore[method-assign]
    draws = torch.rand(5, 4, generator=torch.Generator().manual_seed(3))
    net = model.prior_net
    sp = nn.functional.softplus
    expected = sp(-net(draws)).mean() + sp(net(code.sigmoid())).mean()  # type: ignore[misc]
    torch.testing.assert_close(model.discriminator_loss(code, torch.Generator().manual_seed(3)), expected)


def test_only_normal_images_train_the_encoder(trainer_in: Make) -> None:
    normal = DataLoader([(image, 0) for image in images(16, anomalous=False, seed=1)], batch_size=4)  # type: ignore[arg-type]
    alone = fit(trainer_in, normal, epochs=1)
    with_anomalies = fit(trainer_in, loader(), epochs=1)  # the same normal images, four a batch
    for key, value in alone.encoder.state_dict().items():
        torch.testing.assert_close(with_anomalies.encoder.state_dict()[key], value)


def test_the_score_is_that_of_its_codes_whether_kept_or_computed_again() -> None:
    model = FSADNet(**TINY | {"representation": "none"}).eval()
    image = images(6, anomalous=True, seed=5)
    with torch.no_grad():
        kept = torch.cat([model.encoder(part) for part in image.split(3)])
        torch.testing.assert_close(model(image)[0], model.scorer(kept))


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "cross_entropy", "encoder": "infomax_released", "image_size": 16},
        {"loss": "focal", "encoder": "residual", "image_size": 16, "representation": "none", "freeze_encoder": False},
        {"reference_draws": 5000, "encoder": "pixels", "representation": "none"},
    ],
    ids=str,
)
def test_it_learns_from_anomalies(options: dict[str, Any], trainer_in: Make) -> None:
    side = options.get("image_size", 20)
    model = fit(trainer_in, loader(side=side, batch_size=16), epochs=8, lr=1e-2, **options)
    image = torch.cat([images(16, anomalous=kind, seed=7, side=side) for kind in (False, True)])
    with torch.no_grad():
        score, _ = model(image)
    assert auroc(score, torch.arange(32) // 16) > 0.95


def test_scores_of_blobs_come_to_their_places() -> None:
    torch.manual_seed(0)
    model = FSADNet(**{**TINY, "width": 16, "hidden": (64, 20)})
    label = torch.arange(64) % 2
    optimizer = torch.optim.Adam(model.scorer.parameters(), lr=5e-3, betas=model.betas)
    for _ in range(200):
        code = torch.randn(64, 16) + 2 * label[:, None]
        optimizer.zero_grad()
        model.label_losses(model.scorer(code), label, torch.Generator()).mean().backward()
        optimizer.step()
    with torch.no_grad():
        score = model.scorer.eval()(torch.randn(64, 16) + 2 * label[:, None])
    assert auroc(score, label) > 0.99
    assert score[label == 0].abs().mean() < 1
    assert score[label == 1].mean() > 4


def test_the_encoder_goes_to_others_and_comes_from_them(trainer_in: Make, tmp_path: Path) -> None:
    first = fit(trainer_in)
    first.trainer.save_checkpoint(tmp_path / "first.ckpt")
    taken = FSADNet(**TINY | {"representation": "none", "encoder_weights": str(tmp_path / "first.ckpt")})
    other = CCD(encoder="infomax", encoder_weights=str(tmp_path / "first.ckpt"), image_size=20, width=4)
    for model in (taken, other):
        model.load_pretrained()
        assert equal(tensors(model.encoder), tensors(first.encoder))
    with pytest.raises(ConfigError, match="needs an encoder with local features"):
        FSADNet(encoder="resnet18", encoder_weights="imagenet")


def test_labels_and_anomalies_are_needed_in_the_second_phase(trainer_in: Make) -> None:
    image = images(8, anomalous=False, seed=0)
    with pytest.raises(LabelError, match="learns from labels; the training batch has none"):
        fit(trainer_in, DataLoader([(each,) for each in image], batch_size=4))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs labelled anomalies in training; got none in epoch 1"):
        fit(trainer_in, loader(anomalous=0))


def test_it_is_unfitted_until_the_second_phase(trainer_in: Make) -> None:
    with pytest.warns(UserWarning, match="only trains its encoder: max_epochs=1"):
        model = fit(trainer_in, epochs=1)
    model.trainer = None
    with pytest.raises(NotFittedError, match="representation_epochs=1 epochs"):
        model(images(2, anomalous=False, seed=0))
    assert FSADNet(**TINY | {"representation": "none"}).is_fitted


def test_a_batch_without_normal_images_is_left_out_of_the_first_phase(trainer_in: Make) -> None:
    _, changed = fit(trainer_in, loader(normal=1, anomalous=8), epochs=1, watch=True)
    assert changed == {0: set()}


@pytest.mark.xdist_group("FSADNet")
@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 0)])
def test_a_run_goes_on_inside_each_phase(place: tuple[int, int], tmp_path: Path) -> None:
    save = SaveAt(tmp_path / "cut.ckpt", place)
    whole = short_fit("FSADNet", save, max_epochs=3)
    resumed = short_fit("FSADNet", seed=5, resume=save.file, max_epochs=3)
    assert whole.trainer.global_step == resumed.trainer.global_step == 4 + 2 * 2  # two steps a batch in the first phase
    for name, value in tiny_tensors(whole).items():  # the same operations, on memory laid out anew
        torch.testing.assert_close(tiny_tensors(resumed)[name], value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="encoder=pixels is the image itself"):
        FSADNet(encoder="pixels", encoder_weights="imagenet", representation="none")
    with pytest.raises(ConfigError, match="representation=autoencoder needs an encoder to train"):
        FSADNet(encoder="pixels", representation="autoencoder")


def test_decoder_of_the_autoencoder() -> None:
    with torch.device("meta"):
        model = FSADNet(representation="autoencoder")
    shapes = {name: tuple(w.shape) for name, w in model.helpers["decoder"].named_parameters() if w.ndim > 1}
    assert list(shapes.values()) == [(8192, 64), (512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 3, 4, 4)]
    small = FSADNet(**TINY, representation="autoencoder")
    image = images(4, anomalous=False, seed=0)
    found: dict[str, Tensor] = {}
    small.log = lambda name, value, **_: found.update({name: value})  # type: ignore[method-assign]
    loss = small._reconstruction_loss(image)
    again = copy.deepcopy(small)
    rebuilt = again.helpers["decoder"](again.encoder(image))
    assert rebuilt.shape == (4, 3, 20, 20)
    torch.testing.assert_close(loss, (to_signed(image) - rebuilt).square().mean())
    assert with_idle_weights(loss, []) is loss  # type: ignore[arg-type]
