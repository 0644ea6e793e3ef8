"""The checks of the method's description, section 7, numbered as there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, WeightsError
from anomaly_suite.methods import CCD
from anomaly_suite.methods.one_class.panda import PANDA

IMAGES = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EWC = 1e4


def model(**options: Any) -> PANDA:
    torch.manual_seed(0)
    return PANDA(**{"encoder": "test_resnet", "encoder_weights": None, "bank_size": 30, **options})


def fit(net: PANDA, *, epochs: int = 1, image: Tensor = IMAGES, batch_size: int = 8) -> PANDA:
    loader = DataLoader(TensorDataset(image, torch.zeros(len(image))), batch_size=batch_size)
    make_trainer(max_epochs=epochs, limit_val_batches=0).fit(net, loader)
    return net.eval()


@pytest.fixture(scope="module")
def plain() -> PANDA:
    """One pass without learning, which most tests look at."""
    return fit(model(lr=0.0))


def test_1_and_7_without_learning_it_is_plain_neighbours(plain: PANDA) -> None:
    test = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        bank = model().eval().embed(IMAGES)
        torch.testing.assert_close(
            plain.bank[:24].sort(0).values, bank.sort(0).values, rtol=1e-4, atol=1e-6
        )  # other batches
        expected = ((model().eval().embed(test).unsqueeze(1) - bank) ** 2).sum(2).sort(1).values
        torch.testing.assert_close(plain(test)[0], expected[:, :2].sum(1), rtol=1e-3, atol=1e-7)
        # A member of the bank is at a distance of 0 from itself, so the next one alone counts.
        apart = ((bank[0] - bank[1:]) ** 2).sum(1).min().item()
        assert plain(IMAGES[:1])[0].item() == pytest.approx(apart, rel=1e-3)


def test_2_to_4_stages_that_move_the_loss_and_the_norm() -> None:
    net, before, losses, norms = model(), model().state_dict(), [], []
    plain = net.on_before_zero_grad

    def note(*args: Any) -> None:
        plain(*args)
        grads = [weight.grad for weight in net.parameters() if weight.grad is not None]
        norms.append(torch.stack([grad.norm() for grad in grads]).norm().item() if grads else 0.0)
        losses.append(float(net.trainer.callback_metrics.get("train/loss", torch.nan)))

    net.on_before_zero_grad = note  # type: ignore[method-assign]
    with torch.no_grad():
        start = net.train().embed(IMAGES)
    assert not any(part.training for part in net.encoder.modules())
    fit(net, epochs=3)
    assert 0.9e-3 < max(norms) <= 1e-3 + 1e-9
    torch.testing.assert_close(net.center, start.mean(0))
    with torch.no_grad():
        variance = start.var(0, correction=0).mean()
        torch.testing.assert_close(((start - net.center) ** 2).mean(), variance)
        assert ((net.embed(IMAGES) - net.center) ** 2).mean() < variance
    changed = {key for key, value in net.state_dict().items() if key in before and not torch.equal(value, before[key])}
    changed -= {"center", "bank"}
    assert changed
    assert all(key.startswith(("encoder.net.net.layer3", "encoder.net.net.layer4")) for key in changed)
    assert not any("running" in key for key in changed)
    torch.testing.assert_close(
        net.bank[:24].sum(0), net.embed(IMAGES).sum(0), rtol=1e-4, atol=1e-5
    )  # of the last weights


def test_the_first_loss_is_the_variance() -> None:
    logged: dict[str, float] = {}
    net = model()
    net.log = lambda name, value, **_: logged.setdefault(name, float(value))  # type: ignore[method-assign, assignment]
    loader = DataLoader(TensorDataset(IMAGES, torch.zeros(24)), batch_size=24)
    make_trainer(max_epochs=1, limit_val_batches=0).fit(net, loader)
    with torch.no_grad():
        assert logged["train/compactness"] == pytest.approx(
            model().eval().embed(IMAGES).var(0, correction=0).mean().item(), rel=1e-4
        )


def test_5_the_score_of_the_cards_bank(plain: PANDA) -> None:
    net = model(neighbours=2)
    net.bank = torch.tensor([[0.0], [3.0], [10.0]])
    net.embed = lambda _: torch.tensor([[1.0]])  # type: ignore[method-assign]
    assert net(IMAGES[:1])[0].item() == 5  # 1 to 0, and 4 to 3
    net.neighbours = 9  # more than there are
    assert net(IMAGES[:1])[0].item() == 1 + 4 + 81


def test_6_ewc_pulls_back_by_the_fisher_information(tmp_path: Path) -> None:
    parts = {name.removeprefix("net."): weight for name, weight in model().encoder.net.named_parameters()}
    fisher = {f"module.{name}": torch.rand_like(weight) for name, weight in parts.items()}
    fisher["module.fc.weight"] = torch.ones(3, 4)  # of the classifier, which is not here
    torch.save(fisher, tmp_path / "fisher.pt")
    net = fit(model(fisher=str(tmp_path / "fisher.pt"), lr=0.0))
    assert net.penalty().item() == 0
    adapted = {name: weight for name, weight in net.encoder.net.named_parameters() if weight.requires_grad}
    for step, (name, weight) in enumerate(adapted.items()):
        with torch.no_grad():
            weight += 0.1 * (step + 1)
        (grad,) = torch.autograd.grad(net.penalty(), [weight])
        expected = EWC * fisher[f"module.{name.removeprefix('net.')}"] * 0.1 * (step + 1)
        torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-2)
    slow = sum(
        float((fisher[f"module.{name.removeprefix('net.')}"] * (0.1 * (step + 1)) ** 2).sum())
        for step, name in enumerate(adapted)
    )
    assert net.penalty().item() == pytest.approx(EWC * slow / 2, rel=1e-3)
    torch.save({"layer3.0.conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="fisher must hold the Fisher information of every parameter"):
        fit(model(fisher=str(tmp_path / "other.pt")))


def test_8_the_bank_is_bounded_and_knows_no_order(plain: PANDA) -> None:
    first = fit(model(lr=0.0, bank_size=10)).bank
    second = fit(model(lr=0.0, bank_size=10), image=IMAGES.flip(0)).bank
    assert first.shape[0] == 10
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        together = plain(IMAGES[:6])[0]
        alone = torch.cat([plain(one)[0] for one in IMAGES[:6].split(1)])
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-7)
        plain.bank[:24] = plain.bank[:24].flip(0)
        torch.testing.assert_close(plain(IMAGES[:6])[0], together)


def test_a_bank_of_means() -> None:
    groups = torch.cat([torch.full((8, 3, 32, 32), value) for value in (0.1, 0.5, 0.9)])
    image = groups + 0.01 * torch.rand(24, 3, 32, 32)
    net = fit(model(lr=0.0, centroids=3), image=image)
    with torch.no_grad():
        expected = net.embed(image).view(3, 8, -1).mean(1)
    torch.testing.assert_close(
        net.bank[net.bank[:, 0].argsort()], expected[expected[:, 0].argsort()], rtol=1e-3, atol=1e-5
    )


def test_9_without_the_clip_features_collapse() -> None:
    image = IMAGES[:8, :, :16, :16] * torch.rand(
        8, 3, 1, 1
    )  # bright and dark ones, which even random features tell apart

    def kept(**options: Any) -> float:
        """Share of the features' variance that 20 epochs at a rate of 1 leave."""
        net = model(lr=1.0, **options)
        net.clip_gradients = lambda *_, **__: None  # type: ignore[method-assign, assignment] # the trainer's own, of which there is none
        with torch.no_grad():
            for name, weight in net.encoder.net.named_parameters():
                if name.endswith(("layer4.0.bn2.weight", "layer4.0.downsample.2.weight")):
                    weight.mul_(5)  # or the gradients of random features would be as small as the clip
            before = net.embed(image)
        optimizer, center = net.configure_optimizers(), before.mean(0)
        for batch in image.split(4) * 20:
            optimizer.zero_grad()
            ((net.embed(batch) - center) ** 2).mean().backward()
            net.configure_gradient_clipping(optimizer)
            optimizer.step()
        with torch.no_grad():
            return (net.embed(image).var(0).sum() / before.var(0).sum()).item()

    assert kept(clip=None) < 0.05
    assert kept() > 0.2


