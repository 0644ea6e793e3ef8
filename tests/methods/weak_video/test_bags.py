"""Bags of snippets: their order in training, scores of snippets, frames and videos, batches that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.methods.weak_video.bags import BagModule, smoothness, top_mean


class First(BagModule):
    """Scores a snippet by the first value of its feature."""

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        return snippet_features[..., 0].mean(1)


def batch(length: list[int], snippets: int = 4) -> dict[str, Any]:
    return {"snippet_features": torch.rand(len(length), 2, snippets, 3), "length": torch.tensor(length)}


def test_normal_bags_come_first_in_their_order_and_are_pooled() -> None:
    model = First(feature_dim=3, segments=2)
    features = torch.arange(5.0).view(5, 1, 1, 1).expand(-1, 2, 4, 3)
    found = model.bags(
        {"snippet_features": features, "length": torch.full((5,), 4), "label": torch.tensor([1, 0, 1, 1, 0])}
    )
    assert found.snippet_features.shape == (5, 2, 2, 3)
    assert found.snippet_features[:, 0, 0, 0].tolist() == [1, 4, 0, 2, 3]
    assert found.label.tolist() == [0, 0, 1, 1, 1]
    assert (found.normal, found.anomalous, found.pairs) == (2, 3, 2)


def test_scores_of_snippets_frames_and_videos_leave_padding_out() -> None:
    model, videos = First(feature_dim=3), batch([4, 2])
    videos["snippet_features"][1, :, 2:] = 9
    prediction = model.predict(videos)  # type: ignore[arg-type]
    score = videos["snippet_features"][..., 0].mean(1)
    assert torch.equal(prediction["snippet_score"][0], score[0])
    assert prediction["snippet_score"][1].tolist() == [*score[1, :2].tolist(), 0, 0]
    assert prediction["anomaly_score"].tolist() == [float(score[0].max()), float(score[1, :2].max())]
    assert prediction["frame_score"].shape == (16 * 6,)
    assert torch.equal(model(videos["snippet_features"])[1][1], score[1])  # all snippets where no length is given


def test_batches_that_do_not_fit_are_explained() -> None:
    model, videos = First(feature_dim=3), batch([4, 2, 3])
    for label, message in (([0, 0, 0], "3 normal and 0 anomalous"), ([1, 1, 1], "0 normal and 3 anomalous")):
        with pytest.raises(ShapeError, match=message):
            model.bags({**videos, "label": torch.tensor(label)})  # type: ignore[typeddict-item]
    with pytest.raises(ShapeError, match="First learns from labels of videos"):
        model.bags(videos)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="the batch has image"):
        model.predict({"image": torch.rand(1, 3, 4, 4)})
    with pytest.raises(ShapeError, match="width 4; got 3"):
        First(feature_dim=4).predict(videos)  # type: ignore[arg-type]


def test_options_and_scores_must_be_there() -> None:
    for name in ("feature_dim", "segments"):
        with pytest.raises(ConfigError, match=f"{name} must be at least 1; got 0"):
            First(**{"feature_dim": 3, name: 0})
    with pytest.raises(NotImplementedError, match="BagModule must define snippet_scores"):
        BagModule(feature_dim=3)(torch.rand(1, 1, 2, 3))


def test_smoothness_stays_inside_a_bag() -> None:
    score = torch.tensor([[1.0, 1, 1, 1], [0, 1, 0, 0], [1, 0, 0, 0]])
    assert smoothness(score).tolist() == [0, 2, 1]


def test_top_mean() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.2, 0.2]])
    assert torch.allclose(top_mean(score, 2), torch.tensor([0.7, 0.2]))
    assert torch.allclose(top_mean(score, 9), score.mean(1))
