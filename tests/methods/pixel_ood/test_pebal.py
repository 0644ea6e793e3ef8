"""PEBAL: the checks and pitfalls of its card; those of abstention are in ``test_abstention.py``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from scene_cases import EVERY_IMAGE_MIXED, MIXED, NO_OUTLIER, TARGETS, TINY, WITH_VOID, pixel, reference, scenes
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.errors import ConfigError, DatasetError
from anomaly_suite.methods import PEBAL, DeepGamblers, DeepLabV3Plus
from anomaly_suite.methods.pixel_ood import pebal
from anomaly_suite.methods.pixel_ood.pebal import adaptive_penalty, energy_loss, smoothness, sparsity
from anomaly_suite.methods.pixel_ood.scores import energy

PAL_ALONE: dict[str, Any] = {"energy": False, "regularizer": "none"}
EVERYWHERE = torch.ones(1, 1, 1, dtype=torch.bool)


def make(**options: Any) -> PEBAL:
    torch.manual_seed(0)
    return PEBAL(**{**TINY, **options})


def row(*energies: float) -> Tensor:
    return torch.tensor(energies, dtype=torch.float32).view(1, 1, -1)


def with_energy(value: float, *, classes: int = 4, size: tuple[int, int] = (4, 5)) -> Tensor:
    """Logits (2, K, H, W) of one energy everywhere."""
    return torch.full((2, classes + 1, *size), -value - math.log(classes))


class TestTerms:
    @pytest.mark.parametrize(("label", "expected"), [(0, 0.32942), (1, 1.93705), (254, 0.1 * 1.13324)])
    def test_closed_forms_of_the_whole_class_loss(self, label: int, expected: float) -> None:
        model = make(num_classes=2, penalty_blur=False, **PAL_ALONE)
        terms = model.loss(pixel(2, 0, 1), torch.full((1, 1, 1), label))
        assert terms.keys() == {"classes"}
        assert terms["classes"].item() == pytest.approx(expected, abs=1e-5)

    def test_paper_form_of_outliers(self) -> None:
        model = make(num_classes=2, penalty_blur=False, outlier_form="paper", outlier_weight=1.0, **PAL_ALONE)
        loss = model.loss(pixel(2, 0, 1), torch.full((1, 1, 1), 254))["classes"]
        assert loss.item() == pytest.approx(1.20789, abs=1e-5)

    @pytest.mark.parametrize(
        ("value", "known", "expected"), [(-12, True, 0), (-10, True, 4), (-10, False, 16), (-5, False, 0)]
    )
    def test_closed_forms_of_energy(self, value: float, known: bool, expected: float) -> None:
        inside, outside = (EVERYWHERE, ~EVERYWHERE) if known else (~EVERYWHERE, EVERYWHERE)
        loss = energy_loss(row(value), inside, outside, margins=torch.tensor([-12.0, -6.0]))
        assert loss.item() == pytest.approx(expected / (1 if known else 2))  # with outliers, half of both means

    @pytest.mark.parametrize("target", [MIXED, NO_OUTLIER, WITH_VOID, EVERY_IMAGE_MIXED])
    def test_energy_loss_equals_a_slow_loop(self, target: Tensor) -> None:
        free = -9 + 4 * torch.randn(2, 4, 5)
        inside, outside = [], []
        for value, label in zip(free.flatten().tolist(), target.flatten().tolist(), strict=True):
            if label < 254:
                inside.append(max(0.0, value + 12) ** 2)
            elif label == 254:
                outside.append(max(0.0, -6 - value) ** 2)
        means = [sum(part) / len(part) for part in (inside, outside) if part]
        found = energy_loss(free, target < 254, target == 254, margins=torch.tensor([-12.0, -6.0]))
        assert found.item() == pytest.approx(sum(means) / len(means), rel=1e-5)

    def test_closed_forms_of_the_regularizers(self) -> None:
        model = make()
        assert (model.smoothness_weight, model.sparsity_weight, model.energy_weight) == (3e-6, 5e-4, 0.1)
        scored = torch.ones(1, 1, 3, dtype=torch.bool)
        assert model.smoothness_weight * smoothness(row(0, 1, 3), scored).item() == pytest.approx(7.5e-6)
        assert model.sparsity_weight * sparsity(row(3, 4, 9), row(1, 1, 0).bool()).item() == pytest.approx(2.5e-3)
        constant = torch.full((2, 4, 5), -7.0)
        assert smoothness(constant, constant < 0) == 0
        printed = make(regularizer="printed")
        assert (printed.smoothness_weight, printed.sparsity_weight) == (5e-4, 3e-6)
        assert smoothness(row(0, 1, 3), scored, form="printed") == 3
        assert sparsity(row(3, -4, 9), row(1, 1, 0).bool(), form="printed") == 16

    @pytest.mark.parametrize("form", ["released", "printed"])
    def test_smoothness_equals_a_slow_loop_and_leaves_void_out(self, form: Any) -> None:
        free, scored = torch.randn(2, 4, 5), WITH_VOID != 255
        expected = 0.0
        for image in range(2):
            for y in range(4):
                for x in range(5):
                    for down, right in ((1, 0), (0, 1)):
                        if (
                            y + down < 4
                            and x + right < 5
                            and scored[image, y, x]
                            and scored[image, y + down, x + right]
                        ):
                            step = (free[image, y + down, x + right] - free[image, y, x]).item()
                            expected += step**2 / 2 if form == "released" else abs(step)
        assert smoothness(free, scored, form=form).item() == pytest.approx(expected, rel=1e-5)
        wild = free.masked_fill(~scored, 1e6)
        torch.testing.assert_close(smoothness(wild, scored, form=form), smoothness(free, scored, form=form))

    def test_sizes_of_the_terms_at_the_published_batch(self) -> None:
        """Section 6.4: printed, the regularisers are hundreds; released, about 1. Other sizes give the same."""
        checks = 0.05 * (1 - 2 * ((torch.arange(20).view(-1, 1) + torch.arange(20)) % 2)).float()
        pairs = 19 / 20  # of neighbours to pixels, each way
        logits = with_energy(-12.0, size=(20, 20)) + checks
        target = torch.zeros(2, 20, 20, dtype=torch.long)
        printed = make(regularizer="printed").loss(logits, target)
        assert printed["sparsity"].item() / 0.1 == pytest.approx(233.28, rel=1e-4)
        assert printed["smoothness"].item() / 0.1 == pytest.approx(2 * pairs * 6.48e6 * 0.1 * 5e-4, rel=1e-4)
        released = make().loss(logits, target)
        assert released["smoothness"].item() / 0.1 == pytest.approx(2 * pairs * 6.48e6 * 0.1**2 / 2 * 3e-6, rel=1e-4)

    def test_smoothness_does_not_depend_on_the_size_of_the_batch_but_sparsity_does(self) -> None:
        logits = torch.randn(2, 5, 4, 5)
        once, twice = (make().loss(logits.repeat(n, 1, 1, 1), MIXED.repeat(n, 1, 1)) for n in (1, 2))
        torch.testing.assert_close(once["smoothness"], twice["smoothness"])
        torch.testing.assert_close(once["sparsity"] * math.sqrt(2), twice["sparsity"])

    def test_penalty_is_the_smoothed_squared_energy_of_each_image(self) -> None:
        free = -5 + torch.randn(2, 12, 14)
        expected = [gaussian_filter(x.double().numpy() ** 2, 1.0, mode="mirror", radius=3) for x in free]
        np.testing.assert_allclose(adaptive_penalty(free, floor=1.0, blur=True).numpy(), expected, rtol=1e-5)
        assert torch.equal(adaptive_penalty(free, floor=1.0, blur=False), free.square().clamp_min(1))

    def test_the_square_loses_the_sign_of_the_energy(self) -> None:
        found = adaptive_penalty(row(-3, 3, -0.5, 0), floor=1.0, blur=False)
        assert found.flatten().tolist() == [9, 9, 1, 1]

    def test_total_is_class_loss_and_weighted_rest(self) -> None:
        logits, target = 4 + 4 * torch.rand(2, 5, 4, 5), WITH_VOID
        free = energy(logits[:, :4]).squeeze(1)
        terms = make(penalty_blur=False, energy_weight=0.3, smoothness_weight=2e-5, sparsity_weight=0.7).loss(
            logits, target
        )
        expected = {
            "classes": reference(logits, target, free.double().square(), weight=0.1, form="released").float(),
            "energy": 0.3 * energy_loss(free, target < 254, target == 254, margins=torch.tensor([-12.0, -6.0])),
            "smoothness": 0.3 * 2e-5 * 6.48e6 / 40 * smoothness(free, target != 255),
            "sparsity": 0.3 * 0.7 * free[target == 254].square().sum().sqrt(),
        }
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-6)


class TestPitfalls:
    def test_without_a_floor_the_objective_has_no_bound(self) -> None:
        target = torch.full((2, 4, 5), 254)
        low = [
            make(penalty_floor=0.0, **PAL_ALONE).loss(with_energy(e), target)["classes"] for e in (-1e-2, -1e-4, -1e-6)
        ]
        assert low[0] > low[1] > low[2]
        assert low[2] < -0.1 * 20
        bounded = [make(**PAL_ALONE).loss(with_energy(e), target)["classes"] for e in (-1e-2, -1e-4, 0.0)]
        assert all(value >= 0 for value in bounded)

    @pytest.mark.parametrize(("floor", "collapses"), [(0.0, True), (1.0, False)])
    def test_descent_on_logits_collapses_without_a_floor(self, floor: float, collapses: bool) -> None:
        model = make(penalty_floor=floor, penalty_blur=False, **PAL_ALONE)
        logits = torch.randn(2, 5, 4, 5).requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            loss = model.loss(logits, MIXED)["classes"]
            loss.backward()
            optimizer.step()
        assert (loss.item() < -1) == collapses
        assert loss.item() >= 0 or collapses
        right = (logits[:, :4].argmax(1) == MIXED)[MIXED < 254].float().mean()
        assert right < 0.9 if collapses else right > 0.9

    def test_detached_penalty_has_the_same_value_but_no_gradient(self) -> None:
        logits = torch.randn(2, 5, 4, 5, requires_grad=True)
        found = [make(penalty_detach=option, **PAL_ALONE).loss(logits, MIXED)["classes"] for option in (False, True)]
        assert torch.equal(*found)
        through, around = (torch.autograd.grad(value, logits)[0] for value in found)
        free = energy(logits[:, :4]).squeeze(1).detach()
        penalty = adaptive_penalty(free, floor=1.0, blur=True).double()
        (expected,) = torch.autograd.grad(reference(logits, MIXED, penalty, weight=0.1, form="released"), logits)
        torch.testing.assert_close(around, expected, rtol=1e-4, atol=1e-6)
        assert (through - around).abs().max() > 1e-3

    @pytest.mark.parametrize("name", TARGETS)
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"regularizer": "printed", "outlier_form": "paper"},
            {"penalty_floor": 0.0},
            {"abstention": "fixed"},
            {"abstention": "extra_class"},
            {"abstention": "none"},
        ],
        ids=str,
    )
    def test_losses_and_gradients_are_finite_on_every_kind_of_batch(self, name: str, options: dict[str, Any]) -> None:
        model = make(**options)
        channels = 4 if options.get("abstention") == "none" else 5
        for scale in (1.0, 100.0):
            logits = (scale * torch.randn(2, channels, 4, 5)).requires_grad_()
            terms = model.loss(logits, TARGETS[name])
            torch.stack(list(terms.values())).sum().backward()
            assert all(value.isfinite() for value in terms.values())
            assert logits.grad is not None
            assert logits.grad.isfinite().all()

    def test_nothing_but_void_teaches_nothing_but_smoothness(self) -> None:
        terms = make().loss(torch.randn(2, 5, 4, 5), TARGETS["all void"])
        assert all(value == 0 for value in terms.values())

    def test_outlier_pixels_have_a_gradient_from_every_term(self) -> None:
        logits = (6 + torch.randn(2, 5, 4, 5)).requires_grad_()
        for name, value in make().loss(logits, MIXED).items():
            (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
            assert gradient[:, :4].abs().sum(1)[MIXED == 254].min() > 0, name

    def test_void_pixels_change_nothing_where_the_penalty_is_not_smoothed(self) -> None:
        logits, void = torch.randn(2, 5, 4, 5), WITH_VOID == 255
        wild = torch.where(void.unsqueeze(1), 1000 * torch.randn(2, 5, 4, 5), logits)
        model = make(penalty_blur=False)
        first, second = model.loss(logits, WITH_VOID), model.loss(wild, WITH_VOID)
        assert all(torch.equal(first[name], second[name]) for name in first)
        blurred = [make().loss(x, WITH_VOID)["classes"] for x in (logits, wild)]
        assert not torch.equal(*blurred)  # as released, void stays in the smoothed penalty

    def test_a_pixel_of_high_energy_is_the_anomalous_one(self) -> None:
        sure, unsure = pixel(9, 0, 0, 0, 0), pixel(1, 1, 1, 1, 0)
        known, unknown = (make().score_map(x).item() for x in (sure, unsure))
        assert known < unknown < 0


class TestOptions:
    def test_fixed_penalty_is_deep_gamblers(self) -> None:
        logits = torch.randn(2, 5, 4, 5)
        model = make(abstention="fixed", fixed_penalty=2.5, **PAL_ALONE)
        gambler = DeepGamblers(**TINY, payoff=2.5)
        assert torch.equal(model.loss(logits, WITH_VOID)["classes"], gambler.loss(logits, WITH_VOID)["abstention"])
        assert make().fixed_penalty == 4.5

    def test_extra_class_is_cross_entropy_with_one_more_class(self) -> None:
        logits = torch.randn(2, 5, 4, 5)
        model = make(abstention="extra_class", **PAL_ALONE)
        expected = F.cross_entropy(logits, WITH_VOID.masked_fill(WITH_VOID == 254, 4), ignore_index=255)
        torch.testing.assert_close(model.loss(logits, WITH_VOID)["classes"], expected)
        torch.testing.assert_close(model.score_map(logits), logits.softmax(1)[:, 4:])

    def test_off_is_cross_entropy_of_known_pixels(self) -> None:
        logits = torch.randn(2, 4, 4, 5)
        model = make(abstention="none", **PAL_ALONE)
        expected = F.cross_entropy(logits, WITH_VOID.masked_fill(WITH_VOID == 254, 255), ignore_index=255)
        torch.testing.assert_close(model.loss(logits, WITH_VOID)["classes"], expected)
        assert model.network.last.out_channels == 4
        assert make().network.last.out_channels == 5

    @torch.no_grad()
    def test_score_is_the_smoothed_energy_of_the_classes_alone(self) -> None:
        image = torch.rand(1, 3, 32, 48)
        model = make().eval()
        free = -model.segment(image)[:, :4].double().logsumexp(1)
        expected = gaussian_filter(free[0].numpy(), 1.0, mode="mirror", radius=3)
        prediction = model.predict({"image": image})
        np.testing.assert_allclose(prediction["anomaly_map"][0, 0].numpy(), expected, rtol=1e-4)
        raw = make(smoothing=False).eval()(image)[1]
        np.testing.assert_allclose(raw[0].numpy(), free.numpy(), rtol=1e-4)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"margin_in": None}, "both given or both null; got None and -6.0"),
            ({"margin_out": None}, "both given or both null; got -12.0 and None"),
            ({"penalty_floor": -1.0}, "penalty_floor must be at least 0; got -1.0"),
            ({"outlier_weight": -0.1}, "outlier_weight must be at least 0"),
            ({"smoothness_weight": -0.1}, "smoothness_weight must be at least 0"),
            ({"sparsity_weight": -0.1}, "sparsity_weight must be at least 0"),
            ({"energy_weight": -0.1}, "energy_weight must be at least 0"),
            ({"fixed_penalty": 0.0}, "fixed_penalty must be above 0; got 0.0"),
        ],
    )
    def test_options_out_of_range_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            make(**options)


class TestMargins:
    UNKNOWN: dict[str, Any] = {"margin_in": None, "margin_out": None}

    def test_published_margins_are_the_defaults(self, trainer_in: Callable[..., Trainer]) -> None:
        model = make()
        trainer_in(limit_train_batches=1).fit(model, DataLoader(scenes(2), batch_size=2))
        assert model.margins.tolist() == [-12, -6]

    def test_unknown_margins_are_measured_on_known_pixels_before_the_training(
        self, trainer_in: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pebal, "MARGIN_BATCHES", 3)
        model = make(**self.UNKNOWN, lr=0.1).eval()
        kept = scenes(6)
        with torch.no_grad():
            free = [energy(model.segment(scene["image"][None])[:, :4])[0, 0] for scene in kept[:3]]
        mean = torch.cat([e[s["target"] < 254] for e, s in zip(free, kept, strict=False)]).mean().item()
        trainer_in(max_epochs=2).fit(model.train(), DataLoader(kept, batch_size=1))
        assert model.margins.tolist() == pytest.approx([mean - 3, mean + 3], rel=1e-4)
        assert model.network.final.training

    def test_measured_margins_survive_a_resume(self, tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
        saver = ModelCheckpoint(dirpath=tmp_path, filename="first", save_on_train_epoch_end=True)
        model = make(**self.UNKNOWN, lr=0.1)
        trainer_in(enable_checkpointing=True, callbacks=[saver]).fit(model, DataLoader(scenes(2), batch_size=2))
        file = tmp_path / "first.ckpt"
        other = [{**scene, "image": 0.2 * scene["image"]} for scene in scenes(2)]  # would give other margins
        resumed = make(**self.UNKNOWN, lr=0.1)
        trainer_in(max_epochs=2).fit(resumed, DataLoader(other, batch_size=2), ckpt_path=file, weights_only=True)
        assert torch.equal(resumed.margins, model.margins)
        fresh = make(**self.UNKNOWN, lr=0.1)
        trainer_in().fit(fresh, DataLoader(other, batch_size=2))
        assert not torch.allclose(fresh.margins, model.margins, atol=1e-3)
        loaded = PEBAL.load_from_checkpoint(file, map_location="cpu", weights_only=True)
        assert torch.equal(loaded.margins, model.margins)

    def test_margins_that_nobody_needs_are_not_measured(self, trainer_in: Callable[..., Trainer]) -> None:
        model = make(**self.UNKNOWN, energy=False)
        trainer_in(limit_train_batches=1).fit(model, DataLoader(scenes(2), batch_size=2))
        assert model.margins.isnan().all()

    def test_labels_without_a_known_pixel_cannot_give_margins(self, trainer_in: Callable[..., Trainer]) -> None:
        void = [{**scene, "target": torch.full_like(scene["target"], 255)} for scene in scenes(2)]
        with pytest.raises(DatasetError, match="the first 50 batches have none"):
            trainer_in().fit(make(**self.UNKNOWN), DataLoader(void, batch_size=2))


def test_tuning_raises_the_energy_of_outliers_and_keeps_the_classes(
    tmp_path: Path, trainer_in: Callable[..., Trainer]
) -> None:
    """Colours tell classes; outliers are white, a colour that no class has."""
    colours = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [1.0, 1.0, 1.0]])
    items = []
    for scene in scenes(8):
        kind = scene["target"].masked_fill(scene["target"] == 255, 0).clamp_max(4)
        items.append({**scene, "image": colours[kind].permute(2, 0, 1) + 0.05 * scene["image"]})
    loader = DataLoader(items, batch_size=4)
    options = {**TINY, "width": 16}
    segmenter = DeepLabV3Plus(**options, optimizer="adam", lr=0.01, weight_decay=0.0, auxiliary_weight=0.0)
    trainer_in(max_epochs=10).fit(segmenter, loader)
    torch.save({"state_dict": segmenter.state_dict()}, tmp_path / "segmenter.ckpt")
    model = PEBAL(
        **options, segmenter_weights=str(tmp_path / "segmenter.ckpt"), margin_in=None, margin_out=None, lr=0.003
    )
    model.load_pretrained()
    batch = torch.utils.data.default_collate(items)
    target = batch["target"]

    def measure() -> tuple[float, float, float]:
        model.eval()
        with torch.no_grad():
            prediction = model.predict(batch)
        free = prediction["anomaly_map"].squeeze(1)
        right = (prediction["pred_target"] == target)[target < 254].float().mean().item()
        return free[target < 254].mean().item(), free[target == 254].mean().item(), right

    before = measure()
    trainer_in(max_epochs=12).fit(model, loader)
    after = measure()
    assert after[0] < before[0] - 0.5
    assert after[1] > before[1] + 0.5
    assert after[2] > before[2] - 0.1
