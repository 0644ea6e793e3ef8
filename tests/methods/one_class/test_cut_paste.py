"""The checks of the method's description, section 7, numbered as there."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.covariance import ledoit_wolf
from tiny_runs import make_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.pasted import paste_patch, paste_scar
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.one_class.cut_paste import CutPaste

TINY: dict[str, Any] = {"encoder": "residual", "image_size": 16, "width": 4, "hidden": [8]}


def model(**options: Any) -> CutPaste:
    torch.manual_seed(0)
    return CutPaste(**{**TINY, **options})


def measured(image: Tensor, **options: Any) -> CutPaste:
    found = model(**options)
    found.training_images = lambda: iter(image.split(8))  # type: ignore[method-assign]
    found.sum_over_ranks = lambda value: value  # type: ignore[method-assign]
    found.all_gather = lambda value: value  # type: ignore[method-assign]
    found.watch = lambda *_, **__: None  # type: ignore[method-assign]
    found.fit_statistics()
    return found.eval()


@pytest.mark.parametrize(("task", "classes"), [("3-way", 3), ("patch", 2), ("scar", 2)])
def test_3_and_4_classes_stand_in_blocks_and_are_told_apart_by_the_original(task: str, classes: int) -> None:
    net, image = model(task=task), torch.rand(6, 1, 16, 16)
    batch, label = net.classes(image, GeneratorDraws(torch.Generator().manual_seed(0)))
    assert label.tolist() == [each for each in range(classes) for _ in range(6)]
    changed = (batch != batch[:6].repeat(classes, 1, 1, 1)).flatten(1).any(1)
    assert torch.equal(changed, label > 0)
    final = net.head[-1]
    assert isinstance(final, nn.Linear)
    nn.init.zeros_(final.weight)
    nn.init.zeros_(final.bias)
    loss = F.cross_entropy(net.head(net.encoder(batch)), label)
    assert loss.item() == pytest.approx(math.log(classes), abs=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("density", ["ledoit_wolf", "ridge"])
def test_5_distances_equal_a_direct_solve(density: str, normalize: bool) -> None:
    image = torch.rand(40, 1, 16, 16)
    net = measured(image, density=density, normalize=normalize)
    with torch.no_grad():
        feature = net.embed(image).double()
        matrix = torch.cov(feature.T) + 1e-3 * torch.eye(32)
        if density == "ledoit_wolf":
            matrix = torch.from_numpy(ledoit_wolf(feature.numpy())[0])
        centred = feature - feature.mean(0)
        expected = (centred * torch.linalg.solve(matrix, centred.T).T).sum(1)
        torch.testing.assert_close(net(image)[0].double(), expected, rtol=2e-3, atol=1e-4)
        net.squared = False
        torch.testing.assert_close(net(image)[0].double(), expected.sqrt(), rtol=1e-3, atol=1e-4)
        net.embed = lambda _: net.feature_mean.unsqueeze(0)  # type: ignore[method-assign]
        assert net(image[:1])[0].item() == 0


def test_3_every_class_has_its_own_kind_of_piece() -> None:
    assert model().pieces == (paste_patch, paste_scar)
    net, image = model(), torch.rand(4, 1, 16, 16)
    net.pieces = tuple(lambda x, _, number=number: (x + number, x > 2) for number in (1, 2))
    batch, label = net.classes(image, GeneratorDraws(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(batch - batch[:4].repeat(3, 1, 1, 1), label.view(-1, 1, 1, 1).expand_as(batch).float())


def measured_features(feature: Tensor, **options: Any) -> CutPaste:
    """A density of features (N, 32) that are given, in place of the encoder's."""
    net = model(**{"normalize": False, **options})
    net.embed = lambda image: image.flatten(1)  # type: ignore[method-assign]
    net.training_images = lambda: iter(feature.view(-1, 1, 4, 8).split(500))  # type: ignore[method-assign]
    net.sum_over_ranks = lambda value: value  # type: ignore[method-assign]
    net.watch = lambda *_, **__: None  # type: ignore[method-assign]
    net.fit_statistics()
    return net


def test_5_the_mean_score_of_gaussian_features_is_their_number() -> None:
    mixing, shift = torch.randn(32, 32), torch.randn(32)
    feature = torch.randn(20_000, 32) @ mixing + shift
    net = measured_features(feature[:10_000], density="ridge", eps=0.0)  # without shrinkage
    fresh = net(feature[10_000:].view(-1, 1, 4, 8))[0]
    assert fresh.mean().item() == pytest.approx(
        32, rel=0.02
    )  # mean of a chi-squared variable of 32 degrees; 0.08 is its error
    assert net(net.feature_mean.view(1, 1, 4, 8))[0].item() == pytest.approx(0, abs=1e-6)


def test_6_remixing_features_changes_no_distance() -> None:
    feature, mixing = torch.randn(400, 32), torch.eye(32) + 0.1 * torch.randn(32, 32)
    one = measured_features(feature, density="ridge", eps=0.0)
    other = measured_features(feature @ mixing, density="ridge", eps=0.0)
    new = torch.randn(50, 32)
    torch.testing.assert_close(
        other((new @ mixing).view(-1, 1, 4, 8))[0], one(new.view(-1, 1, 4, 8))[0], rtol=1e-3, atol=1e-3
    )


def test_7_the_head_does_not_score() -> None:
    image = torch.rand(40, 1, 16, 16)
    net = measured(image)
    with torch.no_grad():
        before = net(image)[0]
        net.head[0].weight.mul_(3)  # type: ignore[union-attr]
        assert torch.equal(net(image)[0], before)


