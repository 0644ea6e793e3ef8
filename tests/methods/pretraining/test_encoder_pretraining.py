from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer, seed_everything
from sklearn.svm import OneClassSVM
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import anomaly_suite.methods
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import CCD, DROC, SimCLR
from anomaly_suite.methods.pretraining.encoder_pretraining import cosine_decay
from anomaly_suite.nn.density import kernel_distance
from anomaly_suite.nn.encoders import ImageEncoder

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 2}


def images(count: int, *, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def loader(image: Tensor, *, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(image, torch.zeros(len(image), dtype=torch.long)), batch_size=batch_size)


def make(**options: Any) -> CCD:
    seed_everything(0, verbose=False)
    return CCD(**{**TINY, **options})


class Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_the_learning_rate_falls_by_a_cosine_epoch_by_epoch(trainer_in: Make) -> None:
    assert [cosine_decay(t, start=0.01, end=1e-5) for t in (0, 0.5, 1)] == pytest.approx([0.01, 0.005005, 1e-5])
    rates = Rates()
    trainer_in(max_epochs=4, callbacks=[rates], limit_val_batches=0).fit(make(), loader(images(8)))
    expected = [cosine_decay(epoch / 4, start=0.01, end=1e-5) for epoch in range(4) for _ in range(2)]
    assert rates.rates == pytest.approx(expected)


class TestScore:
    def test_it_is_the_distance_to_the_gaussian_of_normalised_features(self, trainer_in: Make) -> None:
        image, model = images(40), make()
        trainer_in().fit(model, loader(image))
        model.eval()
        with torch.no_grad():
            feature = F.normalize(model.encoder(image), dim=1).double()
            new = F.normalize(model.encoder(images(5, seed=1)), dim=1).double()
            found = model(images(5, seed=1))[0].double()
        covariance = torch.cov(feature.T) + 1e-6 * torch.eye(16, dtype=torch.float64)
        away = new - feature.mean(0)
        expected = (away @ torch.linalg.inv(covariance) * away).sum(1).sqrt()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)  # float32 against float64
        gaussian = torch.distributions.MultivariateNormal(feature.mean(0), covariance)
        assert torch.equal(found.argsort(), (-gaussian.log_prob(new)).argsort())
        model.embed = lambda _: model.feature_mean.unsqueeze(0)  # type: ignore[method-assign]
        assert model(image[:1])[0].item() == pytest.approx(0, abs=1e-5)  # no image scores less

    @pytest.mark.parametrize("method", [DROC, SimCLR])
    def test_it_can_be_a_density_of_kernels(self, method: type[DROC | SimCLR], trainer_in: Make) -> None:
        image, model = images(24), method(**TINY, density="kde", bank_size=30)
        trainer_in().fit(model, loader(image))
        model.eval()
        with torch.no_grad():
            bank = model.embed(image)
            gamma = 10 / (
                bank.double().var(correction=0) * 16
            )  # the card: over the variance of all entries and their number
            squared = torch.cdist(model.embed(images(5, seed=1)).double(), bank.double()) ** 2
            expected = -torch.exp(-gamma * squared).sum(1).log() / gamma
            torch.testing.assert_close(model(images(5, seed=1))[0].double(), expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("density", ["ocsvm", "nearest"])
    def test_it_can_be_the_other_heads_of_its_paper(self, density: Any, trainer_in: Make) -> None:
        image, model = images(24), SimCLR(**TINY, density=density, bank_size=30)
        trainer_in().fit(model, loader(image))
        model.eval()
        with torch.no_grad():
            bank = model.embed(image).double().numpy()
            new = model.embed(images(5, seed=1)).double().numpy()
            found = model(images(5, seed=1))[0].double().numpy()
        if density == "nearest":
            expected = 1 - (new @ bank.T).max(1)
        else:  # nu 0.5 and the card's gamma
            svm = OneClassSVM(gamma=10 / (bank.var() * bank.shape[1]), nu=0.5, tol=1e-6).fit(bank)
            expected = -svm.decision_function(new) / svm.dual_coef_.sum()
        np.testing.assert_allclose(
            found, expected, rtol=1e-3, atol=2e-5
        )  # features of other batches differ in their last digits
        assert model.is_fitted

    def test_of_one_training_image_kernels_say_the_squared_distance(self) -> None:
        bank, feature = F.normalize(torch.randn(6, 8), dim=1), F.normalize(torch.randn(4, 8), dim=1)
        bank[1:] = torch.nan  # empty rows
        torch.testing.assert_close(
            kernel_distance(feature, bank), ((feature - bank[0]) ** 2).sum(1), rtol=1e-4, atol=1e-5
        )

    def test_of_patches_it_is_the_largest(self, trainer_in: Make) -> None:
        model = make(patch_size=16, patches_per_image=2, position_weight=0)
        trainer_in(limit_train_batches=1).fit(model, loader(images(8, size=40)))
        image = images(2, size=40, seed=1)
        with torch.no_grad():
            score, anomaly_map = model.eval()(image)
            places = [(row, column) for row in range(0, 25, 8) for column in range(0, 25, 8)]
            alone = torch.stack([model.distance(image[:, :, r : r + 16, c : c + 16]) for r, c in places])
        assert anomaly_map is None
        torch.testing.assert_close(score, alone.amax(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("encoder", "options"), [("residual", {}), ("test_resnet", {}), ("residual", {"patch_size": 16})]
)
def test_an_encoder_takes_the_checkpoint(
    encoder: str, options: dict[str, Any], tmp_path: Any, trainer_in: Make
) -> None:
    model = make(encoder=encoder, position_weight=0, **options)
    trainer = trainer_in(limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, loader(images(4)))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    seed_everything(5, verbose=False)
    taken = ImageEncoder(encoder, image_size=16, width=2).eval()
    taken.load_weights(str(tmp_path / "run.ckpt"))
    with torch.no_grad():
        assert torch.equal(taken(images(2)), model.eval().encoder(images(2)))


def test_encoders_of_all_have_the_same_names() -> None:
    names = ("CCD", "CSI", "DROC", "PMSACL", "RotNet", "SimCLR", "SupCon")
    encoders = [getattr(anomaly_suite.methods, name)(**TINY).encoder.state_dict().keys() for name in names]
    assert all(keys == encoders[0] for keys in encoders)


def test_weights_that_training_starts_from(tmp_path: Any, trainer_in: Make) -> None:
    first = make()
    trainer = trainer_in(limit_train_batches=1, limit_val_batches=0)
    trainer.fit(first, loader(images(4)))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    second = make(encoder_weights=str(tmp_path / "run.ckpt"), lr=0.0)
    trainer_in(limit_train_batches=1, limit_val_batches=0).fit(second, loader(images(4)))
    for (name, one), two in zip(first.encoder.named_parameters(), second.encoder.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match=r"momentum must be in \[0, 1\); got 1"):
        make(momentum=1)
