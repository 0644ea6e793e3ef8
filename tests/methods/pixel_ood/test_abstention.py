"""Abstention losses, and training the last block alone: checks and pitfalls of the cards of PEBAL and Deep Gamblers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from scene_cases import ALL_VOID, MIXED, NO_OUTLIER, TARGETS, TINY, WITH_VOID, pixel, reference, scenes
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import PEBAL, DeepGamblers, DeepLabV3Plus
from anomaly_suite.methods.pixel_ood.abstention import (
    FineTunedSegmenter,
    abstention_in,
    abstention_loss,
    abstention_out,
    mean_where,
)

METHODS: list[Any] = [PEBAL, partial(DeepGamblers, payoff=2.5)]


class TestLosses:
    @pytest.mark.parametrize(
        ("logits", "energy", "penalty", "inside", "released", "paper"),
        [
            ((2, 0, 1), -2.12693, 4.52382, {0: 0.32942, 1: 1.93705}, 1.13324, 1.20789),
            ((0,) * 20, -2.94444, 8.66972, {0: 2.88657, 18: 2.88657}, 2.88657, None),
            ((12, *(0,) * 19), -12.00011, 144.00264, {0: 1.167e-4}, None, None),
        ],
        ids=["three", "zeros", "sure"],
    )
    def test_closed_forms(
        self,
        logits: tuple[float, ...],
        energy: float,
        penalty: float,
        inside: dict[int, float],
        released: float | None,
        paper: float | None,
    ) -> None:
        f = pixel(*logits).double()  # next to 1, probabilities of float32 have four digits left
        e = -f[:, :-1].logsumexp(1)
        assert e.item() == pytest.approx(energy, abs=1e-5)
        assert e.square().item() == pytest.approx(penalty, rel=1e-5)
        log_p, log_penalty = f.log_softmax(1), e.square().log()
        for label, expected in inside.items():
            found = abstention_in(log_p, torch.full((1, 1, 1), label), log_penalty)
            assert found.item() == pytest.approx(expected, abs=5e-6 if expected > 1e-3 else 5e-8)
        outlier = torch.ones(1, 1, 1, dtype=torch.bool)
        for form, value in (("released", released), ("paper", paper)):
            if value is not None:
                found = abstention_out(log_p, outlier, log_penalty, form=form)  # type: ignore[arg-type] # of a tuple
                assert found.item() == pytest.approx(value, abs=1e-5)

    @pytest.mark.parametrize(("penalty", "slope"), [(10, -0.0409), (19, 0.0), (36, 0.0230)])
    def test_outliers_abstain_only_below_a_penalty_of_the_number_of_classes(self, penalty: float, slope: float) -> None:
        f = torch.zeros(1, 20, 1, 1, requires_grad=True)
        outlier = torch.ones(1, 1, 1, dtype=torch.bool)
        abstention_out(f.log_softmax(1), outlier, torch.tensor(math.log(penalty)), form="released").backward()
        assert f.grad is not None
        assert f.grad[0, -1].item() == pytest.approx(slope, abs=5e-5)

    @pytest.mark.parametrize("form", ["released", "paper"])
    @pytest.mark.parametrize("name", TARGETS)
    def test_value_and_gradient_equal_a_slow_loop_also_where_a_group_is_empty(self, name: str, form: Any) -> None:
        target = TARGETS[name]
        logits = (3 * torch.randn(2, 5, 4, 5)).requires_grad_()
        penalty = 1 + 9 * torch.rand(2, 4, 5)
        found = abstention_loss(logits, target, penalty.log(), outlier_weight=0.1, form=form)
        expected = reference(logits, target, penalty.double(), weight=0.1, form=form)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
        # A second logarithm around that of outliers would be clamped to a constant, without any gradient.
        outlier_gradient = gradients[0].abs().sum(1)[target == 254]
        assert outlier_gradient.numel() == 0 or outlier_gradient.min() > 1e-5

    def test_released_clamp_stops_what_an_outlier_learns(self) -> None:
        """The release takes ``log(clamp(p_c + p_r / a, min=1e-7))``: sure pixels, here of energy -14, are partly constant in it."""
        torch.manual_seed(0)
        f = 6 * torch.randn(1, 20, 12, 12, dtype=torch.float64)
        f[:, :-1] += 14 - f[:, :-1].logsumexp(1, keepdim=True)
        f[:, -1] = -2
        outlier, log_penalty = torch.ones(1, 12, 12, dtype=torch.bool), torch.tensor(math.log(196.0))
        ours, theirs = f.clone().requires_grad_(), f.clone().requires_grad_()
        p = theirs.softmax(1)
        sums = p[:, :-1] + p[:, -1:] / 196
        released = -sums.clamp(min=1e-7).log().mean()
        found = abstention_out(ours.log_softmax(1), outlier, log_penalty, form="released", clamp=1e-7)
        torch.testing.assert_close(found, released)
        gradients = torch.autograd.grad(found, ours)[0], torch.autograd.grad(released, theirs)[0]
        torch.testing.assert_close(*gradients)
        assert 0.1 < float((sums < 1e-7).double().mean()) < 0.9
        unclamped = abstention_out(ours.log_softmax(1), outlier, log_penalty, form="released")
        assert unclamped > found

    @pytest.mark.parametrize("method", METHODS)
    def test_outlier_clamp_reaches_the_loss_and_is_a_probability(self, method: Any) -> None:
        torch.manual_seed(0)
        logits = 20 * torch.randn(2, 5, 4, 5)
        losses = [
            float(torch.stack(list(method(**TINY, outlier_clamp=clamp).loss(logits, MIXED).values())).sum())
            for clamp in (None, 1e-7)
        ]
        assert losses[0] > losses[1]
        for value in (0.0, 1.0, -1e-7):
            with pytest.raises(ConfigError, match="outlier_clamp must be in"):
                method(**TINY, outlier_clamp=value)

    def test_one_penalty_for_all_pixels_is_the_same_everywhere(self) -> None:
        logits = torch.randn(2, 5, 4, 5)
        one, many = torch.tensor(math.log(4.5)), torch.full((2, 4, 5), math.log(4.5))
        found = [abstention_loss(logits, WITH_VOID, a, outlier_weight=0.1, form="released") for a in (one, many)]
        torch.testing.assert_close(*found)

    def test_images_with_outliers_weigh_as_much_as_all_others(self) -> None:
        logits, target = torch.randn(3, 5, 4, 5), torch.cat([NO_OUTLIER, MIXED[1:]])
        a = torch.tensor(1.0)
        whole = abstention_loss(logits, target, a, outlier_weight=0.1, form="released")
        parts = [
            abstention_loss(logits[rows], target[rows], a, outlier_weight=0.1, form="released")
            for rows in (slice(2), slice(2, 3))
        ]
        torch.testing.assert_close(whole, parts[0] + parts[1])

    @pytest.mark.parametrize("name", TARGETS)
    def test_probabilities_that_underflow_cost_no_gradient(self, name: str) -> None:
        logits = torch.zeros(2, 5, 4, 5)
        logits[:, 3] = 300.0  # all other probabilities are 0 in float32
        logits.requires_grad_()
        target = TARGETS[name]
        loss = abstention_loss(logits, target, torch.tensor(math.log(36.0)), outlier_weight=0.1, form="released")
        loss.backward()
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        missed = (target < 254) & (target != 3)
        assert (logits.grad[:, 3][missed] > 0).all()
        assert (logits.grad[:, 3][target == 254] > 0).all()

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
    def test_half_precision_is_left_before_anything_overflows(self, kind: torch.dtype) -> None:
        logits = (20 * torch.rand(2, 5, 4, 5)).to(kind)  # exp(20) is no float16
        a = torch.tensor(math.log(4.5))
        found = abstention_loss(logits, MIXED, a, outlier_weight=0.1, form="released")
        assert found.dtype == torch.float32
        assert torch.equal(found, abstention_loss(logits.float(), MIXED, a, outlier_weight=0.1, form="released"))

    def test_void_has_neither_value_nor_gradient(self) -> None:
        logits = torch.randn(2, 5, 4, 5)
        void = WITH_VOID == 255
        other = torch.where(void.unsqueeze(1), 1000 * torch.randn(2, 5, 4, 5), logits).requires_grad_()
        a = torch.tensor(math.log(4.5))
        found = [abstention_loss(x, WITH_VOID, a, outlier_weight=0.1, form="released") for x in (logits, other)]
        assert torch.equal(*found)
        found[1].backward()
        assert other.grad is not None
        assert other.grad.abs().sum(1)[void].max() == 0

    def test_mean_of_nothing_is_zero_and_differentiable(self) -> None:
        value = torch.tensor([1.0, torch.inf, 3.0], requires_grad=True)
        assert mean_where(value, torch.tensor([True, False, True])) == 2
        nothing = mean_where(value, torch.zeros(3, dtype=torch.bool))
        nothing.backward()
        assert nothing == 0
        assert value.grad is not None
        assert torch.equal(value.grad, torch.zeros(3))


class TestFineTuning:
    @pytest.mark.parametrize("method", METHODS, ids=["PEBAL", "DeepGamblers"])
    @pytest.mark.parametrize("outliers", [True, False])
    def test_a_step_reaches_the_last_block_alone(
        self, method: Callable[..., FineTunedSegmenter], outliers: bool, trainer_in: Callable[..., Trainer]
    ) -> None:
        model = method(**TINY, lr=0.01)
        before = {key: value.clone() for key, value in model.network.state_dict().items()}
        trainer_in(limit_train_batches=2).fit(model, DataLoader(scenes(outliers=outliers), batch_size=2))
        after = model.network.state_dict()
        changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
        final = {key for key in before if key.startswith("final.")}
        assert changed == final  # weights, and statistics of its norms; of the rest not a bit
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == name.startswith("network.final."), name

    def test_trunk_mode_train_moves_statistics_but_no_weights(self, trainer_in: Callable[..., Trainer]) -> None:
        model = PEBAL(**TINY, trunk_mode="train")
        before = {key: value.clone() for key, value in model.network.state_dict().items()}
        trainer_in(limit_train_batches=1).fit(model, DataLoader(scenes(), batch_size=2))
        after = model.network.state_dict()
        changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
        frozen = {key for key in changed if not key.startswith("final.")}
        assert any(key.startswith("trunk.") for key in frozen)
        assert {key.rpartition(".")[2] for key in frozen} == {"running_mean", "running_var", "num_batches_tracked"}

    @pytest.mark.parametrize("method", METHODS, ids=["PEBAL", "DeepGamblers"])
    def test_published_number_of_trained_weights(self, method: Callable[..., FineTunedSegmenter]) -> None:
        with torch.device("meta"):
            model = method(backbone="wide_resnet38")
        assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == 1_296_384
        (group,) = model.configure_optimizers().param_groups
        assert sum(weight.numel() for weight in group["params"]) == 1_296_384

    @pytest.mark.parametrize("method", METHODS, ids=["PEBAL", "DeepGamblers"])
    @torch.no_grad()
    def test_training_starts_from_the_logits_of_the_segmenter(
        self, method: Callable[..., FineTunedSegmenter], tmp_path: Path
    ) -> None:
        segmenter = DeepLabV3Plus(**TINY).eval()
        torch.save({"state_dict": segmenter.state_dict()}, tmp_path / "segmenter.ckpt")
        model = method(**TINY, segmenter_weights=str(tmp_path / "segmenter.ckpt")).eval()
        model.load_pretrained()
        image = torch.rand(2, 3, 32, 48)
        torch.testing.assert_close(model.segment(image)[:, :-1], segmenter.segment(image))
        found, expected = (each.predict({"image": image})["pred_target"] for each in (model, segmenter))
        assert torch.equal(found, expected)

    def test_a_segmenter_that_is_not_trained_is_warned_of(self, caplog: pytest.LogCaptureFixture) -> None:
        PEBAL(**TINY).load_pretrained()
        assert "segmenter_weights is null: the rest stays untrained" in caplog.text

    def test_the_learning_rate_falls_over_the_true_steps_to_a_floor(self, trainer_in: Callable[..., Trainer]) -> None:
        rates: list[float] = []

        class Spy(PEBAL):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
                return super().training_step(batch, batch_idx)

        trainer_in(max_epochs=2).fit(Spy(**TINY, lr=4e-8), DataLoader(scenes(), batch_size=1))
        expected = [4e-8 * (1 - step / 8) ** 0.9 for step in range(8)]
        assert expected[-1] < 1e-8 < expected[-2]
        assert rates == pytest.approx([*expected[:-1], 1e-8], rel=1e-6)

    def test_losses_are_float32_under_autocast(self, trainer_in: Callable[..., Trainer]) -> None:
        seen: list[Tensor] = []

        class Spy(PEBAL):
            def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
                terms = super().loss(logits, target)
                seen.extend([logits, *terms.values()])
                return terms

        trainer = trainer_in(limit_train_batches=1, precision="bf16-mixed")
        trainer.fit(Spy(**TINY), DataLoader(scenes(), batch_size=2))
        assert len(seen) == 5
        assert all(value.dtype == torch.float32 and value.isfinite().all() for value in seen)
        logged = trainer.callback_metrics
        parts = [logged[f"train/{name}"] for name in ("classes", "energy", "smoothness", "sparsity")]
        torch.testing.assert_close(logged["train/loss"], torch.stack(parts).sum())

    def test_loss_must_be_written(self) -> None:
        with pytest.raises(NotImplementedError, match="FineTunedSegmenter must define loss"):
            FineTunedSegmenter(**TINY, abstention=True).loss(torch.zeros(1, 5, 2, 2), ALL_VOID)

    @pytest.mark.parametrize("lr", [0.0, -1.0])
    def test_learning_rates_are_positive(self, lr: float) -> None:
        with pytest.raises(ConfigError, match=r"lr must be (above|at least) 0"):
            PEBAL(**TINY, lr=lr)
