"""FeatureDensity against scikit-learn's estimators on the same features, its sample, and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM
from tiny_runs import make_trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.methods import FeatureDensity

IMAGES = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) ** 2
TEST = torch.rand(9, 1, 6, 6, generator=torch.Generator().manual_seed(1))
ESTIMATORS = ("kde", "ocsvm", "gde", "knn")


def fit(image: Tensor = IMAGES, *, batch_size: int = 8, **options: Any) -> FeatureDensity:
    net = FeatureDensity(**options)
    loader = DataLoader(TensorDataset(image, torch.zeros(len(image))), batch_size=batch_size)
    make_trainer(max_epochs=1, limit_val_batches=0).fit(net, loader)
    return net.eval()


def theirs(estimator: str, train: np.ndarray[Any, Any], test: np.ndarray[Any, Any]) -> Any:
    """Scores of scikit-learn for features in float64."""
    if estimator == "kde":
        return -KernelDensity(bandwidth=0.5, leaf_size=500).fit(train).score_samples(test)
    if estimator == "ocsvm":
        svm = OneClassSVM(nu=0.2, tol=1e-6).fit(train)
        return -svm.decision_function(test) / svm.dual_coef_.sum()
    if estimator == "gde":
        return LedoitWolf().fit(train).mahalanobis(test)
    return NearestNeighbors(n_neighbors=3).fit(train).kneighbors(test)[0].mean(1)


@pytest.mark.parametrize("variance", [None, 0.8])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scores_are_those_of_scikit_learn(estimator: str, variance: float | None) -> None:
    net = fit(estimator=estimator, variance=variance, bandwidth=0.5, nu=0.2, neighbours=3)
    train, test = (image.flatten(1).double().numpy() for image in (IMAGES, TEST))
    if variance is not None:
        axes = PCA(variance, svd_solver="full").fit(train)
        train, test = axes.transform(train), axes.transform(test)
    expected = theirs(estimator, train, test)
    # Features on principal axes are rounded to float32 before the fit, which a Gaussian's inverse enlarges.
    tolerance = (
        {"rtol": 1e-6, "atol": 1e-6} if variance is None and estimator != "gde" else {"rtol": 1e-4, "atol": 1e-5}
    )
    with torch.no_grad():
        np.testing.assert_allclose(net(TEST)[0], expected, **tolerance)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_checkpoint_holds_tensors_and_scores_alike(estimator: str, tmp_path: Path) -> None:
    net = fit(estimator=estimator, variance=0.9)
    net.trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert all(isinstance(value, Tensor) for value in state.values())
    shapes = net.statistics_shapes()
    assert {key for key, value in state.items() if value.numel()} - {"calibration._extra_state"} == {*shapes, "unused"}
    for key, wanted in shapes.items():
        assert len(wanted) == state[key].ndim
    again = FeatureDensity.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    assert torch.equal(again(TEST)[0], net(TEST)[0])


def test_the_sample_does_not_depend_on_order_or_batches() -> None:
    one = fit(estimator="knn", bank_size=15)
    other = fit(IMAGES.flip(0), batch_size=7, estimator="knn", bank_size=15)
    assert len(one.rows) == 15
    assert torch.equal(one.rows, other.rows)


def test_features_of_an_encoder() -> None:
    net = fit(IMAGES.repeat(1, 1, 6, 6), estimator="kde", encoder="test_resnet", normalize=True)
    with torch.no_grad():
        feature = net.embed(TEST.repeat(1, 1, 6, 6))
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(9))
    assert net(torch.rand(2, 3, 50, 40))[0].shape == (2,)  # of any size
    assert not any(part.training for part in net.train().encoder.modules())  # type: ignore[union-attr] # there is one
    assert net.is_fitted


def test_what_cannot_work() -> None:
    with pytest.raises(ConfigError, match=r"encoder_weights needs an encoder; got encoder: null"):
        FeatureDensity(encoder_weights="imagenet")
    with pytest.raises(ConfigError, match="the encoder residual needs an image_size; got null"):
        FeatureDensity(encoder="residual")
    for nu in (0.0, 1.0):
        with pytest.raises(ConfigError, match="nu must lie between 0 and 1"):
            FeatureDensity(nu=nu)
    with pytest.raises(ConfigError, match=r"bandwidth must be above 0"):
        FeatureDensity(bandwidth=0.0)
    with pytest.raises(ConfigError, match=r"needs at least 2 training images to estimate a density; got 1"):
        fit(IMAGES[:1])
    with pytest.raises(ConfigError, match=r"gde needs features that differ .* with eps=0\.0"):
        fit(torch.ones(4, 1, 2, 2), estimator="gde", eps=0.0)
    with pytest.raises(ShapeError, match=r"was fitted on 36 pixels an image; got \(2, 1, 5, 5\)"):
        fit()(torch.rand(2, 1, 5, 5))


def test_training_images_of_two_sizes_and_samples_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    net = FeatureDensity()
    net.training_step({"image": IMAGES}, 0)  # type: ignore[typeddict-item] # no label is read
    with pytest.raises(ShapeError, match=r"training images must all have one size, .*; got \(2, 1, 5, 5\)"):
        net.training_step({"image": torch.rand(2, 1, 5, 5)}, 1)  # type: ignore[typeddict-item] # no label is read
    monkeypatch.setattr("anomaly_suite.methods.one_class.feature_density.MOST_NUMBERS", 1000)
    with pytest.raises(ConfigError, match=r"keeps at most bank_size=10000 features of 36 numbers"):
        net.training_step({"image": IMAGES}, 1)  # type: ignore[typeddict-item] # no label is read