def test_kde_is_a_mean_of_kernels_over_a_bounded_bank() -> None:
    image = torch.rand(20, 1, 16, 16)
    net = measured(image, density="kde", bank_size=12)
    assert net.bank.shape == (12, 32)
    with torch.no_grad():
        squared = torch.cdist(net.embed(image), net.bank) ** 2
        expected = -(torch.exp(-squared / 2).mean(1)).log()
        torch.testing.assert_close(net(image)[0], expected, rtol=1e-4, atol=1e-5)


def test_kde_of_one_image_is_its_squared_distance() -> None:
    first, other = torch.rand(2, 1, 16, 16).split(1)
    net = measured(first, density="kde", bank_size=5)  # four of whose rows stay empty
    with torch.no_grad():
        squared = (net.embed(other) - net.embed(first)).square().sum()
        assert net(other)[0].item() == pytest.approx(squared.item() / 2, rel=1e-3)


@pytest.mark.parametrize("heatmap", ["receptive_field", "average"])
def test_windows_become_a_map(heatmap: str) -> None:
    net = measured(torch.rand(8, 1, 20, 22), patch_size=8, patch_stride=4, heatmap=heatmap)
    image = torch.rand(2, 1, 21, 27)
    with torch.no_grad():
        score, anomaly_map = net(image)
        windows = net.score(net.grid.cut(image)).view(2, 5, 6)  # type: ignore[union-attr]
    assert anomaly_map is not None
    torch.testing.assert_close(score, windows.flatten(1).amax(1))
    weight = torch.ones(8) if heatmap == "average" else torch.exp(-((torch.arange(8) - 3.5) ** 2) / (2 * 2.0**2))
    total, share = torch.zeros(2, 24, 28), torch.zeros(24, 28)
    for r in range(5):
        for c in range(6):
            place = (slice(4 * r, 4 * r + 8), slice(4 * c, 4 * c + 8))
            total[:, place[0], place[1]] += windows[:, r, c].view(-1, 1, 1) * torch.outer(weight, weight)
            share[place] += torch.outer(weight, weight)
    expected = (total / share)[:, :21, :27]
    if heatmap == "receptive_field":
        torch.testing.assert_close(anomaly_map[:, 0], expected, rtol=1e-4, atol=1e-5)
    else:
        assert anomaly_map.std() < expected.std()
        assert anomaly_map.mean().item() == pytest.approx(expected.mean().item(), rel=0.1)


@pytest.mark.parametrize("density", ["ledoit_wolf", "kde"])
def test_a_model_with_a_map_leaves_python(density: str, tmp_path: Path) -> None:
    net = measured(torch.rand(8, 1, 20, 22), patch_size=8, patch_stride=4, density=density)
    image, other = torch.rand(3, 1, 21, 27), torch.rand(5, 1, 21, 27)
    with torch.no_grad():
        expected = net(other)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (image,), dynamic_shapes={"image": {0: batch}}, strict=False)
    torch.testing.assert_close(program.module()(other), expected, rtol=1e-3, atol=1e-4)  # sums in another order
    runtime, files = pytest.importorskip("onnxruntime"), [tmp_path / "trace.onnx"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"image": {0: "batch"}}
        net.to_onnx(files[0], (image,), input_names=["image"], dynamic_axes=axes, dynamo=False)
        if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9) and find_spec("onnxscript"):
            files.append(tmp_path / "graph.onnx")
            torch.onnx.export(
                program, (), files[1], kwargs={"image": image}, dynamo=True, optimize=False, verbose=False
            )
    for file in files:
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        for found, wanted in zip(session.run(None, {"image": other.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4)


def test_10_rates_fall_to_nothing_and_the_encoder_rests_at_first() -> None:
    net = model(freeze_steps=2, flip=True)
    rates, weights = [], []

    image = torch.rand(8, 1, 16, 16)
    before = {name: value.clone() for name, value in net.named_parameters()}
    running = {name: value.clone() for name, value in net.encoder.named_buffers() if "running_mean" in name}
    plain = net.on_train_batch_end

    def note(*args: Any) -> None:
        plain(*args)
        rates.append([group["lr"] for group in net.trainer.optimizers[0].param_groups])
        weights.append({name: bool((value != before[name]).any()) for name, value in net.named_parameters()})

    net.on_train_batch_end = note  # type: ignore[method-assign]
    loader = DataLoader(TensorDataset(image, torch.zeros(8)), batch_size=4)
    make_trainer(max_epochs=3, limit_val_batches=0).fit(net, loader)
    first, last = rates[0], rates[-1]
    assert first == [0, 0.03]
    assert last == [pytest.approx(0.03 * (1 + math.cos(math.pi * 5 / 6)) / 2)] * 2
    assert not any(changed for name, changed in weights[1].items() if name.startswith("encoder"))
    assert all(changed for name, changed in weights[1].items() if name.startswith("head.3"))
    assert all(changed for name, changed in weights[-1].items() if name.startswith("encoder") and "weight" in name)
    buffers = dict(net.encoder.named_buffers())
    assert any(not torch.equal(buffers[name], value) for name, value in running.items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"density": "kde", "normalize": False}, "density=kde needs features of length 1"),
        ({"shift": 1.0}, r"shift must be in \[0, 1\)"),
        ({"bank_size": 0}, "bank_size must be at least 1"),
        ({"patch_size": 8, "patch_stride": 9}, "patch_stride must be between 1 and patch_size=8"),
    ],
)
def test_impossible_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        model(**options)


@pytest.mark.parametrize(("count", "sentence"), [(1, "at least 2 training images"), (6, "covariance is singular")])
def test_too_few_images_or_equal_ones(count: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        measured(torch.full((count, 1, 16, 16), 0.5))
