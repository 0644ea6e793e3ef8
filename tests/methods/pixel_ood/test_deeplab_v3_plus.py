from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import DeepLabV3Plus
from anomaly_suite.methods.pixel_ood.deeplab_v3_plus import (
    class_weights,
    cross_entropy,
    mean_loss,
    relaxed_cross_entropy,
    released_border_loss,
    restarted_decay,
)
from anomaly_suite.methods.pixel_ood.scores import LOGIT_SCORES

TINY = {"backbone": "resnet10t", "num_classes": 4, "width": 8, "backbone_weights": None}
TARGET = torch.tensor(
    [
        [[0, 0, 1, 1, 255], [0, 0, 1, 254, 1], [2, 2, 3, 3, 3], [2, 2, 2, 3, 3]],
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [255, 255, 255, 255, 255]],
    ]
)


def make(**options: Any) -> DeepLabV3Plus:
    torch.manual_seed(0)
    return DeepLabV3Plus(**{**TINY, **options})


def items(count: int = 6, size: tuple[int, int] = (32, 48)) -> list[dict[str, Tensor]]:
    """Images whose colours tell their classes, with some void."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.9, 0.9, 0.9]])
    found = []
    for _ in range(count):
        coarse = torch.randint(4, (1, 1, 4, 6), generator=generator).float()
        target = F.interpolate(coarse, size, mode="nearest")[0, 0].long()
        image = colours[target].permute(2, 0, 1)
        target = target.masked_fill(torch.rand(size, generator=generator) < 0.05, 255)
        found.append({"image": image, "target": target})
    return found


# Losses --------------------------------------------------------------------------------------------------------------


def test_cross_entropy_equals_a_slow_loop() -> None:
    logits = torch.randn(2, 4, 4, 5)
    found = cross_entropy(logits, TARGET)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                label = int(TARGET[image, row, column])
                p = logits[image, :, row, column].softmax(0)
                expected = 0.0 if label >= 254 else -math.log(p[label])
                assert found[image, row, column].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("strict", [(), (3,), (0, 2)])
def test_relaxation_is_the_union_of_the_neighbours(strict: tuple[int, ...]) -> None:
    logits = torch.randn(2, 4, 4, 5)
    found = relaxed_cross_entropy(logits, TARGET, strict=strict)
    borders = 0
    for image in range(2):
        for row in range(4):
            for column in range(5):
                label = int(TARGET[image, row, column])
                window = TARGET[image, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                near = {int(value) for value in window.flatten() if value < 254}
                near = {label} if label in strict else near
                p = logits[image, :, row, column].softmax(0)
                expected = 0.0 if label >= 254 else -math.log(sum(p[each] for each in near))
                borders += label < 254 and len(near) > 1
                assert found[image, row, column].item() == pytest.approx(expected, abs=1e-5)
    assert borders > 5
    assert (found <= cross_entropy(logits, TARGET) + 1e-6).all()


def test_relaxation_without_borders_is_cross_entropy() -> None:
    logits, target = torch.randn(1, 4, 6, 6), torch.full((1, 6, 6), 2)
    torch.testing.assert_close(relaxed_cross_entropy(logits, target), cross_entropy(logits, target))
    mixed = torch.randint(4, (1, 6, 6))
    kept = relaxed_cross_entropy(logits, mixed, strict=range(4))
    torch.testing.assert_close(kept, cross_entropy(logits, mixed))


@pytest.mark.parametrize("loss", [cross_entropy, relaxed_cross_entropy])
def test_void_has_no_gradient_and_nothing_but_void_is_finite(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = (100 * torch.randn(2, 4, 4, 5)).requires_grad_()
    mean_loss(loss(logits, TARGET), class_weights(TARGET, 4, bound=1.0)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum(1)[TARGET >= 254].max() == 0
    assert logits.grad.abs().sum(1)[TARGET < 254].max() > 0
    void = torch.full_like(TARGET, 255)
    nothing = mean_loss(loss(logits, void), class_weights(void, 4, bound=1.0))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0
    assert gradient.abs().max() == 0


def test_class_weights_count_the_known_pixels_of_each_image() -> None:
    found = class_weights(TARGET, 4, bound=2.0)
    for image in range(2):
        known = TARGET[image][TARGET[image] < 254]
        for label in (0, 1, 2, 3):
            share = (known == label).double().mean().item()
            assert torch.allclose(found[image][TARGET[image] == label], torch.tensor(1 + 2 * (1 - share)))
    assert found[TARGET >= 254].max() == 0
    assert torch.equal(class_weights(TARGET, 4, bound=0.0), (TARGET < 254).float())


def test_unweighted_mean_is_that_of_torch() -> None:
    logits = torch.randn(2, 4, 4, 5)
    expected = F.cross_entropy(logits, TARGET.masked_fill(TARGET == 254, 255), ignore_index=255)
    found = mean_loss(cross_entropy(logits, TARGET), class_weights(TARGET, 4, bound=0.0))
    torch.testing.assert_close(found, expected)


def released_loop(logits: Tensor, target: Tensor, *, strict: tuple[int, ...], bound: float, relaxed: bool) -> Tensor:
    """The released loss, pixel by pixel; class 4 is void."""
    label = target.masked_fill(target >= 254, 4)
    batch, height, width = label.shape

    def at(image: int, row: int, column: int) -> int:
        inside = 0 <= row < height and 0 <= column < width
        return int(label[image, row, column]) if inside else 4

    def counts(image: int, row: int, column: int) -> dict[int, int]:
        own = at(image, row, column)
        if relaxed and own not in strict:
            return {at(image, row + i, column + j): 1 for i in (-1, 0, 1) for j in (-1, 0, 1)}
        steps = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        near = [at(image, *step) for step in steps if 0 <= step[0] < height and 0 <= step[1] < width]
        return {own: 2 if not relaxed and any(other != own for other in near) else 1}

    pixels = [(row, column) for row in range(height) for column in range(width)]
    found = {(image, *p): counts(image, *p) for image in range(batch) for p in pixels}
    border = {key: sum(n for c, n in value.items() if c != 4) or 1 for key, value in found.items()}
    total = logits.new_zeros(())
    for image in range(batch):
        held = [found[(image, *p)] for p in pixels]
        everything = sum(sum(value.values()) for value in held)
        share = [sum(value.get(c, 0) for value in held) / everything for c in range(4)]
        weight = [1 + bound * (1 - s) if s else 1.0 for s in share]
        loss, learned = logits.new_zeros(()), 0
        for p in pixels:
            classes = [c for c in found[(image, *p)] if c != 4]
            if not classes:
                continue
            learned += 1
            probability = logits[image, :, p[0], p[1]].softmax(0)
            union = torch.stack([probability[c] for c in classes]).sum().log()
            for other in range(batch):  # the border weights of the whole batch
                n = border[(other, *p)]
                loss = loss - union * sum(weight[c] for c in classes) * (1 / n if relaxed else n)
        total = total + loss / (learned + 1)
    return total


@pytest.mark.parametrize("relaxed", [True, False])
@pytest.mark.parametrize(("strict", "bound"), [((), 1.0), ((3,), 1.0), ((0, 2), 0.0)])
def test_released_border_loss_equals_a_slow_loop(relaxed: bool, strict: tuple[int, ...], bound: float) -> None:
    ours = torch.randn(2, 4, 4, 5, requires_grad=True)
    theirs = ours.detach().double().requires_grad_()
    found = released_border_loss(ours, TARGET, strict=strict, bound=bound, relaxed=relaxed)
    expected = released_loop(theirs, TARGET, strict=strict, bound=bound, relaxed=relaxed)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, of)[0].double() for value, of in ((found, ours), (expected, theirs))]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_released_border_loss_is_about_eight_times_the_mean_at_two_images() -> None:
    torch.manual_seed(0)
    target = F.interpolate(torch.randint(19, (2, 1, 32, 64)).float(), (128, 256), mode="nearest")[:, 0].long()
    logits = torch.randn(2, 19, 128, 256, requires_grad=True)
    losses = [
        released_border_loss(logits, target, bound=1.0, relaxed=True),
        mean_loss(relaxed_cross_entropy(logits, target), class_weights(target, 19, bound=1.0)),
    ]
    assert float((losses[0] / losses[1]).detach()) == pytest.approx(8.1, abs=0.3)
    one, two = (torch.autograd.grad(loss, logits)[0].flatten() for loss in losses)
    assert float(F.cosine_similarity(one, two, 0)) == pytest.approx(0.96, abs=0.01)


def test_released_border_loss_of_void_is_zero_and_finite() -> None:
    logits = torch.randn(2, 4, 4, 5, requires_grad=True)
    for relaxed in (True, False):
        loss = released_border_loss(logits, torch.full((2, 4, 5), 255), bound=1.0, relaxed=relaxed)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss == 0
        assert gradient.abs().max() == 0


@pytest.mark.parametrize("epoch", [0, 1])
def test_border_loss_is_an_option(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(border_loss="released", relaxation_epochs=1, class_weight_bound=1.0, strict_classes=(3,))
    monkeypatch.setattr(DeepLabV3Plus, "current_epoch", epoch)
    logits = torch.randn(2, 4, 4, 5)
    expected = released_border_loss(logits, TARGET, strict=(3,), bound=1.0, relaxed=epoch == 0)
    assert torch.equal(model.loss(logits, TARGET), expected)


@pytest.mark.parametrize(
    ("progress", "restart_power", "expected"),
    [(0.0, None, 1.0), (0.5, None, 0.5), (0.5, 1.5, 0.5), (0.6, 1.5, 1.0), (0.8, 1.5, 0.5**1.5), (1.0, 1.5, 0.0)],
)
def test_decay_begins_anew(progress: float, restart_power: float | None, expected: float) -> None:
    factor = restarted_decay(progress, power=1.0, restart=0.6, restart_power=restart_power)
    assert factor == pytest.approx(expected)


# The module ----------------------------------------------------------------------------------------------------------


def test_auxiliary_loss_is_added_with_its_weight(trainer_in: Callable[..., Trainer]) -> None:
    losses: list[float] = []

    class Spy(DeepLabV3Plus):
        def loss(self, logits: Tensor, target: Tensor) -> Tensor:
            value = super().loss(logits, target)
            losses.append(float(value.detach()))
            return value

    trainer = trainer_in(limit_train_batches=1)
    trainer.fit(Spy(**TINY, auxiliary_weight=0.25), DataLoader(items(2), batch_size=2))
    assert len(losses) == 2
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(losses[0] + 0.25 * losses[1], rel=1e-5)
    assert make(auxiliary_weight=0.0).network.aux is None


def test_relaxation_ends_after_its_epochs(trainer_in: Callable[..., Trainer]) -> None:
    class Spy(DeepLabV3Plus):
        losses: list[float] = []

        def loss(self, logits: Tensor, target: Tensor) -> Tensor:
            value = super().loss(logits, target)
            weight = class_weights(target, 4, bound=0.0)
            relaxed, plain = (
                float(mean_loss(each.detach(), weight))
                for each in (relaxed_cross_entropy(logits, target, strict=()), cross_entropy(logits, target))
            )
            assert relaxed < plain
            self.losses.append((float(value) - relaxed) / (plain - relaxed))
            return value

    model = Spy(**TINY, auxiliary_weight=0.0, relaxation_epochs=2, strict_classes=())
    trainer_in(max_epochs=3).fit(model, DataLoader(items(2), batch_size=2))
    assert model.losses == pytest.approx([0.0, 0.0, 1.0], abs=1e-4)


@pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_steps": 8, "max_epochs": -1}])
def test_learning_rate_decays_step_by_step_and_restarts(
    limit: dict[str, int], trainer_in: Callable[..., Trainer]
) -> None:
    rates: list[float] = []

    class Spy(DeepLabV3Plus):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return super().training_step(batch, batch_idx)

    options = {"lr": 0.1, "lr_power": 1.0, "restart_power": 2.0, "relaxation_epochs": 2, "auxiliary_weight": 0.0}
    trainer_in(**limit).fit(Spy(**TINY, **options), DataLoader(items(4), batch_size=2))
    first = [0.1 * (1 - step / 8) for step in range(4)]
    second = [0.1 * (1 - step / 4) ** 2 for step in range(4)]
    assert rates == pytest.approx(first + second)


def test_it_learns_the_classes(trainer_in: Callable[..., Trainer]) -> None:
    model = make(optimizer="adam", lr=0.01, weight_decay=0.0, width=16, auxiliary_weight=0.0)
    trainer_in(max_epochs=16).fit(model, DataLoader(items(8), batch_size=4))
    batch = torch.utils.data.default_collate(items(8))
    model.eval()
    with torch.no_grad():
        prediction = model.predict(batch)
    known = batch["target"] < 254
    accuracy = (prediction["pred_target"] == batch["target"])[known].float().mean()
    assert accuracy > 0.85


def test_optimizers() -> None:
    (group,) = make(lr=0.02, weight_decay=1e-4).configure_optimizers().param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.9, 1e-4)
    model = make(optimizer="adam")
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("score", ["energy", "msp", "max_logit", "entropy"])
def test_score_is_chosen_by_name(score: Any) -> None:
    model, image = make(score=score).eval(), torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(model(image)[1], LOGIT_SCORES[score](model.network(image)))


def test_published_defaults() -> None:
    with torch.device("meta"):
        model = DeepLabV3Plus()
    assert (model.network.backbone, model.num_classes) == ("resnet101s", 19)
    assert (model.lr, model.lr_power, model.weight_decay, model.auxiliary_weight) == (0.01, 0.9, 5e-4, 0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary_weight": -0.1}, "auxiliary_weight must be at least 0"),
        ({"relaxation_epochs": -1}, "relaxation_epochs must be at least 0"),
        ({"class_weight_bound": -1.0}, "class_weight_bound must be at least 0"),
        ({"restart_power": 1.5}, "got relaxation_epochs=0"),
        ({"border_loss": "released"}, "got relaxation_epochs=0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_its_checkpoint_is_a_start_for_another(tmp_path: Path, trainer_in: Callable[..., Trainer]) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="model", enable_version_counter=False)
    source = make(lr=0.05)
    trainer_in(enable_checkpointing=True, callbacks=[saver]).fit(source, DataLoader(items(4), batch_size=2))
    file = tmp_path / "model.ckpt"
    image = items(2)[1]["image"][None]
    restored = DeepLabV3Plus.load_from_checkpoint(file, weights_only=True, map_location="cpu").eval()
    assert restored.hparams["backbone"] == "resnet10t"
    other = make(segmenter_weights=str(file), auxiliary_weight=0.0).eval()
    other.load_pretrained()
    with torch.no_grad():
        expected = source.eval()(image)[1]
        assert torch.equal(restored(image)[1], expected)
        assert torch.equal(other(image)[1], expected)


def test_batch_of_void_and_batch_of_one_leave_finite_weights(trainer_in: Callable[..., Trainer]) -> None:
    data = items(3)
    data[2]["target"] = torch.full_like(data[2]["target"], 255)
    model = make(relaxation_epochs=1)
    trainer = trainer_in(max_epochs=2)
    trainer.fit(model, DataLoader(data, batch_size=2))  # the last batch is one image of void
    assert trainer.callback_metrics["train/loss"] == 0
    assert all(weight.isfinite().all() for weight in model.parameters())
