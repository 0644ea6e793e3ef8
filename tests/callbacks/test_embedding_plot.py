from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import EmbeddingPlot
from anomaly_suite.callbacks.embedding_plot import _style, embed
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import CCD, PMSACL, RotNet, SimCLR


class Encoded(AnomalyModule):
    """Scores by a vector of each image, or of each of its two halves."""

    def __init__(self, *, encoder: bool = True, patches: bool = False) -> None:
        super().__init__()
        self.part = nn.Sequential()
        if encoder:
            self.part.add_module("encoder", nn.Flatten())
        self.patches = patches

    def forward(self, image):
        return self.part(torch.cat(image.chunk(2, 3)) if self.patches else image).flatten(1)[: len(image)].mean(1), None

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return None


def samples(count: int = 60):
    """Images of two shades, label and pseudo-class with them."""
    draw = torch.Generator().manual_seed(0)
    return [
        {
            "image": (0.2 + 0.6 * (index % 2) + 0.1 * torch.rand(1, 2, 2, generator=draw)),
            "label": index % 2,
            "pseudo_class": index % 3,
        }
        for index in range(count)
    ]


def run(trainer_in, model, callback, tmp_path):
    trainer_in(callbacks=[callback]).test(model, DataLoader(samples(), batch_size=8), verbose=False)
    return sorted(file.name for file in (tmp_path / "plots").glob("*.png"))


def test_a_bounded_sample_is_drawn_and_the_encoder_let_go(trainer_in, tmp_path, monkeypatch) -> None:
    seen = []

    def remember(feature, **options):
        seen.append(feature)
        return embed(feature, **options)

    monkeypatch.setattr("anomaly_suite.callbacks.embedding_plot.embed", remember)
    model = Encoded()
    assert run(trainer_in, model, EmbeddingPlot(samples=40), tmp_path) == ["test_tsne.png"]
    (feature,) = seen
    all_of_them = {tuple(sample["image"].flatten().tolist()) for sample in samples()}
    assert feature.shape == (40, 4)
    assert {tuple(row) for row in feature.tolist()} <= all_of_them
    assert len({tuple(row) for row in feature.tolist()}) == 40
    assert not model.part.encoder._forward_hooks


@pytest.mark.parametrize(
    ("options", "said"),
    [({"encoder": False}, "the method has no part named encoder"), ({"patches": True}, "one vector for each image")],
)
def test_nothing_to_draw_is_said(options, said, trainer_in, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO):
        assert run(trainer_in, Encoded(**options), EmbeddingPlot(), tmp_path) == []
    assert "EmbeddingPlot has nothing to draw of test: " in caplog.text
    assert said in caplog.text


def test_places_part_what_features_part_and_repeat() -> None:
    feature = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    feature[20:] += 20
    place = embed(feature, method="tsne", seed=0)
    assert place.shape == (40, 2)
    distance = np.linalg.norm(place[:, None] - place[None], axis=2) + np.diag(np.full(40, np.inf))
    assert ((distance.argmin(1) >= 20) == (np.arange(40) >= 20)).all()
    assert np.array_equal(embed(np.ones((6, 3), np.float32), method="tsne", seed=0), np.zeros((6, 2)))


