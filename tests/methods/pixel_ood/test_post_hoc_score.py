"""Scores of a trained segmenter: the checks of the score card, Mahalanobis and SML against slow references."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from scene_cases import blobs
from torch.utils.data import DataLoader

from anomaly_suite.errors import CheckpointError, ConfigError, DatasetError, NotFittedError, ShapeError, WeightsError
from anomaly_suite.methods import PostHocScore
from anomaly_suite.methods.pixel_ood.mahalanobis import class_sums, fit_gaussians, nearest_class_distance
from anomaly_suite.methods.pixel_ood.scores import LOGIT_SCORES
from anomaly_suite.nn.encoders import standardize

CLASSES = 3


def tiny(**options) -> PostHocScore:
    network = {
        "backbone": "resnet18",
        "output_stride": 16,
        "width": 8,
        "num_classes": CLASSES,
        "backbone_weights": None,
    }
    return PostHocScore(**{**network, **options})


class Network(torch.nn.Module):
    """Stands in for a segmenter: the image itself is features and logits, one channel a class."""

    def forward(self, image):
        return image

    def with_feature(self, image):
        return image, image


def fit(model: PostHocScore, image: torch.Tensor, target: torch.Tensor | None = None) -> PostHocScore:
    model.network = Network()
    batch = {"image": image} if target is None else {"image": image, "target": target}
    model._sums = []
    model.training_step(batch, 0)
    model.sum_over_ranks = model.all_gather = lambda value: value  # there is no trainer
    model.fit_statistics()
    return model


# SML -------------------------------------------------------------------------------------------------------------


def test_boundary_steps_must_divide_the_width():
    with pytest.raises(ConfigError, match="must divide"):
        tiny(score="sml", boundary_width=4, boundary_steps=3)


def test_sml_statistics_equal_a_loop_and_rare_classes_get_those_of_all(caplog):
    logits = torch.rand(2, CLASSES, 6, 5)
    logits[:, 2] -= 5  # never predicted
    with caplog.at_level(logging.WARNING, logger="anomaly_suite"):
        model = fit(tiny(score="sml"), logits)
    value, index = logits.max(1)
    for number in (0, 1):
        members = value[index == number].double()
        assert float(model.mean[number]) == pytest.approx(float(members.mean()), rel=1e-5)
        assert float(model.variance[number]) == pytest.approx(float(members.var()), rel=1e-4)
    assert float(model.mean[2]) == pytest.approx(float(value.mean()), rel=1e-5)
    assert float(model.variance[2]) == pytest.approx(float(value.double().var()), rel=1e-4)
    assert "Classes 2 are hardly ever predicted" in caplog.text


def test_sml_of_standard_statistics_is_the_largest_logit():
    model = tiny(score="sml", boundary_width=0, dilated_smoothing=False)
    model.mean, model.variance = torch.zeros(CLASSES), torch.ones(CLASSES)
    logits = torch.randn(2, CLASSES, 4, 4)
    assert torch.equal(model.score_map(logits), tiny(score="max_logit").score_map(logits))


# Mahalanobis -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [False, True])
def test_mahalanobis_is_fitted_to_the_features_of_the_training_scenes(per_class):
    features, target = blobs()
    model = fit(tiny(score="mahalanobis", sample=1.0, per_class=per_class), features, target)
    flat, label = features[0].flatten(1).T.double(), target.flatten()
    count, *sums = class_sums(flat, label, num_classes=CLASSES, per_class=per_class)
    mean, whitening = fit_gaussians(count, *sums, per_class=per_class)
    torch.testing.assert_close(model.mean, mean)
    torch.testing.assert_close(model.whitening, whitening)
    assert torch.equal(
        model.distance(features), nearest_class_distance(features, model.mean, model.whitening, count > 0)
    )


def test_a_class_without_pixels_and_void_pixels_do_not_count():
    features, target = blobs()
    model = fit(tiny(score="mahalanobis", sample=1.0), features, target.masked_fill(target == 2, 255))
    assert model.count.tolist() == [400, 400, 0]
    far = model.distance(torch.tensor([0.0, 8, 4]).view(1, 3, 1, 1))  # the centre of the class that was void
    assert float(far) > 50


def test_a_sample_of_the_pixels_gives_nearly_the_same_distances():
    features, target = blobs(3000)
    whole, part = (fit(tiny(score="mahalanobis", sample=share), features, target) for share in (1.0, 0.2))
    assert 0.15 < float(part.count.sum() / whole.count.sum()) < 0.25
    assert torch.allclose(whole.distance(features), part.distance(features), rtol=0.3, atol=0.5)


def test_no_known_pixel_is_told():
    features, target = blobs()
    with pytest.raises(DatasetError, match="no pixel of a known class"):
        fit(tiny(score="mahalanobis", sample=1.0), features, torch.full_like(target, 255))


# All scores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["sml", "mahalanobis"])
def test_padding_rows_do_not_count(score):
    features, target = blobs()
    model = fit(tiny(score=score, sample=1.0), features, target)
    mean, count = model.mean.clone(), model.count.clone()
    repeated = {
        "image": torch.cat([features, features.flip(1) + 5]),
        "target": target.repeat(2, 1, 1),
        "padding": torch.tensor([False, True]),
    }
    model.on_train_epoch_start()
    model.training_step(repeated, 0)
    model.fit_statistics()
    assert torch.equal(model.mean, mean)
    assert torch.equal(model.count, count)


def test_energy_of_a_temperature():
    logits = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    assert float(tiny(num_classes=2).score_map(logits)) == pytest.approx(-2.126928, abs=1e-5)
    warm = tiny(num_classes=2, temperature=2.0).score_map(logits)
    assert float(warm) == pytest.approx(-2 * math.log(math.e + 1), abs=1e-5)


@pytest.mark.parametrize("score", ["energy", "msp", "max_logit", "entropy", "mahalanobis", "sml"])
def test_every_score_runs_from_fit_to_maps_and_leaves_the_network_alone(score, trainer_in):
    model = tiny(score=score, sample=1.0)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    items = [{"image": torch.rand(3, 32, 48), "target": torch.randint(CLASSES, (32, 48))} for _ in range(4)]
    loader = DataLoader(items, batch_size=2)
    trainer_in().fit(model, train_dataloaders=loader)
    (first, _) = trainer_in().predict(model, loader)
    assert first["anomaly_map"].shape == (2, 1, 32, 48)
    assert first["anomaly_map"].isfinite().all()
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())


def test_statistics_are_asked_for_only_where_a_score_has_any():
    image = torch.rand(1, 3, 32, 32)
    assert tiny(score="msp").predict_step({"image": image}, 0)["anomaly_score"].shape == (1,)
    with pytest.raises(NotFittedError):
        tiny(score="sml").predict_step({"image": image}, 0)


def test_a_test_without_fit_loads_the_segmenter(tmp_path, trainer_in):
    source = tiny()
    file = tmp_path / "segmenter.pt"
    torch.save(source.network.state_dict(), file)
    other = tiny(segmenter_weights=str(file))
    loader = DataLoader([{"image": torch.rand(3, 32, 32)}])
    trainer_in().predict(other, loader)
    own, loaded = source.network.state_dict(), other.network.state_dict()
    assert all(torch.equal(own[key], loaded[key]) for key in own)


def test_weights_of_a_checkpoint_are_kept(tmp_path, trainer_in):
    file = tmp_path / "segmenter.pt"
    torch.save(tiny().network.state_dict(), file)
    loader = DataLoader([{"image": torch.rand(3, 32, 32)}])
    trainer = trainer_in()
    trainer.fit(tiny(score="sml", segmenter_weights=str(file)), train_dataloaders=loader)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    expected = trainer.model.network.state_dict()
    file.unlink()
    restored = PostHocScore.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    trainer_in().predict(restored, loader)
    assert all(torch.equal(value, expected[key]) for key, value in restored.network.state_dict().items())


def test_an_untrained_classifier_is_told(trainer_in, caplog):
    trainer_in().predict(tiny(), DataLoader([{"image": torch.rand(3, 32, 32)}]))
    assert "segmenter_weights is null" in caplog.text


def test_abstention_of_the_segmenter_is_left_out(tmp_path, trainer_in):
    source = tiny()
    source.network.extend_head()
    source.network.last.bias.data[-1] = 1000.0
    file = tmp_path / "pebal.pt"
    torch.save(source.network.state_dict(), file)
    image = torch.rand(2, 3, 32, 32)
    for score in ("energy", "mahalanobis"):
        model = tiny(score=score, sample=1.0, segmenter_weights=str(file), abstention=True)
        loader = DataLoader([{"image": one, "target": torch.randint(CLASSES, (32, 32))} for one in image], batch_size=2)
        trainer_in().fit(model, train_dataloaders=loader)
        (found,) = trainer_in().predict(model, loader)
        assert found["pred_target"].max() < CLASSES
        assert found["anomaly_map"].min() > -1000


@pytest.mark.parametrize(("score", "pixels"), [("sml", 2 * 48 * 64), ("mahalanobis", 2 * 6 * 8 * 8)])
def test_statistics_are_those_of_the_windows_that_are_scored(score, pixels, trainer_in):
    model, sizes = tiny(score=score, sample=1.0, window=32, stride=16), []
    items = [{"image": torch.rand(3, 48, 64), "target": torch.randint(CLASSES, (48, 64))} for _ in range(2)]
    handle = model.network.trunk.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[2:]))
    trainer_in().fit(model, train_dataloaders=DataLoader(items, batch_size=2))
    handle.remove()
    assert sizes == [(32, 32)] * 6
    assert int(model.count.sum()) == pixels


@pytest.mark.parametrize("score", ["sml", "mahalanobis"])
def test_maps_keep_float32_where_the_network_has_half_of_it(score, trainer_in):
    items = [{"image": torch.rand(3, 64, 96), "target": torch.randint(CLASSES, (64, 96))} for _ in range(2)]
    loader = DataLoader(items, batch_size=2)
    for precision in ("bf16-mixed", "bf16-true"):
        model = tiny(score=score, sample=1.0)
        trainer = trainer_in(precision=precision)
        trainer.fit(model, train_dataloaders=loader)
        (found,) = trainer.predict(model, loader)
        assert found["anomaly_map"].dtype == torch.float32
        assert len(found["anomaly_map"].unique()) > 3000  # of bfloat16 there are a few hundred in such a range
        assert found["anomaly_map"].isfinite().all()


# A network of one's own ------------------------------------------------------------------------------------------


class Segmenter(torch.nn.Module):
    """Logits at half the size of the image, under a key as torchvision has it."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2, padding=1), torch.nn.ReLU())
        self.classifier = torch.nn.Conv2d(5, classes, 1)

    def forward(self, image):
        return {"out": self.classifier(self.body(image))}


