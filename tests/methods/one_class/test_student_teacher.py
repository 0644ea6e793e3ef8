from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.methods.one_class import student_teacher
from anomaly_suite.methods.one_class.student_teacher import (
    StudentTeacher,
    compactness_loss,
    jitter,
    mean_and_spread,
    triplet_loss,
)
from anomaly_suite.nn.encoders import standardize

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {
    "patch_sizes": [17], "num_students": 2, "width": 4, "teacher_epochs": 0, "lr": 3e-3,
    "teacher": "test_resnet", "teacher_weights": None, "teacher_size": 32, "patches_per_image": 4,
}  # fmt: skip


def stripes(count: int, *, size: int = 24, seed: int = 0, channels: int = 3) -> Tensor:
    """Slanted stripes of random phase."""
    generator = torch.Generator().manual_seed(seed)
    phase = math.tau * torch.rand(count, 1, 1, 1, generator=generator)
    row, column = torch.meshgrid(*[torch.arange(float(size))] * 2, indexing="ij")
    tint = torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1)[:channels]
    image = (0.5 + 0.3 * torch.sin(0.9 * row + 0.4 * column + phase)) * tint
    return (image + 0.02 * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def loader(image: Tensor, *, batch_size: int = 4, label: int = 0) -> DataLoader[Any]:
    return DataLoader(TensorDataset(image, torch.full((len(image),), label)), batch_size=batch_size)


def make(**options: Any) -> StudentTeacher:
    seed_everything(0, verbose=False)
    return StudentTeacher(**{**TINY, **options})


def measured(**options: Any) -> StudentTeacher:
    """As after an epoch of the students, whose errors have mean 0 and deviation 2."""
    model = make(**options).eval()
    model.has_targets.fill_(1)
    model.score_statistics[:, 1] = 2
    return model


def fit(trainer: Trainer, image: Tensor, **options: Any) -> StudentTeacher:
    model = make(**options)
    trainer.fit(model, loader(image))
    return model.eval()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def outputs(*values: float) -> Iterator[Tensor]:
    return (torch.full((1, 1, 1, 1), value) for value in values)


class TestTeacherLosses:
    def test_compactness_against_numpy(self) -> None:
        descriptor = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
        correlation = np.corrcoef(descriptor.numpy().T)
        expected = sum(correlation[i, j] ** 2 for i in range(5) for j in range(5) if i != j)
        assert compactness_loss(descriptor).item() == pytest.approx(expected, rel=1e-4)

    def test_compactness_of_dimensions_not_of_samples(self) -> None:
        apart = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        assert compactness_loss(apart).item() == pytest.approx(0, abs=1e-6)
        same = apart[:, :1].repeat(1, 3)
        assert compactness_loss(same).item() == pytest.approx(6, rel=1e-5)  # 1 for each ordered pair of 3 dimensions
        assert compactness_loss(5 - 2 * same).item() == pytest.approx(6, rel=1e-5)
        torch.testing.assert_close(compactness_loss(torch.cat([apart, apart])), compactness_loss(apart))

    def test_compactness_has_finite_gradients_where_a_dimension_is_constant(self) -> None:
        descriptor = torch.tensor([[1.0, 0.0, 2.0], [1.0, 2.0, 1.0]], requires_grad=True)
        compactness_loss(descriptor).backward()
        assert descriptor.grad is not None
        assert descriptor.grad.isfinite().all()
        with torch.autocast("cpu", torch.bfloat16):
            assert compactness_loss(torch.randn(8, 4)).dtype == torch.float32

    def test_triplet(self) -> None:
        anchor = torch.zeros(3, 2)
        positive = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
        negative = torch.tensor([[0.0, 1.0], [0.0, 2.0], [3.0, 4.0]])
        assert triplet_loss(anchor, positive, negative).item() == pytest.approx((1 + 6 + 0) / 3)

    def test_jitter_changes_brightness_and_contrast_and_takes_some_colours(self) -> None:
        patch = 0.4 + 0.2 * torch.rand(2000, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        changed = jitter(patch, torch.Generator().manual_seed(1))
        grey = (changed == changed[:, :1]).flatten(1).all(1)
        assert 0.07 < grey.float().mean() < 0.13
        coloured, plain = changed[~grey], patch[~grey]
        brightness = coloured.mean((1, 2, 3)) / plain.mean((1, 2, 3))
        contrast = coloured.std((1, 2, 3)) / plain.std((1, 2, 3)) / brightness
        for factor in (brightness, contrast):
            assert 0.8 - 1e-3 < factor.min() < 0.82
            assert 1.18 < factor.max() < 1.2 + 1e-3
        assert abs(torch.corrcoef(torch.stack([brightness, contrast]))[0, 1]) < 0.1
        assert torch.equal(changed, jitter(patch, torch.Generator().manual_seed(1)))
        assert jitter(torch.ones(9, 1, 4, 4), torch.Generator().manual_seed(1)).max() <= 1

    def test_the_loss_is_a_weighted_sum_over_patch_sizes(self) -> None:
        options = {"patch_sizes": [17, 33], "teacher_epochs": 1}

        def loss(**weights: float) -> float:
            model = make(**options, **weights)
            return model._teacher_loss(stripes(3, size=40), torch.Generator().manual_seed(0)).item()

        alone = {"distillation_weight": 0.0, "compactness_weight": 0.0}
        terms = [
            loss(**{**alone, "distillation_weight": 2.0}), loss(**{**alone, "compactness_weight": 3.0}),
        ]  # fmt: skip
        assert all(term > 0 for term in terms)
        assert loss(distillation_weight=2.0, compactness_weight=3.0) == pytest.approx(sum(terms), rel=1e-5)
        # A single size sees other draws, but the triplet term of both is near twice its margin in a random network.
        assert loss(**alone, triplet_weight=1.0) == pytest.approx(2, rel=0.3)

    def test_negatives_are_patches_of_other_images(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Tensor] = []

        def record(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
            seen.extend([anchor, positive, negative])
            return anchor.sum()

        monkeypatch.setattr(student_teacher, "triplet_loss", record)
        model = make(teacher_epochs=1, triplet_weight=1.0)
        image = torch.linspace(0.2, 0.8, 3).view(3, 1, 1, 1).expand(3, 3, 24, 24)  # one colour an image
        model._teacher_loss(image, torch.Generator().manual_seed(0))
        anchor, positive, negative = (x.detach().view(3, 4, -1) for x in seen)
        assert torch.equal(negative, anchor.roll(1, 0))
        assert not torch.allclose(anchor, positive)


class TestStatistics:
    def test_mean_and_spread_of_opposite_outputs(self) -> None:
        mean, spread = mean_and_spread(outputs(1, -1))
        assert (mean.item(), spread.item()) == (0, 1)
        assert mean_and_spread(outputs(3, 3, 3))[1].item() == 0
        assert mean_and_spread(outputs(3))[1].item() == 0

    def test_mean_and_spread_against_the_definition(self) -> None:
        several = torch.randn(5, 2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1000
        mean, spread = mean_and_spread(several.float())
        exact = several.float().double()
        torch.testing.assert_close(mean, exact.mean(0).float())
        # The difference of mean squares that equals this in exact arithmetic would be off by whole numbers here.
        expected = ((exact - exact.mean(0)) ** 2).sum(2).mean(0)
        torch.testing.assert_close(spread, expected.float(), rtol=1e-3, atol=1e-3)
        assert spread.min() >= 0

    def test_students_come_one_after_another(self) -> None:
        alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        most = 0

        def students() -> Iterator[Tensor]:
            nonlocal most
            for value in range(12):
                output = torch.full((1, 2, 3, 3), float(value))
                alive.add(output)
                most = max(most, len(alive))
                yield output

        mean_and_spread(students())
        assert most <= 3

    def test_targets_are_standardised_on_the_training_set(self, trainer_in: Make) -> None:
        image = stripes(9)
        model = fit(trainer_in(), image, patch_sizes=[17, 33])
        for scale in range(2):
            target = model.target(scale, standardize(image)).transpose(0, 1).flatten(1)
            torch.testing.assert_close(target.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
            torch.testing.assert_close(target.std(1), torch.ones(4), atol=1e-3, rtol=0)

    def test_map_is_standardised_on_the_training_set(self, trainer_in: Make) -> None:
        image = stripes(9)
        model = fit(trainer_in(max_epochs=2), image)
        with torch.no_grad():
            components = model.components(0, standardize(image)).transpose(0, 1).flatten(1)  # error, disagreement
            standardised = (components - components.mean(1, keepdim=True)) / components.std(1, keepdim=True)
            anomaly_map = model(image)[1]
        torch.testing.assert_close(anomaly_map.flatten(), standardised.sum(0), atol=1e-3, rtol=1e-3)
        assert abs(anomaly_map.mean()) < 1e-3
        assert 1 < anomaly_map.std() < 2

    def test_anomalies_in_validation_leave_the_statistics_alone(self, trainer_in: Make) -> None:
        image = stripes(8)
        plain = fit(trainer_in(max_epochs=2), image)
        watched = make()
        trainer_in(max_epochs=2).fit(watched, loader(image), loader(1 - image.flip(3), label=1))
        assert torch.equal(plain.score_statistics, watched.score_statistics)
        assert torch.equal(plain.target_statistics, watched.target_statistics)

    def test_padding_rows_do_not_count(self, trainer_in: Make) -> None:
        image = stripes(6)
        rows = [{"image": x, "padding": torch.tensor(i >= 6)} for i, x in enumerate(torch.cat([image, 1 - image[:2]]))]
        padded, plain = make(lr=0.0), fit(trainer_in(), image, lr=0.0)
        trainer_in().fit(padded, DataLoader(rows, batch_size=2))  # type: ignore[arg-type]
        torch.testing.assert_close(padded.target_statistics, plain.target_statistics)
        torch.testing.assert_close(padded.score_statistics, plain.score_statistics)

    def test_a_dimension_that_hardly_varies_does_not_decide(self, trainer_in: Make) -> None:
        model, image = make(), stripes(8)
        last = model.teachers[0].layers[-1]  # type: ignore[index, union-attr]
        with torch.no_grad():
            last.weight[1] = 0
            last.weight[2] *= 1e-9
        trainer_in().fit(model, loader(image))
        deviation = model.target_statistics[0, 1]
        torch.testing.assert_close(deviation[1], deviation[2])
        assert deviation[1] == pytest.approx(1e-3 * deviation[[0, 3]].mean().item() / 2, rel=0.01)
        assert model.target(0, standardize(image))[:, 1:3].abs().max() < 0.1

    def test_training_images_of_one_colour(self, trainer_in: Make) -> None:
        with pytest.raises(ConfigError, match="not all of one colour"):
            fit(trainer_in(), torch.full((4, 3, 24, 24), 0.5))

    @pytest.mark.slow
    def test_two_processes_measure_what_one_does(self, trainer_in: Make, two_processes: dict[str, Any]) -> None:
        image = stripes(8)
        alone, together = fit(trainer_in(), image, lr=0.0), make(lr=0.0)
        trainer_in(**two_processes).fit(together, loader(image))
        torch.testing.assert_close(together.target_statistics, alone.target_statistics)
        torch.testing.assert_close(together.score_statistics, alone.score_statistics)

    @pytest.mark.slow
    def test_two_processes_in_both_phases(self, trainer_in: Make, two_processes: dict[str, Any]) -> None:
        model = make(teacher_epochs=1, triplet_weight=1.0)
        before = tensors(model)
        trainer_in(**two_processes, max_epochs=2).fit(model, loader(stripes(8)))
        assert model.has_targets
        for name, weight in model.named_parameters():
            assert torch.equal(weight, before[name]) == name.startswith("pretrained."), name


class TestScores:
    def test_students_that_equal_the_target(self) -> None:
        model, x = make(num_students=3), torch.randn(2, 3, 24, 24)
        for student in model.students[0]:  # type: ignore[union-attr]
            student.load_state_dict(model.teachers[0].state_dict())
        assert torch.equal(model.components(0, x), torch.zeros(2, 2, 24, 24))

    def test_equal_students_do_not_disagree(self) -> None:
        model, x = make(), torch.randn(2, 3, 24, 24)
        first, second = model.students[0]  # type: ignore[misc]
        assert model.components(0, x)[:, 1].min() > 0
        second.load_state_dict(first.state_dict())
        error, disagreement = model.components(0, x).unbind(1)
        assert torch.equal(disagreement, torch.zeros(2, 24, 24))
        assert error.min() > 0

    def test_students_start_and_stay_different(self, trainer_in: Make) -> None:
        model = make(num_students=3)
        before = [student.layers[0].weight.clone() for student in model.students[0]]  # type: ignore[union-attr]
        trainer_in(max_epochs=2).fit(model, loader(stripes(8)))
        after = [student.layers[0].weight for student in model.students[0]]  # type: ignore[union-attr]
        for weights in (before, after):
            assert all(not torch.allclose(weights[i], weights[j]) for i, j in [(0, 1), (0, 2), (1, 2)])

    def test_error_and_disagreement_by_hand(self) -> None:
        model, x = make(num_students=3), torch.randn(2, 3, 24, 24)
        model.target_statistics[0] = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]])
        with torch.no_grad():
            answers = torch.stack([student.dense(x) for student in model.students[0]])  # type: ignore[union-attr]
            target = model.teachers[0].dense(x)  # type: ignore[operator, union-attr]
            target = (target - torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1)) / torch.arange(1.0, 5).view(4, 1, 1)
            error = ((answers.mean(0) - target) ** 2).sum(1)
            disagreement = ((answers - answers.mean(0)) ** 2).sum(2).mean(0)
            torch.testing.assert_close(model.components(0, x), torch.stack([error, disagreement], 1))

    def test_several_sizes_are_averaged(self, trainer_in: Make) -> None:
        image = stripes(6, size=40)
        model = fit(trainer_in(), image, patch_sizes=[33, 17, 65])
        x, maps = standardize(image), []
        with torch.no_grad():
            for scale in range(3):
                (mean, deviation), components = model.score_statistics[scale], model.components(scale, x)
                error = (components[:, 0] - mean[0]) / deviation[0]
                maps.append(error + (components[:, 1] - mean[1]) / deviation[1])
            score, anomaly_map = model(image)
        torch.testing.assert_close(anomaly_map[:, 0], (maps[0] + maps[1] + maps[2]) / 3)
        torch.testing.assert_close(score, anomaly_map.amax((1, 2, 3)))

    def test_pooling(self) -> None:
        image = stripes(3)
        for pool, reduce in (("max", torch.amax), ("mean", torch.mean)):
            score, anomaly_map = measured(pool=pool)(image)
            torch.testing.assert_close(score, reduce(anomaly_map, (1, 2, 3)))

    def test_one_student_is_scored_by_its_error_alone(self, trainer_in: Make) -> None:
        image = stripes(8)
        model = fit(trainer_in(), image, num_students=1)
        anomaly_map, components = model(image)[1], model.components(0, standardize(image))
        assert components[:, 1].count_nonzero() == 0
        mean, deviation = model.score_statistics[0, :, 0]
        torch.testing.assert_close(anomaly_map[:, 0], (components[:, 0] - mean) / deviation)

    def test_prediction_in_portions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, image, sizes = measured(), stripes(7), []
        whole = model(image)
        model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
        monkeypatch.setattr(student_teacher, "PIXELS_AT_ONCE", 3 * 24 * 24 + 1)
        prediction = model.predict({"image": image})
        assert sizes == [3, 3, 1]
        torch.testing.assert_close(prediction["anomaly_score"], whole[0])
        torch.testing.assert_close(prediction["anomaly_map"], whole[1])

    def test_grey_images_of_digits(self) -> None:
        model = measured(pool="mean")
        score, anomaly_map = model(torch.rand(2, 1, 28, 28))
        assert score.shape == (2,)
        assert anomaly_map.shape == (2, 1, 28, 28)
        with pytest.raises(ShapeError, match="more than 8 pixels"):
            model(torch.rand(1, 1, 8, 8))

    def test_foreign_texture_raises_both_inside(self, trainer_in: Make) -> None:
        model, clean = fit(trainer_in(max_epochs=15), stripes(16), num_students=3), stripes(6, seed=1)
        pasted = clean.clone()
        pasted[:, :, 9:15, 9:15] = stripes(6, seed=2).mT[:, :, :6, :6]
        with torch.no_grad():
            before, after = (model.components(0, standardize(image)) for image in (clean, pasted))
        inside = (slice(None), slice(None), slice(10, 14), slice(10, 14))
        assert (after[inside].mean((2, 3)) > 3 * before[inside].mean((2, 3))).all()
        for corner in (0, -1):  # 9 pixels away: just outside their patches
            torch.testing.assert_close(after[:, :, corner, corner], before[:, :, corner, corner])


class Watch(Callback):
    """Weights, learning rates and optimiser steps after each epoch."""

    def __init__(self) -> None:
        self.state: list[dict[str, Tensor]] = []
        self.rates: list[list[float]] = []
        self.steps: list[float] = []
        self.loss: list[float] = []
        self.moments: list[set[Tensor]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        self.state.append(tensors(pl_module))
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        self.steps.append(float(list(optimizer.state.values())[-1]["step"]))
        self.moments.append(set(optimizer.state))
        self.loss.append(trainer.callback_metrics["train/loss"].item())


class TestPhases:
    def test_each_phase_trains_its_own_networks(self, trainer_in: Make) -> None:
        watch = Watch()
        options = {"teacher_epochs": 2, "teacher_lr": 2e-3, "lr": 1e-3, "weight_decay": 0.1, "triplet_weight": 1.0}
        model = make(patch_sizes=[17, 33], **options)
        start = tensors(model)
        trainer_in(max_epochs=4, callbacks=[watch]).fit(model, loader(stripes(8)))
        assert watch.rates == [[2e-3, 0.0]] * 2 + [[0.0, 1e-3]] * 2
        assert watch.steps == [2, 4, 2, 4]  # two batches an epoch; the state starts anew
        assert watch.moments[3] == set(model.students.parameters())  # what the first phase left is gone
        states = [start, *watch.state]
        assert any("running_mean" in name for name in start)
        for epoch in range(4):
            before, after = states[epoch], states[epoch + 1]
            trained = "students." if epoch >= 2 else ("teachers.", "decoders.")
            for name, _ in model.named_parameters():
                assert torch.equal(before[name], after[name]) != name.startswith(trained), (epoch, name)
            frozen = [name for name in start if name.startswith("pretrained.")]
            assert all(torch.equal(before[name], after[name]) for name in frozen)
        assert [bool(state["has_targets"]) for state in watch.state] == [False, False, True, True]
        assert torch.equal(watch.state[3]["target_statistics"], watch.state[2]["target_statistics"])

    def test_both_losses_fall(self, trainer_in: Make) -> None:
        watch = Watch()
        fit(trainer_in(max_epochs=16, callbacks=[watch]), stripes(16), teacher_epochs=8, teacher_lr=3e-3)
        assert watch.loss[7] < 0.8 * watch.loss[0]
        assert watch.loss[15] < 0.7 * watch.loss[8]

    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_resuming_in_any_phase(self, stop: int, tmp_path: Path, trainer_in: Make) -> None:
        image, options = stripes(8), {"teacher_epochs": 2}
        whole = fit(trainer_in(max_epochs=4), image, **options)
        saver = ModelCheckpoint(dirpath=tmp_path, filename="part")
        fit(trainer_in(max_epochs=stop, enable_checkpointing=True, callbacks=[saver]), image, **options)
        seed_everything(1, verbose=False)
        resumed = StudentTeacher(**{**TINY, **options})
        trainer_in(max_epochs=4).fit(resumed, loader(image), ckpt_path=tmp_path / "part.ckpt", weights_only=True)
        for (name, first), second in zip(tensors(whole).items(), tensors(resumed).values(), strict=True):
            assert torch.equal(first, second), name

    def test_a_run_that_ends_with_the_teacher(self, trainer_in: Make) -> None:
        with pytest.warns(UserWarning, match=r"only trains its teacher: max_epochs=1 does not exceed teacher_epochs=2"):
            model = fit(trainer_in(), stripes(8), teacher_epochs=2)
        assert not model.has_targets
        assert model(stripes(2))[0].isfinite().all()

    def test_without_teacher_epochs_the_teacher_is_random(self, trainer_in: Make) -> None:
        model = make(teacher="no such network")
        assert model.pretrained is None
        before = tensors(model.teachers)
        trainer_in().fit(model, loader(stripes(8)))
        assert all(torch.equal(value, before[name]) for name, value in tensors(model.teachers).items())
        assert model.has_targets

    def test_statistics_are_measured_again_after_every_epoch_of_students(self, trainer_in: Make) -> None:
        watch = Watch()
        model = fit(trainer_in(max_epochs=3, callbacks=[watch]), stripes(8))
        measured = [
            state["score_statistics"] for state in watch.state
        ]  # the callback runs before the module's own hook
        assert torch.equal(measured[0], torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
        assert not torch.allclose(measured[1], measured[2])
        assert not torch.allclose(measured[2], model.score_statistics)

    def test_weights_of_the_timm_network_stay_in_the_checkpoint(self, tmp_path: Path, trainer_in: Make) -> None:
        donor = make(teacher_epochs=1).pretrained
        assert donor is not None
        file = tmp_path / "network.pth"
        state = {key: value.float() * 1.25 + 0.01 for key, value in donor.encoder.net.net.state_dict().items()}
        torch.save(state, file)
        model = make(teacher_epochs=1, teacher_weights=str(file))
        assert model.pretrained is not None
        trainer = trainer_in(max_epochs=2)
        trainer.fit(model, loader(stripes(8)))
        name = next(key for key in state if key.endswith("weight"))
        assert torch.equal(model.pretrained.encoder.net.net.state_dict()[name], state[name])
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        file.unlink()
        restored = StudentTeacher.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True).eval()
        assert torch.equal(restored(stripes(2))[1], model.eval()(stripes(2))[1])
        with pytest.raises(WeightsError, match=r"network\.pth"):
            trainer_in().fit(make(teacher_epochs=1, teacher_weights=str(file)), loader(stripes(8)))

    def test_one_image_a_batch(self, trainer_in: Make) -> None:
        model = make(teacher_epochs=1, triplet_weight=1.0, patches_per_image=1)
        trainer_in(max_epochs=2).fit(model, loader(stripes(2), batch_size=1))
        assert all(p.isfinite().all() for p in model.parameters())
        assert model.eval()(stripes(1))[0].isfinite().all()


class TestOptions:
    @pytest.mark.parametrize("sizes", [[], [16], [17, 17], [17, 64]])
    def test_patch_sizes(self, sizes: list[int]) -> None:
        with pytest.raises(ConfigError, match=r"one or several of 17, 33 and 65|must not be empty"):
            make(patch_sizes=sizes)

    @pytest.mark.parametrize("name", ["num_students", "patches_per_image"])
    def test_counts(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"{name} must be at least 1; got 0"):
            make(**{name: 0})


class TestSharedTeachers:
    def test_one_distillation_serves_other_runs(self, trainer_in: Make, tmp_path: Path) -> None:
        saver = ModelCheckpoint(
            dirpath=tmp_path, filename="model", save_on_train_epoch_end=True, enable_version_counter=False
        )
        first = make(teacher_epochs=1)
        trainer_in(enable_checkpointing=True, callbacks=[saver], max_epochs=2).fit(first, loader(stripes(8)))
        file = str(tmp_path / "model.ckpt")
        other = make(distilled_teachers=file)
        before = tensors(other.students)
        assert not equal(tensors(other.teachers), tensors(first.teachers))  # not read by the constructor
        trainer_in().fit(other, loader(stripes(8, seed=1)))
        assert equal(tensors(other.teachers), tensors(first.teachers))
        assert not equal(tensors(other.students), before)
        assert not any(weight.requires_grad for weight in other.teachers.parameters())

    def test_other_teachers_are_refused(self, trainer_in: Make, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="need teacher_epochs=0; got 3"):
            make(teacher_epochs=3, distilled_teachers="x.ckpt")
        torch.save({"state_dict": make(width=6).state_dict()}, tmp_path / "other.ckpt")
        torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, tmp_path / "none.ckpt")
        for name, message in (
            ("other", r"is \(6, 3, 6, 6\) in it and \(4, 3, 6, 6\)"),
            ("none", "no tensor in it is named"),
        ):
            with pytest.raises(
                WeightsError, match=f"distilled_teachers must be a checkpoint.*{name}.ckpt'.* {message}"
            ):
                trainer_in().fit(make(distilled_teachers=str(tmp_path / f"{name}.ckpt")), loader(stripes(4)))


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())
