from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from anomaly_suite.callbacks import EmbeddingPlot
from anomaly_suite.callbacks.embedding_plot import embed
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.errors import ConfigError


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


def test_options() -> None:
    with pytest.raises(ConfigError, match="samples must be at least 5; got 4"):
        EmbeddingPlot(samples=4)