def own(network=None, **options) -> PostHocScore:
    torch.manual_seed(0)
    return PostHocScore(own_segmenter=network or Segmenter(), num_classes=CLASSES, **options)


def scenes(count: int = 4) -> DataLoader:
    items = [{"image": torch.rand(3, 32, 48), "target": torch.randint(CLASSES, (32, 48))} for _ in range(count)]
    return DataLoader(items, batch_size=2)


@pytest.mark.parametrize("score", ["energy", "msp", "max_logit", "entropy", "mahalanobis", "sml"])
def test_every_score_of_a_network_of_ones_own(score, trainer_in, tmp_path):
    network, loader = Segmenter(), scenes()
    model = own(network, score=score, feature_layer="classifier", sample=1.0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    trainer = trainer_in()
    trainer.fit(model, train_dataloaders=loader)
    (first, _) = trainer_in().predict(model, loader)
    assert first["anomaly_map"].shape == (2, 1, 32, 48)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    batch = next(iter(loader))["image"]
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(network(standardize(batch))["out"], (32, 48), mode="bilinear")
    assert torch.equal(first["pred_target"], logits.argmax(1))
    if score in LOGIT_SCORES:
        torch.testing.assert_close(first["anomaly_map"], LOGIT_SCORES[score](logits))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    restored = PostHocScore.load_from_checkpoint(tmp_path / "model.ckpt", own_segmenter=Segmenter(), weights_only=True)
    (again, _) = trainer_in().predict(restored, loader)
    assert torch.equal(again["anomaly_map"], first["anomaly_map"])
    with pytest.raises(CheckpointError, match="Give it: load_from_checkpoint"):
        PostHocScore.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True, backbone="resnet10t")


