"""The checks of the method's description, numbered as there, then its pitfalls and options."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from anomaly_suite.contract import SNIPPET_FRAMES, as_batch, frame_scores
from anomaly_suite.data import SyntheticVideos
from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.methods import RTFM
from anomaly_suite.methods.weak_video import rtfm
from anomaly_suite.methods.weak_video.bags import Bags
from anomaly_suite.metrics import auroc

D, L = 16, 8
SMALL: dict[str, Any] = {"feature_dim": D, "hidden": (6,), "segments": L, "top_k": 3}
QUIET: dict[str, Any] = {**SMALL, "dropout": 0.0, "select_dropout": 0.0}  # nothing random in a training step


def settled(**options: Any) -> RTFM:
    """A model in eval mode as training leaves it: no bias, scale or running statistic at its initial value."""
    model = RTFM(**{**SMALL, **options})
    layer: Any
    for layer in model.modules():
        if getattr(layer, "bias", None) is not None:
            torch.nn.init.normal_(layer.bias)
        if isinstance(layer, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(layer.weight)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return model.eval()


def bags(normal: int = 4, anomalous: int = 4, *, crops: int = 2, width: int = D) -> Any:
    label = torch.cat([torch.zeros(normal), torch.ones(anomalous)]).long()
    return {"snippet_features": torch.rand(len(label), crops, L, width), "label": label}


def terms(model: RTFM, embedded: Tensor, score: Tensor, *, normal: int = 4) -> dict[str, Tensor]:
    """Every loss without its weight; ``score`` is that of each crop."""
    label = (torch.arange(len(score)) >= normal).long()
    logit = score.logit().unsqueeze(1).expand(-1, embedded.shape[1], -1)
    found = model._magnitude_terms(
        embedded,
        logit,
        Bags(
            embedded, label, normal, len(score) - normal, torch.full_like(label, embedded.shape[2], dtype=torch.int64)
        ),
        Generator().manual_seed(0),
    )
    return {name: value for name, (_, value) in found.items()}


class TestChecks:
    def test_1_parameter_count(self) -> None:
        with torch.device("meta"):
            model = RTFM()
        assert sum(p.numel() for p in model.parameters()) == 24_718_849

    def test_2_shapes(self) -> None:
        model = RTFM(feature_dim=D)
        features = torch.rand(8, 10, 32, D)
        assert model.embed(features).shape == (8, 10, 32, D)
        assert rtfm.magnitudes(model.embed(features)).shape == (8, 32)
        assert model.classifier(model.embed(features)).shape == (8, 10, 32)
        assert model.training_step(bags(crops=10), 0).shape == ()
        model.eval()
        for crops, snippets in ((10, 67), (1, 1), (10, 2)):
            prediction = model.predict(as_batch({"snippet_features": torch.rand(1, crops, snippets, D)}))
            assert prediction["snippet_score"].shape == (1, snippets)
            assert 0 <= prediction["snippet_score"].min() <= prediction["snippet_score"].max() <= 1
            assert prediction["frame_score"].shape == (SNIPPET_FRAMES * snippets,)

    def test_3_the_order_of_crops_means_nothing(self) -> None:
        model, features = settled(), torch.rand(3, 5, 20, D)
        assert torch.allclose(model(features)[1], model(features[:, [4, 2, 0, 1, 3]])[1], atol=1e-6)
        alone = [model(features[:, crop : crop + 1])[1] for crop in range(5)]
        assert torch.allclose(model(features)[1], torch.stack(alone).mean(0), atol=1e-6)
        assert not torch.allclose(model(features)[1], model(features[:, [0, 0, 0, 1, 3]])[1], atol=1e-6)

    def test_3_swapping_two_anomalous_videos_changes_the_pairing_alone(self) -> None:
        embedded, score = 50 * torch.rand(8, 2, L, D), torch.rand(8, L)
        swapped = [0, 1, 2, 3, 5, 4, 6, 7]
        before = terms(RTFM(**QUIET), embedded, score)
        after = terms(RTFM(**QUIET), embedded[swapped], score[swapped])
        assert [name for name in before if not torch.isclose(before[name], after[name], rtol=1e-6)] == ["magnitude"]

    @pytest.mark.parametrize("mag_loss", ["released", "hinge"])
    def test_4_gradients_reach_selected_snippets_alone(self, mag_loss: str) -> None:
        model = RTFM(**QUIET, mag_loss=mag_loss)
        embedded, score = torch.rand(8, 2, L, D, requires_grad=True), torch.rand(8, L, requires_grad=True)
        index = rtfm.select_snippets(rtfm.magnitudes(embedded), 3, drop=0.0, generator=Generator())
        assert not index.requires_grad
        selected = torch.zeros(8, L).scatter(1, index, 1).bool()
        found = terms(model, embedded, score)
        found["magnitude"].backward(retain_graph=True)
        assert embedded.grad is not None
        assert torch.equal(embedded.grad.abs().sum((1, 3)) > 0, selected)
        assert score.grad is None
        found["classification"].backward()
        assert score.grad is not None
        assert torch.equal(score.grad != 0, selected)

    def test_5_values_by_hand(self) -> None:
        zeros, score = torch.zeros(8, 2, L, D), torch.full((8, L), 0.25)
        found = terms(RTFM(**QUIET), zeros, score)
        assert found["magnitude"] == 10_000
        assert RTFM(**QUIET).magnitude_weight * found["magnitude"] == pytest.approx(1)
        assert found["smoothness"] == 0
        assert found["sparsity"] == pytest.approx(0.25 * math.sqrt(4 * L))
        assert found["classification"] == pytest.approx(-(math.log(0.25) + math.log(0.75)) / 2)
        for anomalous, squared, hinge in ((100.0, 0, 0), (120.0, 400, 0), (70.0, 900, 30)):
            pair = {"normal": torch.tensor([0.0]), "anomalous": torch.tensor([anomalous]), "margin": 100.0}
            assert rtfm.magnitude_loss(**pair) == squared
            assert rtfm.hinge_loss(**pair) == hinge

    def test_6_every_snippet_survives_selection_with_its_own_luck(self) -> None:
        falling = 0.5 ** torch.arange(32.0).expand(40_000, 32)
        first = rtfm.select_snippets(falling, 1, drop=0.7, generator=Generator().manual_seed(0))
        for place in range(4):  # chosen if it survives and all larger ones do not
            assert (first == place).float().mean() == pytest.approx(0.3 * 0.7**place, abs=0.01)
        half = (
            first[:, 0] == 0
        )  # the two classes are two halves of a batch: what is drawn for one says nothing of the other
        assert (half[:20_000] & half[20_000:]).float().mean() == pytest.approx(0.09, abs=0.01)
        plain = rtfm.select_snippets(falling, 3, drop=0.0, generator=Generator())
        assert torch.equal(plain.sort(1).values, torch.arange(3).expand(40_000, 3))

    def test_6_evaluation_draws_nothing(self) -> None:
        model, features = settled(dropout=0.7, select_dropout=0.7), torch.rand(2, 1, 9, D)
        state = torch.get_rng_state()
        assert torch.equal(model(features)[1], model(features)[1])
        assert torch.equal(torch.get_rng_state(), state)

    def test_7_expected_gap_of_the_theorems_model(self) -> None:
        # Theorem 8.3.1: a selected snippet is anomalous with probability min(mu, k) / (k + eps).
        gaps = {k: min(3, k) / (k + 0.4) for k in (1, 2, 3, 4, 5, 8, 16, 32)}
        expected = [0.714, 0.833, 0.882, 0.682, 0.556, 0.357, 0.183, 0.093]  # from the description
        assert list(gaps.values()) == pytest.approx(expected, abs=6e-3)  # it gives .682 for .6818 and .093 for .0926
        drawn = Generator().manual_seed(0)
        for k, gap in gaps.items():  # magnitudes are 1 and 0, so that Delta is 1
            anomalous = torch.rand(100_000, k, generator=drawn) < min(3, k) / (k + 0.4)
            assert anomalous.float().mean() == pytest.approx(gap, abs=5e-3)

    @pytest.mark.parametrize("k", [1, 3, 6, 7, 12, 32])
    def test_7_exact_gap_without_noise(self, k: int) -> None:
        anomalous = torch.ones(5, 32)
        anomalous[torch.arange(5).unsqueeze(1), torch.stack([torch.randperm(32)[:6] for _ in range(5)])] = 3.0
        gap = selected(anomalous, k) - selected(torch.ones(5, 32), k)
        assert gap.tolist() == pytest.approx([2 * min(1, 6 / k)] * 5)

    def test_7_gap_of_real_selection_over_its_deviation(self) -> None:
        drawn = Generator().manual_seed(0)
        anomalous, normal = 1 + 0.5 * torch.randn(2, 20_000, 32, generator=drawn)
        anomalous[:, :6] = 2 + 0.3 * torch.randn(20_000, 6, generator=drawn)
        reference = {1: 1.17, 2: 1.53, 3: 1.77, 4: 1.94, 6: 2.16, 8: 2.26, 12: 2.22, 16: 2.09, 24: 1.81, 32: 1.55}
        gaps = {k: selected(anomalous, k) - selected(normal, k) for k in reference}
        ratios = [float(gap.mean() / gap.std()) for gap in gaps.values()]
        assert ratios == pytest.approx(list(reference.values()), abs=0.05)
        assert gaps[32].mean() == pytest.approx(6 / 32, abs=0.01)  # the theorem's (a - b) mu / T, whatever the noise

    def test_8_truth_as_score_is_perfect(self) -> None:
        data = SyntheticVideos(feature_dim=4, test_size=20, eval_batch_size=40)
        data.setup("test")
        (batch,) = data.test_dataloader()
        length, count, truth = batch["length"], batch["frame_count"], batch["frame_label"]
        perfect = torch.zeros(batch["snippet_features"].shape[0], batch["snippet_features"].shape[2])
        start = torch.cumsum(count, 0) - count
        for video, row in enumerate(perfect):
            for snippet in range(int(length[video])):
                row[snippet] = truth[int(start[video]) + SNIPPET_FRAMES * snippet].float()
        assert auroc(frame_scores(perfect, length, count), truth) == 1
        shuffled = perfect.flatten()[torch.randperm(perfect.numel())].view_as(perfect)
        assert auroc(frame_scores(shuffled, length, count), truth) == pytest.approx(0.5, abs=0.05)


def selected(magnitude: Tensor, k: int) -> Tensor:
    index = rtfm.select_snippets(magnitude, k, drop=0.0, generator=Generator())
    return magnitude.gather(1, index).mean(1)


class TestAgainstSlowLoops:
    def test_released_losses(self) -> None:
        model = RTFM(**QUIET, margin=5.0)
        batch = bags()
        with torch.no_grad():
            embedded = model.embed(batch["snippet_features"])
            score = model.classifier(embedded).mean(1)
        classification = magnitude = 0.0
        lengths = []
        for video in range(8):
            strength = [sum(float(embedded[video, c, t].norm()) for c in range(2)) / 2 for t in range(L)]
            best = sorted(range(L), key=lambda t: -strength[t])[:3]
            mean = sum(float(score[video, t]) for t in best) / 3
            classification -= math.log(mean if video >= 4 else 1 - mean) / 8
            lengths.append([float((sum(embedded[video, c, t] for t in best) / 3).norm()) for c in range(2)])
        for pair, crop in product(range(4), range(2)):
            magnitude += (abs(5 - lengths[4 + pair][crop]) + lengths[pair][crop]) ** 2 / 8
        smooth = sum(float(score[v, t + 1] - score[v, t]) ** 2 for v in range(4, 8) for t in range(L - 1))
        sparse = math.sqrt(sum(float(value) ** 2 for value in score[4:].flatten()))
        loss = model.training_step(batch, 0)
        assert loss.item() == pytest.approx(classification + 1e-4 * magnitude + 8e-4 * smooth + 8e-3 * sparse, rel=1e-5)

    def test_thesis_losses(self) -> None:
        model = RTFM(**{**QUIET, "select_dropout": None}, variant="thesis", margin=5.0, smoothness_weight=0.5)
        batch = bags()
        with torch.no_grad():
            embedded = model.embed(batch["snippet_features"])
            score = model.classifier(embedded).mean(1)
        classification, sizes = 0.0, []
        for video in range(8):
            strength = embedded[video].norm(dim=-1).mean(0).tolist()
            best = sorted(range(L), key=lambda t: -strength[t])[:3]
            for t in best:
                classification -= math.log(float(score[video, t] if video >= 4 else 1 - score[video, t])) / 8
            sizes.append(sum(strength[t] for t in best) / 3)
        magnitude = sum(max(0.0, 5 - (sizes[4 + pair] - sizes[pair])) for pair in range(4)) / 4
        smooth = sum(float(score[v, t + 1] - score[v, t]) ** 2 for v in range(4, 8) for t in range(L - 1))
        sparse = sum(float(value) for value in score[4:].flatten()) / 4
        loss = model.training_step(batch, 0)
        assert loss.item() == pytest.approx(classification + 1e-2 * magnitude + 0.5 * smooth + 8e-3 * sparse, rel=1e-5)

    def test_without_magnitudes_the_loss_is_that_of_deep_mil(self) -> None:
        model = RTFM(**QUIET, magnitude=False)
        batch = bags(3, 5)
        with torch.no_grad():
            score = model.classifier(model.embed(batch["snippet_features"])).mean(1)
        best = score.amax(1).tolist()
        ranking = sum(max(0.0, 1 - best[i] + best[j]) for i in range(3, 8) for j in range(3)) / (3 * 5)
        smooth = sum(float(score[v, t + 1] - score[v, t]) ** 2 for v in range(3, 8) for t in range(L - 1)) / 5
        sparse = float(score[3:].sum()) / 5
        loss = model.training_step(batch, 0)
        assert loss.item() == pytest.approx(ranking + 8e-5 * (smooth + sparse), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "thesis"},
        {"attention_scaling": False},
        {"pdc": False},
        {"tsa": False},
        {"pdc": False, "tsa": False},
    ],
    ids=str,
)
def test_padding_does_not_matter(options: dict[str, Any]) -> None:
    model = settled(**options)
    length = torch.tensor([1, 2, 9, 24, 5])
    features = torch.full((5, 3, 24, D), float("nan"))
    for row, count in zip(features, length.tolist(), strict=True):
        row[:, :count] = torch.rand(3, count, D)
    together = model(features, length)
    for row, count in enumerate(length.tolist()):
        alone = model(features[row : row + 1, :, :count])
        assert torch.allclose(together[0][row], alone[0][0], atol=1e-6)
        assert torch.allclose(together[1][row, :count], alone[1][0], atol=1e-6)
        assert torch.equal(together[1][row, count:], torch.zeros(24 - count))


class TestPitfalls:
    @torch.no_grad()
    def test_dropout_inflates_magnitudes(self) -> None:
        model = RTFM(feature_dim=1000, hidden=(2,), pdc=False, tsa=False)
        convolution: Any = model.temporal.pointwise
        torch.nn.init.eye_(convolution.weight[..., 0])
        ones = torch.ones(100, 1, 3, 1000)
        assert rtfm.magnitudes(model.eval().embed(ones)).mean() == pytest.approx(math.sqrt(1000))
        embedded = model.train().embed(ones)
        assert (embedded == 0).float().mean() == pytest.approx(0.7, abs=0.01)
        assert rtfm.magnitudes(embedded).mean() / math.sqrt(1000) == pytest.approx(1.826, abs=0.01)
        mean = rtfm.selected_mean(embedded, torch.arange(3).expand(100, 3))
        assert mean.norm(dim=-1).mean() / math.sqrt(1000) == pytest.approx(1.333, abs=0.01)

    def test_labels_not_positions_tell_the_classes(self) -> None:
        model, batch = RTFM(**QUIET), bags()
        mixed = torch.tensor([4, 0, 5, 1, 2, 6, 7, 3])  # order within a class kept: it decides the pairs
        loss = model.training_step(batch, 0)
        again = model.training_step({key: value[mixed] for key, value in batch.items()}, 0)
        assert again.item() == pytest.approx(loss.item(), rel=1e-5)

    def test_classes_of_different_size_are_paired_as_far_as_they_go(self) -> None:
        embedded, score = torch.rand(6, 1, L, D), torch.rand(6, L)
        whole = terms(RTFM(**QUIET), embedded, score, normal=4)
        paired = terms(RTFM(**QUIET), embedded[[0, 1, 4, 5]], score[[0, 1, 4, 5]], normal=2)
        assert torch.equal(whole["magnitude"], paired["magnitude"])
        assert not torch.equal(whole["classification"], paired["classification"])

    def test_ties_and_too_few_survivors_still_select_k_snippets(self) -> None:
        for magnitude, drop in ((torch.zeros(50, L), 0.0), (torch.rand(50, L), 0.95)):
            index = rtfm.select_snippets(magnitude, 3, drop=drop, generator=Generator().manual_seed(0))
            assert all(len(set(row)) == 3 for row in index.tolist())

    @pytest.mark.parametrize("mag_loss", ["released", "hinge"])
    def test_gradient_of_a_magnitude_of_zero_is_finite(self, mag_loss: str) -> None:
        embedded, score = torch.zeros(8, 2, L, D, requires_grad=True), torch.full((8, L), 0.5, requires_grad=True)
        torch.stack(list(terms(RTFM(**QUIET, mag_loss=mag_loss), embedded, score).values())).sum().backward()
        assert embedded.grad is not None
        assert score.grad is not None
        assert embedded.grad.isfinite().all()
        assert score.grad.isfinite().all()

    @pytest.mark.parametrize("kind", ["mean", "each"])
    def test_cross_entropy_of_saturated_scores_is_finite(self, kind: Any) -> None:
        wrong = rtfm.bag_loss(torch.tensor([[[50.0]], [[-50.0]]]), torch.tensor([0, 1]), kind=kind)
        assert wrong == pytest.approx(50)
        right = rtfm.bag_loss(torch.tensor([[[-50.0]], [[50.0]]]), torch.tensor([0, 1]), kind=kind)
        assert right == pytest.approx(0, abs=2e-7)

    @pytest.mark.parametrize("kind", ["mean", "each"])
    @pytest.mark.parametrize(("label", "logit"), [(1, -17.0), (1, -90.0), (0, 17.0), (0, 90.0)])
    def test_a_bag_that_is_sure_and_wrong_still_learns(self, kind: Any, label: int, logit: float) -> None:
        # As torch's BCELoss of the release has it, until 1 - p or p rounds to zero there.
        given = torch.full((1, 1, 1), logit, requires_grad=True)
        rtfm.bag_loss(given, torch.tensor([label]), kind=kind).backward()
        assert given.grad is not None
        assert given.grad.item() == pytest.approx(1 - 2 * label, abs=1e-6)

    def test_loss_and_gradient_are_those_of_the_release(self) -> None:
        """BCELoss of the mean over crops, then over selected snippets, of sigmoids."""
        ours = (4 * torch.randn(6, 5, 3, dtype=torch.float64)).requires_grad_()
        theirs, label = ours.detach().clone().requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 1])
        loss = rtfm.bag_loss(ours, label, kind="mean")
        released = torch.nn.BCELoss()(theirs.sigmoid().mean(1).mean(1), label.double())
        loss.backward()
        released.backward()
        assert loss.item() == pytest.approx(released.item(), rel=1e-9)
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9)  # type: ignore[arg-type]

    def test_smoothness_does_not_cross_the_border_of_two_videos(self) -> None:
        score = torch.arange(8.0).div(8).unsqueeze(1).expand(8, L)
        assert terms(RTFM(**QUIET), torch.rand(8, 1, L, D), score)["smoothness"] == 0

    def test_losses_are_float32_under_autocast(self) -> None:
        model, batch = RTFM(**SMALL), bags()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.training_step(batch, 0)
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        exact = terms(RTFM(**QUIET), 70 * torch.ones(8, 1, L, D), torch.rand(8, L))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = terms(RTFM(**QUIET), 70 * torch.ones(8, 1, L, D), torch.rand(8, L))
        assert torch.equal(exact["magnitude"], rounded["magnitude"])


class TestOptions:
    @pytest.mark.parametrize("magnitude", [True, False])
    @pytest.mark.parametrize(("pdc", "tsa"), [(True, True), (True, False), (False, True), (False, False)])
    def test_every_row_of_the_ablation_trains_every_parameter(self, pdc: bool, tsa: bool, magnitude: bool) -> None:
        model = RTFM(**SMALL, pdc=pdc, tsa=tsa, magnitude=magnitude)
        names = {name.split(".")[1] for name, _ in model.named_parameters() if name.startswith("temporal.")}
        assert names == {
            name
            for name, present in {
                "branches": pdc,
                "attention": tsa,
                "fuse": pdc or tsa,
                "pointwise": not (pdc or tsa),
            }.items()
            if present
        }
        model.training_step(bags(), 0).backward()
        assert all(p.grad is not None for p in model.parameters())
        assert model.eval()(torch.rand(2, 3, 11, D))[1].shape == (2, 11)

    @pytest.mark.parametrize("variant", ["released", "thesis"])
    def test_variants_train_every_parameter(self, variant: Any) -> None:
        model = RTFM(**SMALL, variant=variant)
        model.training_step(bags(), 0).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_variants_state_what_text_and_release_do(self) -> None:
        released, thesis = RTFM(**SMALL), RTFM(**SMALL, variant="thesis")
        assert released.temporal.fuse is not None
        assert thesis.temporal.fuse is None
        assert (released.magnitude_weight, thesis.magnitude_weight) == (1e-4, 1e-2)
        rates = [model.configure_optimizers().param_groups[0] for model in (released, thesis)]
        assert [(rate["lr"], rate["weight_decay"], rate["betas"]) for rate in rates] == [
            (1e-3, 5e-3, (0.9, 0.999)),
            (1e-3, 5e-4, (0.9, 0.999)),
        ]

    @pytest.mark.parametrize("variant", ["released", "thesis"])
    @pytest.mark.parametrize("name", list(rtfm.VARIANTS))
    def test_every_choice_of_a_variant_can_be_set_alone(self, name: str, variant: Any) -> None:
        other = rtfm.VARIANTS[name][variant == "released"]
        given, plain = RTFM(**SMALL, variant=variant, **{name: other}).settings, RTFM(**SMALL, variant=variant).settings
        assert given == {**plain, name: other}
        assert given != plain

    @pytest.mark.parametrize(("segments", "k"), [(32, 3), (100, 10), (5, 1)])
    def test_a_tenth_of_the_segments_is_selected(self, segments: int, k: int) -> None:
        assert RTFM(feature_dim=D, segments=segments).top_k == k

    @pytest.mark.parametrize("width", [3, 10, 33])
    def test_any_width_works(self, width: int) -> None:
        model = RTFM(**{**SMALL, "feature_dim": width})
        model.training_step(bags(width=width), 0).backward()
        assert model.eval()(torch.rand(2, 3, 11, width))[1].shape == (2, 11)

    def test_crops_are_drawn_for_every_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, batch, seen = RTFM(**SMALL, train_crops=2), bags(crops=5), []
        embed = model.embed
        monkeypatch.setattr(model, "embed", lambda features: seen.append(features) or embed(features))
        for step in (0, 0, 1, 2, 3):
            model.training_step(batch, step)
        drawn = [
            [next(c for c in range(5) if torch.equal(part[:, i], batch["snippet_features"][:, c])) for i in range(2)]
            for part in seen
        ]  # also says that all videos got the same crops
        assert drawn[0] == drawn[1]
        assert len({tuple(sorted(pair)) for pair in drawn}) > 1
        assert all(len(set(pair)) == 2 for pair in drawn)

    def test_selection_follows_the_step_alone(self) -> None:
        model, batch = RTFM(**{**QUIET, "select_dropout": 0.7}), bags()
        losses = [model.training_step(batch, step).item() for step in (0, 0, 1, 2)]
        assert losses[0] == losses[1]
        assert len(set(losses)) == 3

    def test_weights_are_xavier_and_biases_zero(self) -> None:
        model = RTFM(feature_dim=64)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv1d | torch.nn.Linear):
                fan = (layer.weight.shape[0] + layer.weight.shape[1]) * layer.weight[0, 0].numel()
                assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / fan), rel=0.1)
                assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "paper"}, "'released' or 'thesis'; got 'paper'"),
        ({"top_k": 0}, "top_k must be in 1 to 8"),
        ({"top_k": 9}, "got 9"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
        ({"select_dropout": -0.1}, "select_dropout must be"),
        ({"train_crops": 0}, "train_crops must be at least 1"),
        ({"fuse": False, "pdc": False}, "need 16 channels; got 4"),
        ({"variant": "thesis", "tsa": False}, "need 16 channels; got 12"),
        ({"variant": "thesis", "feature_dim": 18}, "divisible by 4"),
        ({"feature_dim": 0}, "feature_dim must be at least 1"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RTFM(**{**SMALL, **options})


def test_more_crops_than_there_are() -> None:
    with pytest.raises(ShapeError, match="train_crops is 3, but videos have 2 crops"):
        RTFM(**SMALL, train_crops=3).training_step(bags(), 0)


def test_batches_of_one_class_are_refused() -> None:
    with pytest.raises(ShapeError, match="4 normal and 0"):
        RTFM(**SMALL).training_step(bags(4, 0), 0)


# Published weights ---------------------------------------------------------------------------------------------------


def released_state(width: int = D, *, hidden: tuple[int, int] = (6, 5)) -> dict[str, Tensor]:
    """Tensors by the names of the authors' files, none of them at its initial value."""
    part, half = width // 4, width // 8
    convolutions = {f"conv_{index}": (part, width, 3, True) for index in (1, 2, 3)}
    convolutions |= {"conv_4": (part, width, 1, False), "conv_5": (width, width, 3, False)}
    state = {f"Aggregate.{name}.0.weight": torch.randn(shape[:3]) / 4 for name, shape in convolutions.items()}
    state |= {f"Aggregate.{name}.0.bias": torch.randn(shape[0]) for name, shape in convolutions.items() if shape[3]}
    for name, (outputs, inputs) in {
        "g": (half, part),
        "theta": (half, part),
        "phi": (half, part),
        "W.0": (part, half),
    }.items():
        state[f"Aggregate.non_local.{name}.weight"] = torch.randn(outputs, inputs, 1) / 2
        state[f"Aggregate.non_local.{name}.bias"] = torch.randn(outputs)
    norms = {"conv_1.2": part, "conv_2.2": part, "conv_3.2": part, "conv_5.2": width, "non_local.W.1": part}
    for name, channels in norms.items():
        values = {"weight": torch.randn(channels), "bias": torch.randn(channels), "running_mean": torch.randn(channels)}
        values |= {"running_var": torch.rand(channels) + 0.5, "num_batches_tracked": torch.tensor(3)}
        state |= {f"Aggregate.{name}.{key}": value for key, value in values.items()}
    widths = (width, *hidden, 1)
    for number in range(3):
        state[f"fc{number + 1}.weight"] = torch.randn(widths[number + 1], widths[number]) / 4
        state[f"fc{number + 1}.bias"] = torch.randn(widths[number + 1])
    return state


