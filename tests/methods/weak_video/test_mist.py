"""MIST: where groups lie, smoothing, pseudo labels, losses against loops in float64, and two phases."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_runs import make_data, make_trainer
from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import MIST
from anomaly_suite.methods.weak_video.deep_mil import ranking_loss
from anomaly_suite.methods.weak_video.mist import (
    moving_average,
    pair_loss,
    pseudo_labels,
    sample_groups,
    video_scores,
    weighted_loss,
)


def tiny(**options: Any) -> MIST:
    small: dict[str, Any] = {"feature_dim": 6, "hidden": (8, 4), "dropout": 0.0, "groups": 4, "group_size": 3}
    return MIST(**{**small, "generator_epochs": 1, **options})


# Groups ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippets", [1, 3, 7, 8, 500])
@pytest.mark.parametrize("shift", [0.0, 0.5, 0.999])
def test_groups_start_at_equal_steps(snippets: int, shift: float) -> None:
    place = sample_groups(torch.tensor([snippets, 7]), torch.tensor([shift, shift]), groups=32, size=7)
    assert place.shape == (2, 224)
    groups = place[0].view(32, 7).tolist()
    for number, group in enumerate(groups):
        start = int((number + shift) * max(0, snippets - 7) / 32)
        assert group == [min(start + k, snippets - 1) for k in range(7)]
    assert place[1].view(32, 7).eq(torch.arange(7)).all()


def test_scores_of_videos() -> None:
    score = torch.tensor([[0.9, 0.1, 0.5, 0.6], [0.2, 0.2, 0.2, 0.2]])
    assert torch.allclose(video_scores(score, size=2), torch.tensor([0.75, 0.2]))
    assert torch.allclose(video_scores(score, size=2, ranking="group"), torch.tensor([0.55, 0.2]))
    assert torch.equal(video_scores(score, size=1), score.amax(1))


# Losses ------------------------------------------------------------------------------------------------------------------


def test_pair_loss_equals_a_loop_and_that_of_deep_mil() -> None:
    normal, anomalous = torch.rand(3, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    slow = sum(max(0.0, 1 - a + n) for n in normal.tolist() for a in anomalous.tolist()) / 12
    assert float(pair_loss(normal, anomalous)) == pytest.approx(slow, abs=1e-8)
    assert float(pair_loss(normal, anomalous)) == pytest.approx(float(ranking_loss(normal, anomalous)) / 4)


def test_weighted_loss_equals_a_loop() -> None:
    logit, target = torch.randn(2, 3, 5, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    length, slow = [5, 2], 0.0
    for b in range(2):
        for t in range(length[b]):
            score = sum(1 / (1 + math.exp(-float(logit[b, c, t]))) for c in range(3)) / 3
            y = float(target[b, t])
            slow += -(0.8 * y * math.log(score) + 0.65 * (1 - y) * math.log(1 - score)) / length[b] / 2
    assert float(weighted_loss(logit, target, torch.tensor(length), (0.65, 0.8))) == pytest.approx(slow, abs=1e-8)


def batch_of() -> dict[str, Tensor]:
    features = torch.rand(4, 2, 9, 6)
    return {"snippet_features": features, "length": torch.tensor([9, 2, 9, 5]), "label": torch.tensor([0, 0, 1, 1])}


@pytest.mark.parametrize("ranking", ["snippets", "group"])
def test_first_loss_equals_the_formula(ranking: str) -> None:
    model, batch = tiny(ranking=ranking, smoothness_weight=0.3), batch_of()
    bags = model.bags(batch, whole=True)  # type: ignore[arg-type]
    shift = torch.rand(4, generator=model.step_generator(0)).tolist()
    best, suspect, change = [], [], []
    for row, length in enumerate(batch["length"].tolist()):
        score = model.generator(batch["snippet_features"][row, :, :length]).sigmoid().squeeze(-1).mean(0).tolist()
        groups = []
        for number in range(4):
            start = int((number + shift[row]) * max(0, length - 3) / 4)
            groups.append([score[min(start + k, length - 1)] for k in range(3)])
        every = sorted((value for group in groups for value in group), reverse=True)
        best.append(sum(every[:3]) / 3 if ranking == "snippets" else max(sum(group) / 3 for group in groups))
        if batch["label"][row]:
            suspect += every
            change += [sum((a - b) ** 2 for a, b in pairwise(group)) for group in groups]
    ranked = sum(max(0.0, 1 - a + n) for n in best[:2] for a in best[2:]) / 4
    expected = ranked + 0.01 * sum(suspect) / len(suspect) + 0.3 * sum(change) / len(change)
    assert float(model._generator_loss(bags, 0)) == pytest.approx(expected, rel=1e-5)


# Pseudo labels -----------------------------------------------------------------------------------------------------------


def test_smoothing_equals_a_loop_with_repeated_ends() -> None:
    score = torch.rand(2, 8, dtype=torch.float64)
    length = [8, 3]
    found = moving_average(score, torch.tensor(length))
    for row in range(2):
        for t in range(length[row]):
            around = [float(score[row, min(max(t + k, 0), length[row] - 1)]) for k in range(-2, 3)]
            assert float(found[row, t]) == pytest.approx(sum(around) / 5, abs=1e-8)


def test_smoothing_keeps_constants_and_inner_means() -> None:
    assert torch.allclose(moving_average(torch.full((1, 6), 0.3), torch.tensor([6])), torch.full((1, 6), 0.3))
    score = torch.zeros(1, 20)
    score[0, 8:12] = torch.rand(4)
    assert float(moving_average(score, torch.tensor([20])).mean()) == pytest.approx(float(score.mean()))


def test_labels_reach_from_zero_to_one_in_anomalous_videos() -> None:
    score, length = torch.rand(3, 8), torch.tensor([8, 6, 8])
    score[2] = 0.4
    label = torch.tensor([0, 1, 1])
    found = pseudo_labels(score, label, length)
    assert found[0].eq(0).all()
    assert (float(found[1, :6].min()), float(found[1].max())) == (0, 1)
    assert found[1, 6:].eq(0).all()
    assert found[2].eq(0).all()  # equal scores
    released = pseudo_labels(score, label, length, normal="scores")
    assert torch.equal(released[1:], found[1:])
    assert torch.allclose(released[0], moving_average(moving_average(score, length), length)[0])


def test_padding_changes_no_label() -> None:
    model, batch = tiny().eval(), batch_of()
    longer = torch.cat([batch["snippet_features"], torch.full((4, 2, 3, 6), torch.nan)], 2)
    longer[3, :, 5:] = 7
    first, second = (
        model.targets(model.bags({**batch, "snippet_features": each}, whole=True))  # type: ignore[typeddict-unknown-key]
        for each in (batch["snippet_features"], longer)
    )
    assert torch.allclose(first, second, atol=1e-6)


# Phases ------------------------------------------------------------------------------------------------------------------


def test_the_first_network_rests_while_the_second_learns(tmp_path: Any) -> None:
    model, states = tiny(feature_dim=16), []
    names = ("generator", "detector")

    class Note(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            states.append({name: [w.detach().clone() for w in getattr(model, name).parameters()] for name in names})
            assert model.generator.training == (model.current_epoch < 1)

    trainer = make_trainer(max_epochs=2, limit_val_batches=0, callbacks=[Note()], default_root_dir=tmp_path)
    trainer.fit(model, datamodule=make_data("MIST", batches_per_epoch=2))
    moved = [
        {name for name in names if not all(map(torch.equal, states[i][name], states[i + 1][name]))} for i in range(3)
    ]
    # The second network is a copy of the first until the second epoch.
    assert moved == [{"generator"}, {"detector"}, {"detector"}]


def test_in_its_first_phase_both_networks_are_one(tmp_path: Any) -> None:
    model, batch = tiny(feature_dim=16, generator_epochs=9), torch.rand(1, 2, 3, 16)
    before = model.generator[0].weight.clone()
    trainer = make_trainer(max_epochs=1, limit_val_batches=0, default_root_dir=tmp_path)
    with pytest.warns(
        UserWarning, match="MIST only makes pseudo labels: max_epochs=1 does not exceed generator_epochs=9"
    ):
        trainer.fit(model, datamodule=make_data("MIST", batches_per_epoch=1))
    assert not torch.equal(before, model.generator[0].weight)  # type: ignore[arg-type]
    alone = model.eval().generator(batch).sigmoid().mean(1).squeeze(-1)
    assert torch.allclose(model(batch)[1], alone)


def test_the_first_network_alone_may_score() -> None:
    model = tiny(self_training=False).eval()
    features = torch.rand(1, 2, 3, 6)
    score = model.predict_step({"snippet_features": features}, 0)["snippet_score"]  # type: ignore[index]
    assert torch.allclose(score[0], model.generator(features).sigmoid().mean(1)[0, :, 0])
    with pytest.raises(ConfigError, match="class_weights must not both be 0"):
        tiny(class_weights=(0.0, 0.0))