class Taught(Encoded):
    """Trains on images in three classes, which are as bright as their number."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def pseudo_class_images(self, image, generator):
        number = torch.arange(3).repeat_interleave(len(image))
        assert not self.training
        return number.view(-1, 1, 1, 1) + 0 * image.repeat(3, 1, 1, 1), number


@pytest.fixture
def drawn(monkeypatch):
    """Names and sizes of the groups of every picture."""
    pictures = []

    def remember(self, path, rows):
        groups = Counter((label, pseudo) for _, label, pseudo, _ in rows)
        pictures.append((path.name, {_style(*pair)[0]: count for pair, count in sorted(groups.items())}, rows))

    monkeypatch.setattr(EmbeddingPlot, "_draw", remember)
    return pictures


def fit(trainer_in, model, callback, **options):
    loaders = [DataLoader(samples(24), batch_size=8, shuffle=index == 0) for index in range(2)]
    trainer = trainer_in(callbacks=[callback], max_epochs=2, num_sanity_val_steps=1, **options)
    trainer.fit(model, *loaders)
    return trainer


def test_the_end_of_a_fit_shows_the_last_validation_and_the_classes_of_the_method(trainer_in, drawn) -> None:
    model = Taught()
    trainer = fit(trainer_in, model, EmbeddingPlot(samples=20))
    ((name, groups, rows),) = drawn
    assert name == "fit_tsne.png"
    assert sum(groups.values()) == 40
    assert {key: groups[key] > 0 for key in list(groups)[:3]} == {f"pseudo-class {number}": True for number in range(3)}
    assert {name for name in groups if "," in name} == {
        f"{name}, pseudo-class {number}" for name in ("normal", "anomalous") for number in range(3)
    }
    assert all(row[3] == (row[2],) * 4 for row in rows if row[1] < 0)  # each class has its own features
    assert model.training
    assert not model.part.encoder._forward_hooks
    trainer.test(model, DataLoader(samples(24), batch_size=8), verbose=False)
    trainer.validate(model, DataLoader(samples(24), batch_size=8), verbose=False)  # draws nothing
    assert [name for name, *_ in drawn] == ["fit_tsne.png", "test_tsne.png"]
    assert sum(drawn[1][1].values()) == 20


def test_a_fit_without_validation_shows_the_classes_alone_or_says_why_nothing(trainer_in, drawn, caplog) -> None:
    with caplog.at_level(logging.INFO):
        fit(trainer_in, Taught(), EmbeddingPlot(), limit_val_batches=0)
        fit(trainer_in, Taught(), EmbeddingPlot(stages=["test"]))
        assert "nothing to draw" not in caplog.text
        model = Encoded()
        model.automatic_optimization = False
        fit(trainer_in, model, EmbeddingPlot(), limit_val_batches=0)
        fit(trainer_in, model, EmbeddingPlot(), check_val_every_n_epoch=5)  # the sanity check is no validation
    assert [groups for _, groups, _ in drawn] == [{f"pseudo-class {number}": 24 for number in range(3)}]
    assert (
        "nothing to draw of fit: no image was validated, and the method has no classes of training images."
        in caplog.text
    )


def test_every_group_has_its_look() -> None:
    looks = {pair: _style(*pair) for pair in [(0, -1), (1, -1), (-1, -1), (0, 2), (1, 2), (-1, 0), (-1, 1), (-1, 2)]}
    assert len({name for name, _ in looks.values()}) == len(looks)
    assert len({tuple(style.values()) for _, style in looks.values()}) == len(looks)
    assert looks[0, 2][1]["color"] == looks[0, -1][1]["color"]
    assert looks[0, 2][1]["marker"] == looks[1, 2][1]["marker"]


def test_pretrainings_show_every_strong_version_of_a_training_image() -> None:
    image = torch.rand(3, 3, 32, 32)
    for model, count in ((CCD, 4), (PMSACL, 4), (RotNet, 4)):
        made = model(encoder="residual", width=8, image_size=32, encoder_weights=None)
        images, number = made.pseudo_class_images(image, torch.Generator().manual_seed(0))
        assert torch.equal(images[number == 0], image)
        assert number.tolist() == list(range(count)) * 3
        assert (images[number == 3] != image).flatten(1).any(1).all()
    local = CCD(encoder="residual", width=8, patch_size=16, encoder_weights=None)
    assert local.pseudo_class_images(image, torch.Generator().manual_seed(0))[0].shape == (12, 3, 16, 16)
    plain = SimCLR(encoder="residual", width=8, image_size=32, encoder_weights=None)
    assert plain.pseudo_class_images(image, torch.Generator()) is None


def test_options() -> None:
    with pytest.raises(ConfigError, match="samples must be at least 5; got 4"):
        EmbeddingPlot(samples=4)
    with pytest.raises(ConfigError, match="stages must name fit, test or predict; got none"):
        EmbeddingPlot(stages=[])
    with pytest.raises(ConfigError, match=r"stages must be .*; got \['tset'\]"):
        EmbeddingPlot(stages=["tset"])
