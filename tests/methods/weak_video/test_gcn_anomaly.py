"""GCN-Anomaly: losses against loops in float64, which snippets teach, rounds, and labels that are cleaned where their noise is known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_runs import make_data, make_trainer
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import GCNAnomaly
from anomaly_suite.methods.weak_video.bags import min_max, soft_cross_entropy
from anomaly_suite.methods.weak_video.gcn_anomaly import (
    average_share,
    confident_snippets,
    direct_loss,
    indirect_loss,
    relabel,
    with_neighbours,
)


def tiny(**options: Any) -> GCNAnomaly:
    small: dict[str, Any] = {"feature_dim": 6, "hidden": (8, 4), "cleaner_widths": (8, 4), "dropout": 0.0}
    return GCNAnomaly(**{**small, "classifier_epochs": 1, "cleaner_epochs": 2, **options})


# Losses and labels -------------------------------------------------------------------------------------------------------


def test_losses_equal_loops() -> None:
    logit, target = torch.randn(2, 5, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64)
    chosen = torch.tensor([[True, False, True, True, False], [False] * 5])
    direct, indirect = direct_loss(logit, target, chosen), indirect_loss(logit, target, chosen)
    score = [1 / (1 + math.exp(-value)) for value in logit[0].tolist()]
    pairs = [(score[t], float(target[0, t])) for t in (0, 2, 3)]
    entropy = sum(-p * math.log(s) - (1 - p) * math.log(1 - s) for s, p in pairs) / 3
    assert direct.tolist() == pytest.approx([entropy, 0], abs=1e-8)
    assert indirect.tolist() == pytest.approx([sum(abs(s - p) for s, p in pairs) / 3, 0], abs=1e-8)


def test_soft_cross_entropy_equals_a_loop() -> None:
    logit, target = torch.randn(2, 3, 4, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    found = soft_cross_entropy(logit, target)
    for b in range(2):
        for t in range(4):
            score = sum(1 / (1 + math.exp(-float(logit[b, c, t]))) for c in range(3)) / 3
            y = float(target[b, t])
            assert float(found[b, t]) == pytest.approx(-y * math.log(score) - (1 - y) * math.log(1 - score), abs=1e-8)


@pytest.mark.parametrize(("snippets", "expected"), [(20, 6), (14, 4), (13, 4), (3, 3), (1, 1)])
def test_confident_snippets(snippets: int, expected: int) -> None:
    score, variance = torch.rand(1, snippets + 2), torch.rand(1, snippets + 2)
    score[0, snippets:], variance[0, snippets:] = 0, 0  # padding, most certain of all
    chosen = confident_snippets(score, variance, torch.tensor([snippets]))[0]
    if 0.3 * snippets >= 4:
        order = sorted(range(snippets), key=lambda t: float(variance[0, t]))
    else:
        order = sorted(range(snippets), key=lambda t: -abs(float(score[0, t]) - 0.5))
    assert set(chosen.nonzero().flatten().tolist()) == set(order[:expected])


def test_neighbours_end_with_the_video() -> None:
    chosen = torch.zeros(2, 12, dtype=torch.bool)
    chosen[0, 5], chosen[1, 0] = True, True
    vertex = with_neighbours(chosen, torch.tensor([8, 12]))
    assert vertex[0].nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert vertex[1].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_labels_are_cleaned_at_vertices_and_stretched() -> None:
    score, cleaned = torch.tensor([[0.2, 0.4, 0.6, 9.0]]), torch.tensor([[0.9, 0.1, 0.9, -9.0]])
    vertex = torch.tensor([[False, True, True, False]])
    found = relabel(score, cleaned, vertex, torch.tensor([3]))
    assert found[0].tolist() == pytest.approx([0.125, 0, 1, 0])
    assert min_max(torch.full((1, 3), 0.7), torch.tensor([3])).eq(0).all()


def test_running_average_converges_to_constant_outputs() -> None:
    average = torch.tensor(0.9)
    for epochs in range(20):
        stated = torch.lerp(torch.tensor(0.9), torch.tensor(0.2), average_share(epochs))
        assert float(stated) == pytest.approx(float(average), abs=1e-6)
        average = 0.5 * average + 0.5 * 0.2
    assert float(stated) == pytest.approx(0.2, abs=1e-5)


def test_average_of_weights_is_that_of_their_outputs() -> None:
    model, p, values = tiny(), 0.75, [1.0, -2.0, 3.0]
    average = p
    for epochs, value in enumerate(values, 1):
        average = 0.5 * average + 0.5 * value
        for weight in model.cleaner.parameters():
            weight.data.fill_(value)
        model.move_average(epochs)
    share = average_share(len(values))
    for weight in model.average.parameters():
        assert torch.allclose((1 - share) * p + share * weight, torch.tensor(average))


# Uncertainty -------------------------------------------------------------------------------------------------------------


def test_crops_tell_how_certain_a_snippet_is() -> None:
    model, features = tiny(), torch.rand(2, 3, 5, 6)
    score, variance = model.scores_and_variances(features)
    crops = torch.stack([model.labeller(features[:, crop]).sigmoid().squeeze(-1) for crop in range(3)])
    assert torch.allclose(score, crops.mean(0))
    assert torch.allclose(variance, crops.var(0, correction=0), atol=1e-7)


def test_sub_networks_stand_in_for_crops_and_stay_the_same() -> None:
    model, features = tiny(dropout=0.5).eval(), torch.rand(3, 1, 5, 6)
    score, variance = model.scores_and_variances(features)
    torch.rand(3)  # whatever else was drawn
    _, again = model.scores_and_variances(features[1:2, :, :3])
    assert torch.allclose(again[0], variance[1, :3], atol=1e-7)
    assert (variance > 0).any()
    assert torch.allclose(score, model.labeller(features).sigmoid().view(3, 5))
    assert tiny().scores_and_variances(features)[1].abs().max() < 1e-12  # without dropout all are the same
    with pytest.raises(ConfigError, match="uncertainty_samples must be at least 2"):
        tiny(uncertainty_samples=1)


# Rounds ------------------------------------------------------------------------------------------------------------------


def test_rounds_follow_from_the_epoch() -> None:
    model = tiny(rounds=2)
    assert [model.place(epoch) for epoch in range(9)] == [
        (0, False, 0),
        *((1, True, 0), (1, True, 1), (1, False, 0)),
        *((2, True, 0), (2, True, 1), (2, False, 0), (2, False, 1), (2, False, 2)),
    ]
    assert [tiny(rounds=0).place(epoch) for epoch in (0, 7)] == [(0, False, 0), (0, False, 7)]


def batch_of() -> dict[str, Tensor]:
    return {
        "snippet_features": torch.rand(4, 2, 20, 6),
        "length": torch.tensor([20, 5, 20, 9]),
        "label": torch.tensor([0, 0, 1, 1]),
    }


def test_labels_begin_with_those_of_videos() -> None:
    model, batch = tiny(), batch_of()
    bags = model.bags(batch, whole=True)  # type: ignore[arg-type]
    plain, cleaned = (model.eval().targets(bags, cleaned=flag) for flag in (False, True))
    assert [int(row.sum()) for row in plain] == [0, 0, 20, 9]
    assert plain[3, :9].eq(1).all()
    assert cleaned[:2].eq(0).all()
    assert cleaned[3, 9:].eq(0).all()
    assert (float(cleaned[2].min()), float(cleaned[2].max())) == (0, 1)


def test_padding_changes_nothing() -> None:
    model, batch = tiny(), batch_of()
    longer = torch.cat([batch["snippet_features"], torch.full((4, 2, 4, 6), torch.nan)], 2)
    longer[3, :, 9:] = 5
    first, second = (
        model.eval().targets(model.bags({**batch, "snippet_features": each}, whole=True), cleaned=True)  # type: ignore[typeddict-unknown-key]
        for each in (batch["snippet_features"], longer)
    )
    assert torch.allclose(first, second, atol=1e-6)


def test_one_network_learns_at_a_time(tmp_path: Any) -> None:
    model, states = tiny(feature_dim=16, rounds=1, lr=0.1, cleaner_lr=0.1), []
    data = make_data("GCNAnomaly", batches_per_epoch=1)
    names = ("scorer", "cleaner", "labeller")

    class Note(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            states.append(
                {name: torch.cat([w.detach().flatten() for w in getattr(model, name).parameters()]) for name in names}
            )

    trainer = make_trainer(max_epochs=4, limit_val_batches=0, callbacks=[Note()], default_root_dir=tmp_path)
    trainer.fit(model, datamodule=data)
    moved = [{name for name in names if not torch.equal(a[name], b[name])} for a, b in pairwise(states)]
    # The second epoch freezes the classifier and cleans, the third cleans, the fourth learns from what came of it.
    assert moved == [{"cleaner", "labeller"}, {"cleaner"}, {"scorer"}]
    assert torch.equal(states[1]["labeller"], states[0]["scorer"])


def test_cleaning_removes_noise_that_is_known(tmp_path: Any) -> None:
    """Seven in eight labels of anomalous snippets are wrong at first, because one label is given to a whole video."""
    model = GCNAnomaly(
        feature_dim=8, hidden=(16, 8), cleaner_widths=(16, 8), dropout=0.1, lr=0.02, cleaner_lr=1.0, rounds=2,
        classifier_epochs=4, cleaner_epochs=4,
    )  # fmt: skip
    torch.manual_seed(0)
    features, truth = 0.3 * torch.randn(12, 1, 32, 8), torch.zeros(12, 32)
    for row in range(6, 12):
        start = 4 * (row - 5)
        truth[row, start : start + 4] = 1
        features[row, 0, start : start + 4] += 1
    batch = {"snippet_features": features, "label": torch.tensor([0] * 6 + [1] * 6)}
    trainer = make_trainer(max_epochs=20, limit_val_batches=0, default_root_dir=tmp_path)
    trainer.fit(model, DataLoader([batch] * 10, batch_size=None))
    bags = model.bags({**batch, "length": torch.full((12,), 32)}, whole=True)  # type: ignore[typeddict-item]
    before, after = (model.eval().targets(bags, cleaned=flag)[6:] for flag in (False, True))
    noise = [float((label - truth[6:]).abs().mean()) for label in (before, after)]
    assert noise[0] == pytest.approx(7 / 8)
    assert noise[1] < 0.2