def test_10_more_noise_scores_higher() -> None:
    ramp = torch.linspace(0.2, 0.8, 32).expand(32, 3, 32, 32)
    normal = (ramp + 0.02 * torch.randn(32, 3, 32, 32)).clamp(0, 1)
    net = fit(model(), image=normal[:24])
    with torch.no_grad():
        noisy = [(normal[24:] + amount * torch.randn(8, 3, 32, 32)).clamp(0, 1) for amount in (0.0, 0.1, 0.3)]
        means = [net(image)[0].mean().item() for image in noisy]
    assert means == sorted(means)
    assert means[2] > 5 * means[0]


def test_it_goes_on_from_a_pretraining(tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = CCD(encoder="test_resnet", encoder_weights=None, image_size=32)
    trainer = make_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(first, DataLoader(TensorDataset(IMAGES, torch.zeros(24)), batch_size=8))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    net = fit(model(encoder_weights=str(tmp_path / "run.ckpt"), lr=0.0))
    with torch.no_grad():
        torch.testing.assert_close(net.embed(IMAGES), first.eval().encoder(IMAGES))
    with pytest.raises(WeightsError, match=r"must be built like the one it is loaded into, but net.net.conv1.weight"):
        fit(model(encoder="resnet18", encoder_weights=str(tmp_path / "run.ckpt")))


@pytest.mark.parametrize(
    ("encoder", "first"),
    [
        ("resnet18", "layer3.0.conv1.weight"),
        ("tf_efficientnet_lite0", "blocks.3.0.conv_pw.weight"),
        ("convnext_atto", "stages_2.downsample.0.weight"),
    ],
)
def test_the_stages_that_are_adapted(encoder: str, first: str) -> None:
    names = [name for name, weight in model(encoder=encoder).encoder.net.named_parameters() if weight.requires_grad]
    assert names[0] == f"net.{first}"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"neighbours": 0}, "neighbours must be at least 1"),
        ({"centroids": 0}, "centroids must be at least 1"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"encoder": "residual"}, "adapts the last stages of a timm network"),
        ({"encoder": "test_vit"}, "encoder must have weights in stages up to a stride of 8"),
    ],
)
def test_impossible_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        model(**options)