def released_scores(state: dict[str, Tensor], features: Tensor) -> Tensor:
    """Scores (T,) of one crop (T, D), step by step as the method's description has them."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"Aggregate.{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean[:, None]) / (var[:, None] + 1e-5).sqrt()) * weight[:, None] + bias[:, None]

    def convolve(x: Tensor, name: str, **options: int) -> Tensor:
        name = f"Aggregate.{name}"
        return F.conv1d(x[None], state[f"{name}.weight"], state.get(f"{name}.bias"), **options)[0]

    x = features.T  # D T
    parts = [
        norm(convolve(x, f"conv_{index}.0", padding=dilation, dilation=dilation).relu(), f"conv_{index}.2")
        for index, dilation in ((1, 1), (2, 2), (3, 4))
    ]
    reduced = convolve(x, "conv_4.0").relu()
    theta, phi, g = (convolve(reduced, f"non_local.{name}") for name in ("theta", "phi", "g"))
    attention = theta.T @ phi / x.shape[1]  # T T
    parts.append(norm(convolve(g @ attention.T, "non_local.W.0"), "non_local.W.1") + reduced)
    out = (norm(convolve(torch.cat(parts), "conv_5.0", padding=1).relu(), "conv_5.2") + x).T  # T D
    for number in (1, 2):
        out = F.linear(out, state[f"fc{number}.weight"], state[f"fc{number}.bias"]).relu()
    return F.linear(out, state["fc3.weight"], state["fc3.bias"]).sigmoid()[:, 0]


class TestPublishedWeights:
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_scores_are_those_of_the_released_network(
        self, prefix: str, tmp_path: Path, trainer_in: Callable[..., Trainer]
    ) -> None:
        state = released_state()
        torch.save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "rtfm.pkl")
        model = RTFM(feature_dim=D, hidden=(6, 5), weights=str(tmp_path / "rtfm.pkl"))
        features = torch.rand(1, 3, 9, D)
        (found,) = trainer_in().predict(model, DataLoader([{"snippet_features": features}], batch_size=None))  # type: ignore[arg-type,misc,var-annotated]
        expected = torch.stack([released_scores(state, crop) for crop in features[0]]).mean(0)
        assert expected.std() > 1e-3
        assert torch.allclose(found["snippet_score"][0], expected, atol=1e-5)  # type: ignore[call-overload] # other order of sums

    def test_the_table_has_the_names_of_a_whole_file(self) -> None:
        model = RTFM(feature_dim=D, hidden=(6, 5))
        own = [key for key in model.state_dict() if key.startswith(rtfm.NETWORKS)]
        assert sorted(map(rtfm.own_name, released_state())) == sorted(own)
        assert len(rtfm.RELEASED) == 17

    def test_a_run_of_ones_own_is_taken_too(self, tmp_path: Path) -> None:
        source = settled(hidden=(6, 5))
        torch.save({"state_dict": source.state_dict()}, tmp_path / "a.ckpt")
        model = RTFM(**{**SMALL, "hidden": (6, 5)}, weights=str(tmp_path / "a.ckpt")).eval()
        model.load_pretrained()
        batch = as_batch(bags())
        assert torch.equal(model.predict(batch)["snippet_score"], source.predict(batch)["snippet_score"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"hidden": (6, 7)}, r"classifier.layers.3.weight is \(5, 6\) in it and \(7, 6\) in the network"),
            ({"tsa": False}, "it also holds|fuse.0.weight is"),
            ({"feature_dim": 32}, "temporal.branches.0.0.weight is"),
        ],
    )
    def test_other_options_are_named(self, options: dict[str, Any], message: str, tmp_path: Path) -> None:
        torch.save(released_state(), tmp_path / "rtfm.pkl")
        with pytest.raises(WeightsError, match=message) as raised:
            RTFM(
                **{"feature_dim": D, "hidden": (6, 5), **options}, weights=str(tmp_path / "rtfm.pkl")
            ).load_pretrained()
        assert str(tmp_path / "rtfm.pkl") in str(raised.value)
