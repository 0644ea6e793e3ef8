from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.augment.draws import ContentDraws, GeneratorDraws, image_keys
from anomaly_suite.augment.medmix import medmix
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods.pretraining.contrast import Candidates, center_loss, centered
from anomaly_suite.methods.pretraining.pmsacl import PMSACL, multi_class_contrast

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 2}
TAU = 0.2


def images(count: int, *, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def loader(image: Tensor, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(image, torch.zeros(len(image)).long()), batch_size=batch_size)


def make(**options: Any) -> PMSACL:
    seed_everything(0, verbose=False)
    return PMSACL(**{**TINY, **options})


def fit(trainer: Trainer, image: Tensor, *, batch_size: int = 4, resume: Path | None = None, **options: Any) -> PMSACL:
    model = make(**options)
    trainer.fit(model, loader(image, batch_size), ckpt_path=resume, weights_only=True)
    return model


class TestLosses:
    @pytest.mark.parametrize("denominator", ["proper", "literal"])
    def test_contrast_and_centres_as_the_card_prints_them(self, denominator: Any) -> None:
        feature = torch.randn(16, 5, dtype=torch.float64)
        center, label = torch.randn(4, 5, dtype=torch.float64), (torch.arange(8) % 4).repeat(2)
        direction = []
        for i in range(16):
            difference = feature[i] - center[label[i]]
            direction.append(difference / max(float(difference.norm()), 1e-6))
        total, distance, alpha = 0.0, 0.0, 5.0
        for i in range(16):
            positive, below = (i + 8) % 16, 0.0
            for j in range(16):
                if j != i:
                    same = label[i] == label[j] and not (denominator == "proper" and j == positive)
                    below += math.exp(float(direction[i] @ direction[j]) / ((alpha if same else 1) * TAU))
            total -= math.log(math.exp(float(direction[i] @ direction[positive]) / TAU) / below)
            distance += float(((feature[i] - center[label[i]]) ** 2).sum())
        c = Candidates(centered(feature, center[label]), label, torch.arange(8).repeat(2))
        found = multi_class_contrast(c, temperature=TAU, alpha=alpha, denominator=denominator)
        assert found.item() == pytest.approx(total / 16, abs=1e-8)
        assert center_loss(feature, center[label]).item() == pytest.approx(distance / 16, abs=1e-8)

    def test_gradients_reach_the_heads_of_their_losses_alone(self) -> None:
        model = make()
        model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        model.centers.copy_(torch.randn(4, 128))
        views = model.make_views(images(4), GeneratorDraws(torch.Generator().manual_seed(0)))
        assert views.image.shape == (32, 3, 16, 16)  # two views of four versions of four images
        terms = model.terms(model.encoder(views.image), views)
        assert set(terms) == {"contrast", "center", "augmentation"}
        assert not hasattr(model, "position_head")  # of the local run alone
        assert terms["augmentation"].item() == pytest.approx(1.386, abs=0.3)
        projection = model.projection(model.encoder(views.image))
        away = [projection[i] - model.centers[i % 4] for i in range(32)]  # versions of an image follow each other
        assert terms["center"].item() == pytest.approx(sum(float(each.square().sum()) for each in away) / 32, rel=1e-4)
        for name, term in terms.items():
            model.zero_grad()
            term.backward(retain_graph=True)
            assert all(
                (weight.grad is not None) == (name != "augmentation") for weight in model.projection.parameters()
            )
            assert (model.augmentation_head.weight.grad is not None) == (name == "augmentation")
        assert not model.centers.requires_grad

    def test_terms_can_be_left_out(self) -> None:
        model = make(contrast_weight=0.0, center_weight=0.0)
        assert set(dict(model.named_children())) == {"calibration", "encoder", "augmentation_head"}
        assert "centers" not in model.state_dict()
        with pytest.raises(ConfigError, match=r"warmup_epochs=1 trains the classifier.*; got augmentation_weight=0"):
            make(warmup_epochs=1, augmentation_weight=0.0)


class TestCenters:
    def test_they_are_the_means_of_the_classes_and_stay(self, trainer_in: Make) -> None:
        image = images(8)
        still = fit(trainer_in(limit_val_batches=0), image, lr=0.0, momentum=0.0)  # running statistics alone have moved
        fresh = make().eval()
        pool = image[image_keys(image).argsort()]
        expected = torch.zeros(4, 128)
        with torch.no_grad():
            for n in range(4):
                for i in range(8):
                    one, draws = image[i : i + 1], ContentDraws(image_keys(image[i : i + 1], n + 1))
                    own = (pool == one).flatten(1).all(1).nonzero()[0]
                    strong = medmix(one, torch.tensor([n]), draws, pool=pool, own=own).image
                    expected[n] += fresh.projection(fresh.encoder(fresh.weaken(strong, draws)))[0] / 8
        torch.testing.assert_close(still.centers, expected, rtol=1e-4, atol=1e-5)
        assert not still.centers[0].equal(still.centers[1])
        learned = fit(trainer_in(max_epochs=2, limit_val_batches=0), image, lr=0.05)
        assert torch.equal(learned.centers, still.centers)

    def test_division_into_batches_and_processes_does_not_matter(
        self, tmp_path: Path, trainer_in: Make, two_processes: dict[str, Any]
    ) -> None:
        image = images(10)
        one = fit(trainer_in(limit_val_batches=0), image, batch_size=5).centers
        other = fit(trainer_in(limit_val_batches=0), image.flip(0), batch_size=2).centers
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)  # convolutions of other batches round otherwise
        trainer = trainer_in(limit_val_batches=0, **two_processes)
        trainer.fit(make(), loader(image, 5))
        trainer.save_checkpoint(tmp_path / "two.ckpt")
        two = torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"]["centers"]
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)

    def test_they_survive_a_resume(self, tmp_path: Path, trainer_in: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        trainer = trainer_in(limit_val_batches=0)
        first = fit(trainer, images(8), lr=0.05)
        trainer.save_checkpoint(tmp_path / "run.ckpt")
        monkeypatch.setattr(PMSACL, "measure_centers", lambda self: pytest.fail("they were measured again"))
        resumed = fit(trainer_in(max_epochs=2, limit_val_batches=0), images(8), resume=tmp_path / "run.ckpt", lr=0.05)
        assert torch.equal(resumed.centers, first.centers)

    def test_after_a_warm_up(self, trainer_in: Make) -> None:
        early = fit(trainer_in(max_epochs=1, limit_val_batches=0), images(8), warmup_epochs=1, lr=0.05)
        assert early.centers.isnan().all()
        late = fit(trainer_in(max_epochs=2, limit_val_batches=0), images(8), warmup_epochs=1, lr=0.05)
        assert late.centers.isfinite().all()
        assert not torch.allclose(late.centers, fit(trainer_in(limit_val_batches=0), images(8)).centers)

    def test_patches_and_rotations(self, trainer_in: Make) -> None:
        options = {"patch_size": 16, "patches_per_image": 2, "position_pairs": 4, "strong": "rotation"}
        model = fit(trainer_in(limit_val_batches=0), images(4, size=40), **options)
        assert model.centers.isfinite().all()


def test_views_have_so_many_lesions_as_their_label(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = make(image_size=64), torch.zeros(6, 3, 64, 64)
    image += torch.linspace(0.1, 0.9, 6).view(-1, 1, 1, 1)  # of one colour each: what is cut from another shows
    monkeypatch.setattr(model, "weaken", lambda image, draws: image)
    views = model.make_views(image, GeneratorDraws(torch.Generator().manual_seed(0)))
    changed = (views.image - image[views.source]).abs().amax((1, 2, 3)) > 0
    assert torch.equal(changed, views.label > 0)
    share = (views.image != image[views.source]).any(1).float().mean((1, 2))
    means = [float(share[views.label == number].mean()) for number in range(4)]
    assert means == pytest.approx([0, 0.035, 0.07, 0.105], abs=0.02)  # 0.01 to 0.06 of the area each


def test_unseen_blobs_stand_out(trainer_in: Make) -> None:
    ramp = torch.linspace(0.2, 0.8, 16)
    smooth = torch.stack([ramp.expand(16, 16), ramp.view(-1, 1).expand(16, 16), 1 - ramp.expand(16, 16)])
    smooth = (smooth + 0.01 * torch.randn(48, 3, 16, 16)).clamp(0, 1)
    trainer = trainer_in(max_epochs=3, limit_val_batches=0, gradient_clip_val=5)
    model = fit(trainer, smooth[:32], batch_size=8, width=4).eval()
    broken = smooth[32:].clone()
    broken[:, :, 5:10, 3:8] = 1 - broken[:, :, 5:10, 3:8]
    with torch.no_grad():
        good, bad = model(smooth[32:])[0], model(broken)[0]
    assert (bad.unsqueeze(1) > good).float().mean() > 0.9


def test_the_exported_encoder_has_no_head(trainer_in: Make, tmp_path: Path) -> None:
    from anomaly_suite.nn.encoders import ImageEncoder

    trainer = trainer_in(limit_val_batches=0)
    model = fit(trainer, images(4))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    taken = ImageEncoder("residual", image_size=16, width=2).eval()
    taken.load_weights(str(tmp_path / "run.ckpt"))
    torch.testing.assert_close(F.normalize(taken(images(2))), model.eval().embed(images(2)))