def test_distances_are_those_of_the_layers_input(trainer_in):
    network, loader = Segmenter(), scenes()
    model = own(network, score="mahalanobis", feature_layer="classifier", sample=1.0)
    trainer_in().fit(model, train_dataloaders=loader)
    image = next(iter(loader))["image"]
    with torch.no_grad():
        distance = model.distance(network.body(standardize(image)))
        found = model.eval().predict({"image": image})["anomaly_map"]
    expected = torch.nn.functional.interpolate(distance, (32, 48), mode="bilinear")
    torch.testing.assert_close(found, expected)


def test_a_network_may_take_images_as_they_are_return_a_tensor_and_come_from_a_file(tmp_path, trainer_in):
    torch.save(torch.nn.Conv2d(3, CLASSES + 1, 1).state_dict(), tmp_path / "weights.pt")
    network = torch.nn.Conv2d(3, CLASSES + 1, 1)
    model = own(network, standardized=False, abstention=True, segmenter_weights=str(tmp_path / "weights.pt"))
    (found,) = trainer_in().predict(model, scenes(2))
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert torch.equal(network.weight, saved["weight"])
    assert found["pred_target"].max() < CLASSES
    with pytest.raises(WeightsError, match=r"weights\.pt does not fit the segmenter"):
        trainer_in().predict(own(segmenter_weights=str(tmp_path / "weights.pt")), scenes(2))


