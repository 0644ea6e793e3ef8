"""The checks of the method's description, section 7, numbered as there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import make_trainer
from torch import Tensor, nn

from anomaly_suite.contract import Batch
from anomaly_suite.data import Digits
from anomaly_suite.methods.reconstruction import alps
from anomaly_suite.methods.reconstruction.alps import ALPS, best_score, distortion
from anomaly_suite.metrics import auroc, equal_error_rate

TINY: dict[str, Any] = {"image_size": 16, "widths": (4, 6, 8), "latent_dim": 5}
IMAGE = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def model(**options: Any) -> ALPS:
    torch.manual_seed(0)
    return ALPS(**{**TINY, **options})


def playing(epoch: int = 0, lr: float = 1e-3, **options: Any) -> ALPS:
    """A model whose steps can be called without a trainer."""
    net = model(lr=lr, **options)
    optimizers = net.configure_optimizers()
    net._fabric_optimizers = optimizers  # type: ignore[attr-defined]
    net.optimizers = lambda: optimizers if len(optimizers) > 1 else optimizers[0]  # type: ignore[method-assign, assignment]
    net.manual_backward = lambda loss, inputs: loss.backward(inputs=inputs)  # type: ignore[method-assign, assignment]
    net.step_generator = lambda _: torch.Generator().manual_seed(0)  # type: ignore[method-assign]
    net.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    net._trainer = SimpleNamespace(world_size=1, current_epoch=epoch, global_rank=0)  # type: ignore[assignment]
    return net


def state(*nets: nn.Module | None) -> list[Tensor]:
    return [value.clone() for net in nets if net is not None for value in net.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def distort(net: ALPS, x: Tensor) -> None:
    assert net.distorter is not None
    net._step(net.optimizers()[1], net._distorter_loss(x))  # type: ignore[index]


@torch.no_grad()
def perturbed_loss(net: ALPS, x: Tensor, delta: Tensor | None = None) -> float:
    """Of the training modes, which leaves no trace in ``net``."""
    net = copy.deepcopy(net).train()
    return float(net.errors(x, net.encoder(x), net.perturb(x) if delta is None else delta)[1].mean())


@pytest.mark.parametrize("epsilon", [1.0, 0.25])
def test_1_shapes_and_the_bound(epsilon: float) -> None:
    net = model(epsilon=epsilon, in_channels=3)
    image = torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        net.distorter.levels[-1].weight.mul_(1e3)  # type: ignore[union-attr, operator]
        delta = net.perturb(image)
        net.eval()
        prediction = net.predict({"image": image})
    assert delta.shape == (8, 5)
    assert delta.abs().max() <= epsilon
    assert delta.abs().max() > 0.9 * epsilon
    assert {key: tuple(value.shape) for key, value in prediction.items()} == {  # type: ignore[attr-defined]
        **dict.fromkeys(("anomaly_score", "clean_score", "perturbed_score", "average_score"), (8,)),
        "anomaly_map": (8, 1, 16, 16),
    }
    torch.testing.assert_close(prediction["anomaly_map"].mean((1, 2, 3)), prediction["perturbed_score"])
    assert sum(weight.numel() for weight in ALPS().parameters()) == 2 * 668_128 + 1_537_377


@pytest.mark.parametrize(
    "options", [{"epsilon": 0.0}, {"perturbation": "noise", "epsilon": 0.0}, {"perturbation": "none"}]
)
def test_2_without_perturbation_all_scores_and_losses_coincide(options: dict[str, Any]) -> None:
    net = model(**options)
    x = 2 * IMAGE - 1
    clean, perturbed = net.errors(x, net.encoder(x), net.perturb(x))
    torch.testing.assert_close(clean, perturbed)
    net.eval()
    with torch.no_grad():
        found = net.predict({"image": IMAGE})
    for name in ("clean_score", "perturbed_score", "average_score"):
        torch.testing.assert_close(found[name], found["anomaly_score"])  # type: ignore[literal-required]


def test_3_a_step_of_the_distorter_raises_the_error_and_changes_nothing_else() -> None:
    net, x = playing(lr=1e-4), 2 * IMAGE - 1
    others, own = state(net.encoder, net.decoder), state(net.distorter)
    before = perturbed_loss(net, x)
    distort(net, x)
    assert perturbed_loss(net, x) > before
    assert same(state(net.encoder, net.decoder), others)
    assert not same(state(net.distorter), own)
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("clean_weight", [1.0, 0.0])
def test_4_a_step_of_the_autoencoder_lowers_its_loss_and_leaves_the_distorter(clean_weight: float) -> None:
    net, x = playing(epoch=1, lr=1e-4, clean_weight=clean_weight), 2 * IMAGE - 1
    with torch.no_grad():
        delta = copy.deepcopy(net).perturb(x)

    def loss() -> float:
        with torch.no_grad():
            twin = copy.deepcopy(net)
            clean, perturbed = twin.errors(x, twin.encoder(x), delta)
        return float(perturbed.mean() + clean_weight * clean.mean())

    before, distorter, ours = loss(), state(net.distorter), state(net.encoder, net.decoder)
    net.training_step({"image": IMAGE}, 0)
    assert loss() < before
    assert same(state(net.distorter), distorter)
    assert not same(state(net.encoder, net.decoder), ours)


@pytest.mark.parametrize(("perturbed_weight", "clean_weight"), [(1.0, 0.0), (0.5, 3.0)])
def test_both_errors_count_by_their_weights(perturbed_weight: float, clean_weight: float) -> None:
    net, x = playing(epoch=1, perturbed_weight=perturbed_weight, clean_weight=clean_weight), 2 * IMAGE - 1
    with torch.no_grad():
        found = copy.deepcopy(net)._autoencoder_loss(x, torch.Generator())
        clean, perturbed = (error.mean() for error in net.errors(x, net.encoder(x), net.perturb(x)))
    torch.testing.assert_close(found, perturbed_weight * perturbed + clean_weight * clean)


def test_the_autoencoder_does_not_learn_to_weaken_the_distorter() -> None:
    net, x = playing(), 2 * IMAGE - 1
    net._autoencoder_loss(x, torch.Generator()).backward()
    assert net.distorter is not None
    assert all(weight.grad is None for weight in net.distorter.parameters())
    assert all(weight.grad is not None for part in (net.encoder, net.decoder) for weight in part.parameters())


@pytest.mark.parametrize(("epoch", "learns"), [(0, True), (1, False), (2, False), (3, True), (4, False), (6, True)])
def test_5_the_distorter_learns_every_third_epoch(epoch: int, learns: bool) -> None:
    net = playing(epoch=epoch)
    before, batches = state(net.distorter), dict(net.encoder.named_buffers())["levels.1.num_batches_tracked"].clone()
    net.training_step({"image": IMAGE}, 0)
    assert same(state(net.distorter), before) != learns
    assert dict(net.encoder.named_buffers())["levels.1.num_batches_tracked"] == batches + 1  # once in either epoch


@pytest.mark.parametrize("kind", ["tanh", "unbounded"])
def test_6_and_10_a_linear_toy_and_the_bound(kind: str) -> None:
    net = playing(lr=0.1, perturbation=kind, epsilon=0.5)
    x = torch.zeros(4, 1, 1, 5)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor([0.1, -0.1, 0.2, 0.3, -0.2]))

        def forward(self, image: Tensor) -> Tensor:
            return self.value.expand(len(image), 5)

    net.encoder = nn.Flatten()  # type: ignore[assignment] # of zeros: z = 0
    net.decoder = nn.Unflatten(1, (1, 1, 5))  # type: ignore[assignment]
    net.distorter = Constant()  # type: ignore[assignment]
    players = [torch.optim.SGD([torch.zeros(1)]), torch.optim.Adam(net.distorter.parameters(), lr=0.1)]
    net.optimizers = lambda: players  # type: ignore[method-assign, assignment, return-value]
    losses = []
    for _ in range(150):
        distort(net, x)
        delta = net.perturb(x).detach()
        losses.append(perturbed_loss(net, x))
        assert losses[-1] == pytest.approx(float(delta.square().sum(1).mean()) / 5, rel=1e-5)
    if kind == "tanh":
        torch.testing.assert_close(delta.abs(), torch.full((4, 5), 0.5), rtol=5e-3, atol=0)
        assert losses[-1] == pytest.approx(0.25, rel=1e-2)
        assert losses[-1] - losses[100] < 1e-3  # it plateaus
    else:
        assert losses[-1] > 10 * losses[10] > 1
        assert losses[-1] - losses[100] > 10


def test_7_scaling_keeps_the_order_and_8_the_average_lies_between() -> None:
    net = model().eval()
    with torch.no_grad():
        found = net.predict({"image": IMAGE})
    low, high = (torch.stack([found["clean_score"], found["perturbed_score"]]).aminmax(dim=0)[i] for i in (0, 1))
    assert bool(((low <= found["average_score"]) & (found["average_score"] <= high)).all())
    torch.testing.assert_close(found["average_score"], (found["clean_score"] + found["perturbed_score"]) / 2)
    score, label = torch.randn(50, dtype=torch.float64), torch.arange(50) % 2
    net.calibration.set("image", threshold=0.0, low=float(score.min()), high=float(score.max()))
    scaled = net.calibration.normalize(score)
    assert float(auroc(scaled, label)) == pytest.approx(float(auroc(score, label)), abs=1e-12)
    net.calibration.set("image", threshold=1.0, low=1.0, high=1.0)
    assert net.calibration.normalize(torch.ones(4)).isfinite().all()  # of a constant score


def test_9_equal_error_rate_of_perfect_and_constant_scores() -> None:
    label = torch.tensor([0, 0, 0, 1, 1])
    assert equal_error_rate(label.float(), label) == 0
    assert equal_error_rate(torch.ones(5), label) == 0.5


def test_10_the_distortion_is_logged() -> None:
    net = playing(perturbation="unbounded")
    logged: dict[str, Tensor] = {}
    net.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign, assignment]
    net.training_step({"image": IMAGE}, 0)
    assert set(logged) == {"train/clean", "train/perturbed", "train/distortion"}
    assert logged["train/distortion"] > 0
    assert distortion(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])) == 2.5


def test_noise_differs_between_steps_and_not_between_scores() -> None:
    net = model(perturbation="noise", epsilon=2.0)
    assert net.distorter is None
    first, second = (net.perturb(IMAGE, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.cat(
        [net.perturb(IMAGE, torch.Generator().manual_seed(s)) for s in range(200)]
    ).std().item() == pytest.approx(2, rel=0.02)
    fixed = net.perturb(IMAGE)
    assert torch.equal(fixed, 2 * model(perturbation="noise").noise.expand(8, 5))
    assert len(net.configure_optimizers()) == 1


# Which score is used --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "perturbed", "name"),
    [
        ([0, 1, 2, 3], [3, 2, 1, 0], "clean"),
        ([3, 2, 1, 0], [0, 1, 2, 3], "perturbed"),
        ([0, 10, 9, 20], [10, 0, 9, 20], "average"),
        ([0, 1, 2, 3], [0, 1, 2, 3], "perturbed"),  # of equals the training's own
    ],
)
def test_the_best_of_three_on_labelled_images(clean: list[float], perturbed: list[float], name: str) -> None:
    scores = torch.tensor([clean, perturbed], dtype=torch.float32)
    assert best_score(scores, torch.tensor([0, 0, 1, 1])) == name


def choosing(batches: list[Batch], *, validation: str = "augmented", **options: Any) -> ALPS:
    net = model(**options)
    net._trainer = SimpleNamespace(datamodule=SimpleNamespace(validation=validation))  # type: ignore[assignment]
    net.all_gather = lambda value: value  # type: ignore[method-assign, assignment]

    def given() -> Iterator[Batch]:
        yield from batches

    net.validation_batches = given  # type: ignore[method-assign]
    net.fit_statistics()
    return net


def errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean and perturbed error of an image are its first and its second pixel."""

    def score(_: ALPS, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return image[:, 0, 0, 0], image[:, :, :1, :1], image[:, :, :1, 1:2]

    monkeypatch.setattr(ALPS, "_score", score)


def batch(clean: list[float], label: list[int] | None, **more: Any) -> Batch:
    image = torch.zeros(len(clean), 1, 16, 16)
    image[:, 0, 0, 0] = torch.tensor(clean)
    image[:, 0, 0, 1] = -image[:, 0, 0, 0]
    return {"image": image, **({} if label is None else {"label": torch.tensor(label)}), **more}  # type: ignore[typeddict-item]


def test_validation_chooses_over_all_batches_but_not_by_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    errors(monkeypatch)
    padding = torch.tensor([False, True, True])
    batches = [batch([0.1, 0.2], [0, 0]), batch([0.3, 0.0, 0.0], [1, 1, 1], padding=padding)]
    net = choosing(batches)
    assert net.chosen_score == "clean"
    assert net.training
    assert choosing([batch([0.5, 0.1], [0, 1])]).chosen_score == "perturbed"


@pytest.mark.parametrize(
    "batches", [[], [batch([0.0, 1.0], None)], [batch([0.0, 1.0], [0, 0])]], ids=["none", "no labels", "normals alone"]
)
def test_without_both_labels_it_is_the_perturbed_one(batches: list[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    errors(monkeypatch)
    assert choosing(batches).chosen_score == "perturbed"


def test_the_test_set_never_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    errors(monkeypatch)
    with pytest.warns(UserWarning, match="validation: test has none of their own; it takes the perturbed one"):
        net = choosing([batch([0.0, 1.0], [0, 1])], validation="test")
    assert net.chosen_score == "perturbed"


@pytest.mark.parametrize("name", ["clean", "perturbed", "average"])
def test_an_option_fixes_the_score(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        found = model(score=name).eval().predict({"image": IMAGE})
    assert torch.equal(found["anomaly_score"], found[f"{name}_score"])  # type: ignore[literal-required]
    errors(monkeypatch)
    assert choosing([batch([0.0, 1.0], [0, 1])], score=name).chosen_score == name


def test_a_run_chooses_before_its_thresholds_and_reports_all_three(tmp_path: Any) -> None:
    from anomaly_suite.callbacks import AnomalyMetrics, Calibrate

    data = Digits(normal_class=1, image_size=16, validation="augmented", val_size=20)
    net, calibrate = model(), Calibrate()
    trainer = make_trainer(
        max_epochs=1, limit_train_batches=1, callbacks=[calibrate, AnomalyMetrics(image=("AUROC", "EER"), pixel=())],
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(net, datamodule=data)
    values = dict(trainer.callback_metrics)
    three = {name: float(values[f"val/image_AUROC_{name}"]) for name in alps.SHARES}
    assert float(values["val/image_AUROC"]) == max(three.values()) == three[net.chosen_score]
    (tested,) = trainer.test(net, datamodule=data, verbose=False)
    for metric in ("AUROC", "EER"):
        assert tested[f"test/image_{metric}"] == tested[f"test/image_{metric}_{net.chosen_score}"]
        assert {f"test/image_{metric}_{name}" for name in alps.SHARES} <= set(tested)
