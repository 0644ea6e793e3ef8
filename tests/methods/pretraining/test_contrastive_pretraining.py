from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.augment.draws import GeneratorDraws
from anomaly_suite.augment.strong import permute_halves
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import CCD
from anomaly_suite.methods.pretraining.contrastive_pretraining import Views

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 2}


def make(**options: Any) -> CCD:
    seed_everything(0, verbose=False)
    model = CCD(**{**TINY, **options})
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model


def draws() -> GeneratorDraws:
    return GeneratorDraws(Generator().manual_seed(0))


def brightness(count: int, size: int = 16) -> Tensor:
    """Images that are known by their brightness, a corner of which is dark."""
    image = torch.linspace(0.4, 1.0, count).view(-1, 1, 1, 1).repeat(1, 3, size, size)
    image[:, :, : size // 2, : size // 2] *= 0.2
    return image


@pytest.mark.parametrize(("strong", "versions"), [("permutation", "one"), ("permutation", "all"), ("rotation", "all"), ("rotation", "one")])  # fmt: skip
def test_labels_and_sources_stand_beside_their_views(
    strong: str, versions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(strong=strong, versions=versions)
    monkeypatch.setattr(model, "weaken", lambda image, draws: image)
    image = brightness(12)
    views = model.make_views(image, draws())
    items = 48 if versions == "all" else 12
    assert views.image.shape == (2 * items, 3, 16, 16)
    assert torch.bincount(views.label).tolist() == [items // 2] * 4  # 2 * items / 4
    for part in (views.label, views.source):
        assert torch.equal(part[:items], part[items:])
    torch.testing.assert_close(views.image.amax((1, 2, 3)), image.amax((1, 2, 3))[views.source])
    for row, label in enumerate(views.label.tolist()):  # where the dark corner is, tells the version
        corner = [bool(views.image[row, 0, r, c] < 0.3 * views.image[row].max()) for r in (0, -1) for c in (0, -1)]
        place = corner.index(True)
        if strong == "permutation":
            assert place == label
        else:  # counter-clockwise from the top left, or, mirrored before, from the top right
            assert place in ([0, 2, 3, 1][label], [1, 0, 2, 3][label])


def test_a_model_that_knows_the_truth_is_always_right() -> None:
    model = make(strong="permutation", num_strong=4)
    logged: dict[str, float] = {}
    model.log = lambda name, value: logged.update({name: float(value)})  # type: ignore[method-assign, assignment]
    views = model.make_views(torch.rand(8, 3, 16, 16), draws())
    truth = 50 * nn.functional.one_hot(views.label, 4).float()
    model.augmentation_head = nn.Identity()  # type: ignore[assignment]
    assert model.augmentation_loss(truth, views).item() < 1e-6
    assert logged["train/augmentation_accuracy"] == 1


def test_weak_views_come_after_strong_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make(), []
    monkeypatch.setattr(model, "weaken", lambda image, draws: seen.append(image) or image)
    image = torch.rand(4, 3, 16, 16)
    views = model.make_views(image, draws())
    assert torch.equal(seen[0], permute_halves(image, views.label[:4]).repeat(2, 1, 1, 1))


class TestHeads:
    def test_gradients_reach_the_heads_of_their_losses_alone(self) -> None:
        model = make(patch_size=16, patches_per_image=2, position_pairs=4)
        views = model.make_views(torch.rand(8, 3, 16, 16), draws())
        terms = model.terms(model.encoder(views.image), views)
        terms["position"] = model.position_loss(torch.rand(2, 3, 40, 40), draws())
        heads = {"contrast": model.projection, "augmentation": model.augmentation_head, "position": model.position_head}
        for name, term in terms.items():
            model.zero_grad()
            term.backward(retain_graph=True)
            for other, head in heads.items():
                reached = [weight.grad is not None and bool(weight.grad.any()) for weight in head.parameters()]
                assert reached == [other == name] * len(reached), (name, other)
            assert all(weight.grad is not None for weight in model.encoder.parameters())

    def test_losses_begin_at_chance(self) -> None:
        model = make(patch_size=16, position_pairs=64)
        views = model.make_views(torch.rand(32, 3, 16, 16), draws())
        with torch.no_grad():
            terms = model.terms(model.encoder(views.image), views)
            position = model.position_loss(torch.rand(4, 3, 40, 40), draws())
        assert terms["augmentation"].item() == pytest.approx(1.386, abs=0.3)
        assert position.item() == pytest.approx(2.079, abs=0.3)
        assert terms["contrast"].item() < 4.2  # log 63, and less for views that are alike

    def test_a_loss_of_weight_0_has_no_head(self) -> None:
        assert not hasattr(make(position_weight=1.0), "position_head")  # whole images
        assert not hasattr(make(augmentation_weight=0.0), "augmentation_head")
        model = make(contrast_weight=0.0)
        assert not hasattr(model, "projection")
        assert set(dict(model.named_children())) == {"calibration", "encoder", "augmentation_head"}

    def test_no_loss_at_all(self) -> None:
        with pytest.raises(
            ConfigError, match="CCD needs a loss; got a weight of 0 for contrast, augmentation, position"
        ):
            make(contrast_weight=0.0, augmentation_weight=0.0)

    def test_other_options_that_cannot_work(self) -> None:
        with pytest.raises(ConfigError, match="num_strong must be 2 to 4 for strong: permutation"):
            make(num_strong=5)
        with pytest.raises(ConfigError, match=r"crop_scale must be a smaller and a larger share; got \(1.0, 0.2\)"):
            make(crop_scale=(1.0, 0.2))


class Plain(CCD):
    """Views without chance, and a linear encoder: what is learned does not depend on how a batch is divided."""

    def __init__(self) -> None:
        super().__init__(**TINY, weight_decay=0.0)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 16))  # type: ignore[assignment]

    def make_views(self, image: Tensor, draws: Any, *, views: int = 2) -> Views:
        label, source = (image[:, 0, 0, 0] * 7).long() % 4, torch.arange(len(image))
        return Views(torch.cat([image, image.flip(3)]), label.repeat(2), source.repeat(2))

    def load_pretrained(self) -> None:
        pass

    def fit_statistics(self) -> None:
        self.feature_mean.zero_()


def fit_plain(file: Path, image: Tensor, batch_size: int, **options: Any) -> dict[str, Tensor]:
    seed_everything(0, verbose=False)
    model = Plain()
    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, **{"accelerator": "cpu", "devices": 1, **options},
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(image, torch.zeros(len(image)).long()), batch_size=batch_size))
    trainer.save_checkpoint(file)
    return torch.load(file, weights_only=True)["state_dict"]


def test_negatives_of_all_processes_with_their_gradients(tmp_path: Path, two_processes: dict[str, Any]) -> None:
    image = torch.rand(8, 3, 16, 16, generator=Generator().manual_seed(3))
    one = fit_plain(tmp_path / "one.ckpt", image, 8)
    two = fit_plain(tmp_path / "two.ckpt", image, 4, **two_processes)
    start = Plain().state_dict()
    for name in ("encoder.1.weight", "projection.2.weight", "augmentation_head.weight"):
        assert not torch.equal(one[name], start[name])
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)  # sums in another order