def test_what_a_network_must_return_is_told():
    image = {"image": torch.rand(1, 3, 32, 48)}
    with pytest.raises(ShapeError, match=r"must return logits \(B, 3, h, w\).* got \(1, 7, 16, 24\)"):
        own(Segmenter(7)).predict(image)
    with pytest.raises(ShapeError, match="got NoneType"):
        own(type("Empty", (torch.nn.Module,), {"forward": lambda self, image: {}})()).predict(image)
    with pytest.raises(ConfigError, match=r"got 'head'\. Its last convolutions are body\.0, classifier"):
        own(feature_layer="head")
    with pytest.raises(ConfigError, match="Set feature_layer"):
        own(score="mahalanobis")


def test_the_former_name_of_the_option_is_an_alias_and_neither_is_a_hyper_parameter():
    network = Segmenter()
    old, new = own(network), PostHocScore(segmenter_adapter=network, num_classes=CLASSES)
    image = torch.rand(1, 3, 32, 48)
    assert all(torch.equal(first, second) for first, second in zip(old(image), new(image), strict=True))
    assert old.hparams == new.hparams
    assert not {"segmenter_adapter", "own_segmenter"} & old.hparams.keys()
    with pytest.raises(ConfigError, match="two names of one option"):
        PostHocScore(segmenter_adapter=network, own_segmenter=network)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"score": "msp2"}, "score must be"), ({"temperature": 0.0}, "temperature"), ({"sample": 0.0}, "sample"), ({"sample": 1.5}, "sample")],
)  # fmt: skip
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**options)


# kNN -------------------------------------------------------------------------------------------------------------


def test_knn_scores_the_distance_to_sampled_cells_with_a_class():
    generator = torch.Generator().manual_seed(0)
    features, target = (
        torch.randn(2, CLASSES, 6, 8, generator=generator),
        torch.randint(0, 3, (2, 6, 8), generator=generator),
    )
    target[0, :3] = 255
    features[0, :, :3] = 100.0  # void cells are not kept
    model = tiny(score="knn", sample=1.0, bank_size=500, neighbours=2)
    with pytest.raises(NotFittedError):
        model.score_map(features)
    model = fit(model, features, target)
    known = features.movedim(1, -1)[target != 255]
    assert torch.equal(model.bank.sort(0).values, known.sort(0).values)
    model.network.resize = lambda value, image: value
    found = model.score_map(model.network_output(features))
    expected = torch.cdist(features.movedim(1, -1).flatten(0, 2), known).topk(2, largest=False).values.mean(1)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=2e-3)  # a root of rounding at distance 0
    assert (found[0, 0, :3] > 50).all()
    bounded = fit(tiny(score="knn", sample=0.5, bank_size=7), features, target)
    assert bounded.bank.shape == (7, CLASSES)
    with pytest.raises(DatasetError, match="no pixel of a known class"):
        fit(tiny(score="knn", sample=1.0), features, torch.full_like(target, 255))
    with pytest.raises(ConfigError, match=r"knn scores features of the segmenter\. Set feature_layer"):
        PostHocScore(segmenter_adapter=torch.nn.Conv2d(3, 3, 1), num_classes=3, score="knn")
